"""DataComp's uids: 32 hexadecimal digits as two numbers, and their order."""

from __future__ import annotations

import re

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.characters import Hashes, Ints

SUBSET = np.dtype([("f0", "<u8"), ("f1", "<u8")])
"""A subset file's record: the first 16 digits, the last 16."""

_DIGITS = np.full(256, 255, np.uint8)
for _value, _digit in enumerate(b"0123456789abcdef"):
    _DIGITS[_digit] = _value


_UID = re.compile("[0-9a-f]{32}")


def is_uid(text: str) -> bool:
    """Whether a text is a uid as every stage wants it: 32 lower-case hexadecimal digits."""
    return _UID.fullmatch(text) is not None


def halves(text: str) -> tuple[int, int]:
    """A uid as two numbers of 64 bits. ValueError for a text that is not one."""
    if not is_uid(text):
        raise ValueError(f"{text!r} is not a uid: expected 32 lower-case hexadecimal digits")
    return int(text[:16], 16), int(text[16:], 16)


def parse(texts: pa.Array) -> tuple[Hashes, Hashes, npt.NDArray[np.bool_]]:
    """High and low half of each uid, and which are not uids (not 32 lower-case digits, or null)."""
    null = texts.is_null().to_numpy(zero_copy_only=False)
    data, offsets = buffers_of(texts.fill_null("") if texts.null_count else texts)
    high, low, bad = _parse(data, offsets, _DIGITS)
    return high, low, bad | null


def order(high: Hashes, low: Hashes) -> Ints:
    """Positions that sort uids; which of equal ones comes first does not matter."""
    places = np.argsort(high)
    ranked = high[places]
    equal = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(equal):
        _settle(ranked, low, places, equal)
    return places


@nb.njit(cache=True, nogil=True)
def _parse(
    data: Bytes, offsets: Offsets, digits: npt.NDArray[np.uint8]
) -> tuple[Hashes, Hashes, npt.NDArray[np.bool_]]:
    rows = len(offsets) - 1
    high, low = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
    bad = np.zeros(rows, np.bool_)
    for row in range(rows):
        first = offsets[row]
        if offsets[row + 1] - first != 32:
            bad[row] = True
            continue
        wrong = np.uint8(0)
        value = np.uint64(0)
        for k in range(32):
            if k == 16:
                high[row], value = value, np.uint64(0)
            digit = digits[data[first + k]]
            wrong |= digit & np.uint8(240)
            value = value << np.uint64(4) | np.uint64(digit & np.uint8(15))
        low[row], bad[row] = value, wrong != 0
    return high, low, bad


@nb.njit(cache=True, nogil=True)
def _settle(ranked: Hashes, low: Hashes, places: Ints, equal: Ints) -> None:
    """Sort by the low half where high halves are equal: behind the places `equal`."""
    at = 0
    while at < len(equal):
        first = equal[at]
        last = first + 1
        while at + 1 < len(equal) and equal[at + 1] == last:
            at += 1
            last += 1
        for i in range(first + 1, last + 1):  # few: by insertion
            current = places[i]
            k = i
            while k > first and low[places[k - 1]] > low[current]:
                places[k] = places[k - 1]
                k -= 1
            places[k] = current
        at += 1
