"""Texts that may hold web addresses: a dot before the name of a domain, or between numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.vectors import WIDTH, below, equal, lowest

DOT = 46
BITS = 16  # of the table of names: 1,500 of them leave 98 of 100 slots free
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that every letter counts
_FACTOR, _SHIFT = np.uint64(_MULTIPLIER), np.uint64(64 - BITS)

Table = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Domains:
    """Names of domains: a table of hashes of those of ASCII letters in lower case, and the first
    bytes of all others."""

    hashes: Table
    others: Table


def prepare(names: Sequence[str]) -> Domains:
    """The names in the form that `may_hold_names` takes."""
    hashes, others = np.zeros(1 << BITS, np.bool_), np.zeros(256, np.bool_)
    for name in names:
        if name.isascii() and name.isalpha() and name.islower():
            state = 0
            for letter in name.encode():
                state = (state ^ letter) * _MULTIPLIER % (1 << 64)
            hashes[state >> (64 - BITS)] = True
        else:
            others[name.encode()[0]] = True
    return Domains(hashes, others)


def may_hold_names(texts: pa.Array, domains: Domains) -> npt.NDArray[np.bool_]:
    """Whether each text may hold a dot before one of the names that no letter, digit or _ follows.

    Texts that hold none are seldom among them; none that holds one is missed.
    """
    return _may_hold_names(*buffers_of(texts), domains.hashes, domains.others)


def hold_dotted_numbers(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each text holds a dot and one to three digits twice, a dot and a digit."""
    return _hold_dotted_numbers(*buffers_of(texts))


def hold_dots_between_digits(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each text holds a dot between two digits."""
    return _hold_dots_between_digits(*buffers_of(texts))


@nb.njit(cache=True, inline="always")
def _dots(data: Bytes, at: int, end: int) -> tuple[np.uint64, int]:
    """Which of the next bytes are dots, and how many bytes were looked at."""
    if at + WIDTH <= len(data):
        return equal(data, at, np.uint8(0), np.uint8(DOT)) & below(end - at), WIDTH
    return np.uint64(data[at] == DOT), 1


@nb.njit(cache=True, nogil=True)
def _may_hold_names(data: Bytes, offsets: Offsets, hashes: Table, others: Table) -> Table:
    out = np.zeros(len(offsets) - 1, np.bool_)
    for row in range(len(out)):
        at, end = offsets[row], offsets[row + 1]
        while at < end and not out[row]:
            bits, width = _dots(data, at, end)
            while bits:
                position = at + lowest(bits) + 1
                bits &= bits - np.uint64(1)
                if position < end and others[data[position]]:
                    out[row] = True
                state = np.uint64(0)
                while position < end and 97 <= data[position] <= 122:
                    state = (state ^ np.uint64(data[position])) * _FACTOR
                    position += 1
                if (
                    state
                    and hashes[state >> _SHIFT]
                    and not (position < end and _in_word(data[position]))
                ):
                    out[row] = True
            at += width
    return out


@nb.njit(cache=True, inline="always")
def _in_word(byte: int) -> bool:
    """Whether a byte is an ASCII letter in upper case, a digit or _."""
    return 65 <= byte <= 90 or 48 <= byte <= 57 or byte == 95


@nb.njit(cache=True, inline="always")
def _is_digit(data: Bytes, at: int, end: int) -> bool:
    return at < end and 48 <= data[at] <= 57


@nb.njit(cache=True, nogil=True)
def _hold_dotted_numbers(data: Bytes, offsets: Offsets) -> Table:
    out = np.zeros(len(offsets) - 1, np.bool_)
    for row in range(len(out)):
        at, end = offsets[row], offsets[row + 1]
        while at < end and not out[row]:
            bits, width = _dots(data, at, end)
            while bits:
                position = at + lowest(bits) + 1
                bits &= bits - np.uint64(1)
                numbers = 0
                while numbers < 2:
                    digits = 0
                    while digits < 3 and _is_digit(data, position, end):
                        position += 1
                        digits += 1
                    if digits == 0 or position >= end or data[position] != DOT:
                        break
                    position += 1
                    numbers += 1
                if numbers == 2 and _is_digit(data, position, end):
                    out[row] = True
            at += width
    return out


@nb.njit(cache=True, nogil=True)
def _hold_dots_between_digits(data: Bytes, offsets: Offsets) -> Table:
    out = np.zeros(len(offsets) - 1, np.bool_)
    for row in range(len(out)):
        begin, end = offsets[row], offsets[row + 1]
        at = begin
        while at < end and not out[row]:
            bits, width = _dots(data, at, end)
            while bits:
                position = at + lowest(bits)
                bits &= bits - np.uint64(1)
                if position > begin and _is_digit(data, position - 1, end):
                    if _is_digit(data, position + 1, end):
                        out[row] = True
            at += width
    return out
