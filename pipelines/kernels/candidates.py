"""Cheap scans that find the texts which a costlier rule may change; no others need be read."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.characters import Ints
from pipelines.kernels.hashes import HASH_SEED
from pipelines.kernels.repetition import MULTIPLIER

_32 = np.uint64(32)


def longest_runs(texts: pa.Array) -> Ints:
    """The most bytes of each text without ASCII white space or control characters between them.

    No whitespace word of the text has more code points.
    """
    return _longest_runs(*buffers_of(texts))


def may_repeat(texts: pa.Array, *, newlines: int, blank: bool) -> npt.NDArray[np.bool_]:
    """Whether a text may hold two units that are equal, stripped and in lower case.

    With `blank`, units of white space may be equal too; empty ones never are.

    Units are separated by `newlines` newlines. Compared are ASCII characters in lower case, without
    white space, and without k and i, to which other characters fold; what is equal by the full rule
    is equal so.
    """
    return _may_repeat(*buffers_of(texts), newlines, blank)


@nb.njit(cache=True, nogil=True)
def _longest_runs(data: Bytes, offsets: Offsets) -> Ints:
    rows = len(offsets) - 1
    out = np.zeros(rows, np.int64)
    for row in range(rows):
        longest, last = np.int64(0), offsets[row] - 1
        for position in range(offsets[row], offsets[row + 1]):
            if data[position] <= 32:
                longest = max(longest, position - last - 1)
                last = position
        out[row] = max(longest, offsets[row + 1] - last - 1)
    return out


@nb.njit(cache=True, nogil=True)
def _may_repeat(
    data: Bytes, offsets: Offsets, newlines: int, blank_counts: bool
) -> npt.NDArray[np.bool_]:
    rows = len(offsets) - 1
    out = np.zeros(rows, np.bool_)
    folded = np.zeros(256, np.uint8)  # 0: left out
    for byte in range(33, 127):
        folded[byte] = byte + 32 if 65 <= byte <= 90 else byte
    for byte in (73, 75, 105, 107):
        folded[byte] = 0
    keys = np.empty(256, np.uint64)
    table = np.empty(512, np.int64)
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        units, unclear = np.int64(0), np.int64(0)
        while position <= end:
            first, state, size, blank = position, HASH_SEED, np.int64(0), True
            while position < end:
                byte = data[position]
                if byte == 10 and (
                    newlines == 1 or (position + 1 < end and data[position + 1] == 10)
                ):
                    break
                blank &= byte <= 32
                if folded[byte]:
                    state = (state ^ np.uint64(folded[byte])) * MULTIPLIER
                    state ^= state >> _32
                    size += 1
                position += 1
            empty = position == first
            position += newlines if position < end else 1
            if size == 0:
                unclear += not blank or (blank_counts and not empty)
                continue
            if units == len(keys):
                larger = np.empty(2 * len(keys), np.uint64)
                larger[:units] = keys
                keys = larger
            keys[units] = state
            units += 1
        if unclear > 1:
            out[row] = True
            continue
        slots = np.int64(16)
        while slots < 2 * units:
            slots *= 2
        if slots > len(table):
            table = np.empty(slots, np.int64)
        table[:slots] = -1
        for k in range(units):
            slot = np.int64((keys[k] ^ (keys[k] >> _32)) & np.uint64(slots - 1))
            while table[slot] >= 0 and keys[table[slot]] != keys[k]:
                slot = (slot + 1) & (slots - 1)
            if table[slot] >= 0:
                out[row] = True
                break
            table[slot] = k
    return out
