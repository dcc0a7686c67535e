"""Cheap scans that find the texts which a costlier rule may change; no others need be read."""

from __future__ import annotations

from functools import cache

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, padded
from pipelines.kernels.repetition import next_newline
from pipelines.kernels.splitmix import mixed
from pipelines.kernels.vectors import PADDING, WIDTH, below, between, highest, lowest

_32 = np.uint64(32)


def have_long_runs(texts: pa.Array, *, most: int) -> npt.NDArray[np.bool_]:
    """Whether more than `most` bytes of each text have no ASCII white space or control character
    between them. No whitespace word of other texts has more code points."""
    data, offsets = buffers_of(texts)
    out = np.zeros(len(offsets) - 1, np.bool_)
    for part, part_offsets, rows in padded(data, offsets, PADDING):
        _have_long_runs(part, part_offsets, most, out[rows])
    return out


def may_repeat(texts: pa.Array, *, newlines: int, blank: bool) -> npt.NDArray[np.bool_]:
    """Whether a text may hold two units that are equal, stripped and in lower case.

    With `blank`, units of white space may be equal too; empty ones never are.

    Units are separated by `newlines` newlines. Compared are ASCII characters in lower case, without
    white space, and without k and i, to which other characters fold; what is equal by the full rule
    is equal so.
    """
    data, offsets = buffers_of(texts)
    out = np.zeros(len(offsets) - 1, np.bool_)
    for part, part_offsets, rows in padded(data, offsets, PADDING):
        _may_repeat(part, part_offsets, newlines, blank, _letter_keys(), out[rows])
    return out


@cache
def _letter_keys() -> npt.NDArray[np.uint64]:
    """A random number for each byte, equal for both cases of a letter; 0 for what is left out.

    A unit's key is the sum over its bytes, which takes a step of the processor for each; units of
    the same letters in another order are candidates too.
    """
    keys = np.zeros(256, np.uint64)
    bytes_ = np.arange(33, 127)
    folded = np.where((bytes_ >= 65) & (bytes_ <= 90), bytes_ + 32, bytes_)
    keys[33:127] = mixed(np.uint64(0), folded)
    keys[[ord(letter) for letter in "KIki"]] = 0
    return keys


@nb.njit(cache=True, nogil=True)
def _have_long_runs(data: Bytes, offsets: Offsets, most: int, out: npt.NDArray[np.bool_]) -> None:
    for row in range(len(out)):
        begin, end = offsets[row], offsets[row + 1]
        last = begin - 1  # the last byte that ends a run
        for at in range(begin, end, WIDTH):
            bits = between(data, at, np.uint8(0), np.uint8(32)) & below(end - at)
            if not bits:
                continue
            out[row] |= at + lowest(bits) - last - 1 > most
            last = at + highest(bits)
            while most < WIDTH and bits:  # runs within the block are shorter than it
                position = at + lowest(bits)
                bits &= bits - np.uint64(1)
                if bits:
                    out[row] |= at + lowest(bits) - position - 1 > most
            if out[row]:
                break
        out[row] |= end - last - 1 > most


@nb.njit(cache=True, nogil=True)
def _may_repeat(
    data: Bytes,
    offsets: Offsets,
    newlines: int,
    blank_counts: bool,
    letters: npt.NDArray[np.uint64],
    out: npt.NDArray[np.bool_],
) -> None:
    longest = np.int64(0)
    for row in range(len(out)):
        longest = max(longest, offsets[row + 1] - offsets[row])
    keys = np.empty(longest // 2 + 1, np.uint64)  # a unit has a byte, and a newline behind it
    table = np.empty(4 * len(keys) + 16, np.int64)
    for row in range(len(out)):
        position, end = offsets[row], offsets[row + 1]
        units, unclear = np.int64(0), np.int64(0)
        while position <= end:
            stop = next_newline(data, position, end, newlines)
            state = np.uint64(0)
            for k in range(position, stop):
                state += letters[data[k]]
            if state == 0:
                blank = True
                for k in range(position, stop):
                    blank &= data[k] <= 32
                unclear += not blank or (blank_counts and stop > position)
            else:
                keys[units] = state
                units += 1
            position = stop + (newlines if stop < end else 1)
        if unclear > 1:
            out[row] = True
            continue
        slots = np.int64(16)
        while slots < 2 * units:
            slots *= 2
        table[:slots] = -1
        for k in range(units):
            slot = np.int64((keys[k] ^ (keys[k] >> _32)) & np.uint64(slots - 1))
            while table[slot] >= 0 and keys[table[slot]] != keys[k]:
                slot = (slot + 1) & (slots - 1)
            if table[slot] >= 0:
                out[row] = True
                break
            table[slot] = k
