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
    r"(?<![\w.,/-])(?:\+[0-9]{1,3}[-. ]?)?(?:\([0-9]{3}\)[-. ]?|[0-9]{3}[-. ])"
    r"[0-9]{3}[-. ][0-9]{4}(?![\w-])"
)
_IP = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])")


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
        texts = batch.text
        candidates = kernels.phrases.candidates

        def emails(text: str) -> str:
            text, found = _EMAIL.subn(lambda _: self.email, text)
            counts["emails"] += found
            return text

        def phones(text: str) -> str:
            text, found = _PHONE.subn(lambda _: self.phone, text)
            counts["phones"] += found
            return text

        def ips(text: str) -> str:
            text, found = _masked_ips(text, self.ip)
            counts["ips"] += found
            return text

        if self.email:
            texts = rewritten(texts, candidates(texts, _at_sign()), emails)
        if self.phone:
            texts = rewritten(texts, kernels.phrases.phone_like(texts), phones)
        if self.ip:
            texts = rewritten(texts, kernels.phrases.dotted(texts)[1], ips)
        return Counted({TEXT: texts}, counts)


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
def _at_sign() -> Any:
    return kernels.phrases.prepare(["@"], ignore_case=False)
