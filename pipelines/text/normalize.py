"""Texts and addresses in a form in which equal ones compare equal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Normalization = Literal["none", "whitespace_lowercase", "strip_lowercase", "url", "ccnet"]

_SCHEME = re.compile(r"https?://(?:www\.)?")
_TRACKING = re.compile(r"\?(?:utm_|ref|feed).*", re.DOTALL)

CCNET_PUNCTUATION = (
    "\uff0c\u3002\u3001\u201e\u201d\u201c\u00ab\u00bb\uff11\u300d\u300c\u300a\u300b\u00b4\u2236"
    "\uff1a\uff1f\uff01\uff08\uff09\uff1b\u2013\u2014\uff0e\uff5e\u2019\u2026\u2501\u3008\u3009"
    "\u3010\u3011\uff05\u25ba"
)
"""Punctuation that CCNet's normalizer knows (Wenzek et al. 2020); a full-width 1 is among it."""

_CONTROL = dict.fromkeys((*range(32), *range(127, 160)))
_DELETED = _CONTROL | {ord(mark): None for mark in CCNET_PUNCTUATION}
_ASCII = """, . , " " " " " " " " " " ' : : ? ! ( ) ; - _-_ ._ ~ ' ... - < > [ ] % -"""
CCNET_REPLACEMENTS = {
    ord(mark): ascii_mark.replace("_", " ")
    for mark, ascii_mark in zip(CCNET_PUNCTUATION, _ASCII.split(), strict=True)
}
"""What CCNet writes instead, before a language model reads the text."""


def normalize_url(url: str) -> str:
    """Without schemes and `www.` behind them, tracking parameters and slashes at the end.

    Everything from `?utm_`, `?ref` or `?feed` on goes, `?reference=` too.
    """
    return _TRACKING.sub("", _SCHEME.sub("", url)).rstrip("/")


def strip_lowercase(text: str) -> str:
    return text.strip().lower()


def whitespace_lowercase(text: str) -> str:
    return " ".join(text.lower().split())


def ccnet(text: str) -> str:
    """CCNet's form for comparing lines: lower case, digits as 0, no punctuation, no accents.

    (Wenzek et al. 2020, as DCLM applies it: listed punctuation is deleted, letters transliterated.)
    """
    from unidecode import unidecode

    return unidecode(digits_to_zero(text.strip().lower()).translate(_DELETED))


def digits_to_zero(text: str) -> str:
    """Every decimal digit of any script as 0."""
    return re.sub(r"\d", "0", text)


def ccnet_line(text: str) -> str:
    """The text as CCNet's language models read it: punctuation in ASCII, one line, case kept."""
    return digits_to_zero(text.strip()).translate(CCNET_REPLACEMENTS).translate(_CONTROL)


NORMALIZERS: dict[Normalization, Callable[[str], str]] = {
    "none": str,
    "whitespace_lowercase": whitespace_lowercase,
    "strip_lowercase": strip_lowercase,
    "url": normalize_url,
    "ccnet": ccnet,
}
