"""Masking of what identifies persons: e-mail addresses, phone numbers, IP addresses.

Like Dolma (Soldaini et al. 2024, section 5.2) and FineWeb (Penedo et al. 2024), by expressions; an
address that is no person's (a private network, an example) may be masked too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import Counted, Modifier
from pipelines.schema import STRING, TEXT
from pipelines.text.rewriting import rewritten

_EMAIL = re.compile(
    r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}"
    r"[A-Za-z0-9])?\b"
)
_PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[-. ]?)?(?:\(\d{3}\)[-. ]?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-])"
)
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")


class MaskPersonalData(Modifier, name="mask_personal_data"):
    """Write placeholders for e-mail addresses, phone numbers (North American form) and IPv4.

    Only public IP addresses are masked. Each kind is counted; an empty placeholder leaves it alone.
    """

    email: str = Field("|||EMAIL_ADDRESS|||", description="written for an e-mail address")
    phone: str = Field("|||PHONE_NUMBER|||", description="written for a phone number")
    ip: str = Field("|||IP_ADDRESS|||", description="written for a public IPv4 address")

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def modify(self, batch: Batch) -> Counted:
        counts = {"emails": 0, "phones": 0, "ips": 0}

        def rewrite(text: str) -> str:
            if self.email and "@" in text:
                text, found = _EMAIL.subn(lambda _: self.email, text)
                counts["emails"] += found
            if self.phone:
                text, found = _PHONE.subn(lambda _: self.phone, text)
                counts["phones"] += found
            if self.ip:
                text, found = _masked_ips(text, self.ip)
                counts["ips"] += found
            return text

        return Counted({TEXT: rewritten(batch.text, _candidates(batch.text), rewrite)}, counts)


def _masked_ips(text: str, placeholder: str) -> tuple[str, int]:
    count = 0

    def mask(found: re.Match[str]) -> str:
        nonlocal count
        try:
            public = ipaddress.ip_address(found.group(0)).is_global
        except ValueError:  # an octet above 255, or with leading zeros: a version, no address
            return found.group(0)
        count += public
        return placeholder if public else found.group(0)

    return _IP.sub(mask, text), count


@cache
def _hints() -> Any:
    digits = "0123456789"
    triples = [f"{d}{mark}" for d in digits for mark in ("-", ". ", ") ", ")-", ")")]
    pairs = [f"{a}{mark}{b}" for a in digits for mark in ". " for b in digits]
    return kernels.phrases.prepare(["@", *triples, *pairs], ignore_case=False)


def _candidates(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Texts with an @, or a digit before a separator."""
    return kernels.phrases.candidates(texts, _hints())  # type: ignore[no-any-return]
