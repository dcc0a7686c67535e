"""Masking of what identifies persons: e-mail addresses, phone numbers, IP addresses.

Like Dolma (Soldaini et al. 2024, section 5.2) and FineWeb (Penedo et al. 2024), by expressions; an
address that is not a person's (a private network, an example) may be masked too.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import Counted, Modifier
from pipelines.schema import STRING, TEXT
from pipelines.text.rewriting import rewritten

_ATOM = frozenset(string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}"
    r"[A-Za-z0-9])?\b"
)
_PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+[0-9]{1,3}[-. ]?)?(?:\([0-9]{3}\)[-. ]?|[0-9]{3}[-. ])"
    r"[0-9]{3}[-. ][0-9]{4}(?![\w-])"
)
# ITU-T E.123: a plus sign, then 8 to 15 digits in groups, a trunk prefix in parentheses among them.
_INTERNATIONAL = re.compile(r"(?<![\w.,/+-])\+[1-9](?:[-. ()/]{0,2}[0-9]){7,14}+(?![\w-])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:(?:\.[0-9]{1,3}){3})?(?![\w:])")
_UNICAST = ipaddress.IPv6Network("2000::/3")  # what is given out; the rest is local or reserved
_IP = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])")


class MaskPersonalData(Modifier, name="mask_personal_data"):
    """Write placeholders for e-mail addresses, phone numbers and IP addresses.

    By default as Dolma and FineWeb do: phone numbers of the North American form, IPv4. Only public
    IP addresses are masked. Each kind is counted; an empty placeholder leaves it alone.
    """

    email: str = Field("|||EMAIL_ADDRESS|||", description="written for an e-mail address")
    phone: str = Field("|||PHONE_NUMBER|||", description="written for a phone number")
    ip: str = Field("|||IP_ADDRESS|||", description="written for a public IPv4 address")
    phone_form: Literal["north_american", "international"] = Field(
        "north_american",
        description="what is a phone number; international: also a plus sign and 8 to 15 digits",
        exclude_if=lambda form: form == "north_american",
    )
    ipv6: bool = Field(
        False, description="mask public IPv6 addresses too", exclude_if=lambda masked: not masked
    )

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def modify(self, batch: Batch) -> Counted:
        counts = {"emails": 0, "phones": 0, "ips": 0}
        texts = batch.text
        candidates = kernels.phrases.candidates

        def emails(text: str) -> str:
            text, count = mask_emails(text, self.email)
            counts["emails"] += count
            return text

        def phones(text: str) -> str:
            text, count = _PHONE.subn(lambda _: self.phone, text)
            counts["phones"] += count
            return text

        def ips(text: str) -> str:
            text, count = _masked_ips(text, self.ip)
            counts["ips"] += count
            return text

        if self.email:
            texts = rewritten(texts, candidates(texts, _phrase("@")), emails)

        def international(text: str) -> str:
            text, count = _INTERNATIONAL.subn(lambda _: self.phone, text)
            counts["phones"] += count
            return text

        def ips_of_128_bits(text: str) -> str:
            text, count = _masked_ips(text, self.ip, _IPV6)
            counts["ips"] += count
            return text

        # International first: the North American rule would take the end of such a number.
        if self.phone and self.phone_form == "international":
            texts = rewritten(texts, candidates(texts, _phrase("+")), international)
        if self.phone:
            texts = rewritten(texts, kernels.phrases.phone_like(texts), phones)
        # IPv6 first: an address may end in the form of an IPv4 address.
        if self.ip and self.ipv6:
            texts = rewritten(texts, candidates(texts, _phrase(":")), ips_of_128_bits)
        if self.ip:
            texts = rewritten(texts, kernels.domains.hold_dots_between_digits(texts), ips)
        return Counted({TEXT: texts}, counts)


def mask_emails(text: str, placeholder: str) -> tuple[str, int]:
    r"""The text with a placeholder for each e-mail address, and their number.

    The part before the sign is that of `\b[atom]+(\.[atom]+)*@`, the longest that is there. It is
    looked for backwards from each sign: an expression that looks forward reads on to the next sign
    from every letter, which takes hours for a megabyte without spaces.
    """
    parts = []
    done = count = 0
    sign = text.find("@")
    while sign >= 0:
        begin = _address_begin(text, done, sign)
        domain = _DOMAIN.match(text, sign + 1) if begin >= 0 else None
        if domain is not None:
            parts += [text[done:begin], placeholder]
            done = domain.end()
            count += 1
        sign = text.find("@", max(sign + 1, done))
    return "".join([*parts, text[done:]]), count


def _address_begin(text: str, least: int, sign: int) -> int:
    """Where the address with this sign begins, at `least` or behind it; -1 where there is none."""
    begin = sign
    while begin > least:
        if text[begin - 1] in _ATOM:
            begin -= 1
        elif text[begin - 1] == "." and sign > begin > least + 1 and text[begin - 2] in _ATOM:
            begin -= 2
        else:
            break
    for start in range(begin, sign):
        # \b: of this character and the one before it, one belongs to a word.
        before = text[start - 1] if start else " "
        if text[start] != "." and _is_word(text[start]) != _is_word(before):
            return start
    return -1


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _masked_ips(text: str, placeholder: str, form: re.Pattern[str] = _IP) -> tuple[str, int]:
    count = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal count
        try:
            address = ipaddress.ip_address(match.group(0))
        except ValueError:  # an octet above 255, or with leading zeros: a version, no address
            return match.group(0)
        public = address.is_global and (address.version == 4 or address in _UNICAST)
        count += public
        return placeholder if public else match.group(0)

    return form.sub(mask, text), count


@cache
def _phrase(phrase: str) -> Any:
    return kernels.phrases.prepare([phrase], ignore_case=False)
