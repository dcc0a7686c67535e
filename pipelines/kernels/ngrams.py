"""Word n-grams of texts as 64-bit numbers, and which of them stand in a given set.

Words are runs of letters and digits (str.isalnum). Case and composition are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.bloom import final
from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.unicode_table import ALNUM
from pipelines.kernels.words import BLOCKS, HASH_SEED, INDEX, Hashes, Ints, _flags_at, _width, mix

_P = np.uint64(0x9E3779B97F4A7C15)
_ASCII = np.array([chr(code).isalnum() for code in range(128)])


@dataclass(frozen=True)
class Grams:
    """A set of n-grams of several sizes: `number` of a gram is its place in the arrays."""

    gram: Hashes  # sorted within a size
    size: Ints  # the sizes there are, ascending
    border: Ints  # grams of size[i] stand in border[i] .. border[i + 1]
    table: Ints  # open addressing: the number of a gram, or -1


def words(texts: pa.Array) -> tuple[Hashes, Ints]:
    """A hash for each word, and where each row's words begin (and end), shape (rows + 1,)."""
    data, offsets = buffers_of(texts)
    # a word takes two bytes with the gap behind it, or the row ends
    capacity = int(offsets[-1] - offsets[0] + len(texts)) // 2 + 1
    hashes, borders = np.empty(capacity, np.uint64), np.zeros(len(offsets), np.int64)
    count = _words(data, offsets, INDEX, BLOCKS, _ASCII, hashes, borders)
    return hashes[:count], borders


def grams(hashes: Hashes, borders: Ints, size: int) -> tuple[Hashes, Ints]:
    """All n-grams of each row in order, and where each row's begin."""
    counts = np.maximum(np.diff(borders) - size + 1, 0)
    out_borders = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _grams(hashes, borders, size, out_borders), out_borders


def grams_of(by_size: dict[int, Hashes]) -> Grams:
    """A set from n-grams by their size; equal ones are one."""
    sizes = sorted(size for size, some in by_size.items() if len(some))
    parts = [np.unique(by_size[size]) for size in sizes]
    borders = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    gram = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    slots = 16
    while slots < 2 * len(gram):
        slots *= 2
    table = np.full(slots, -1, np.int64)
    _fill(gram, table)
    return Grams(gram, np.array(sizes, np.int64), borders, table)


def found(known: Grams, hashes: Hashes, borders: Ints) -> tuple[Ints, Ints]:
    """Which known n-grams each row has: row and the gram's number, every occurrence."""
    return _found(known.gram, known.size, known.border, known.table, hashes, borders)


@nb.njit(cache=True, nogil=True)
def _words(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    ascii_: npt.NDArray[np.bool_],
    hashes: Hashes,
    borders: Ints,
) -> int:
    count = 0
    for row in range(len(offsets) - 1):
        place, end = offsets[row], offsets[row + 1]
        inside = False
        state = HASH_SEED
        while place < end:
            byte = data[place]
            width = np.int64(1)
            if byte < 0x80:
                word = ascii_[byte]
            else:
                width = _width(byte)
                word = (_flags_at(data, place, width, index, blocks) & ALNUM) != 0
            if word:
                if not inside:
                    inside, state = True, HASH_SEED
                for k in range(place, place + width):
                    state = mix(state, data[k])
            elif inside:
                hashes[count] = final(state)
                count += 1
                inside = False
            place += width
        if inside:
            hashes[count] = final(state)
            count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _grams(hashes: Hashes, borders: Ints, size: int, out_borders: Ints) -> Hashes:
    out = np.empty(out_borders[-1], np.uint64)
    power = np.uint64(1)
    for _ in range(size):
        power = power * _P
    filled = 0
    for row in range(len(borders) - 1):
        state = np.uint64(0)
        for i in range(borders[row], borders[row + 1]):
            state = state * _P + hashes[i]
            if i - borders[row] >= size:
                state = state - hashes[i - size] * power
            if i - borders[row] >= size - 1:
                out[filled] = final(state + np.uint64(size))
                filled += 1
    return out


@nb.njit(cache=True, nogil=True)
def _fill(gram: Hashes, table: Ints) -> None:
    mask = np.uint64(len(table) - 1)
    for number in range(len(gram)):
        slot = np.int64(gram[number] & mask)
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = number


@nb.njit(cache=True, nogil=True)
def _found(
    gram: Hashes, sizes: Ints, limits: Ints, table: Ints, hashes: Hashes, borders: Ints
) -> tuple[Ints, Ints]:
    rows = [np.int64(0) for _ in range(0)]
    numbers = [np.int64(0) for _ in range(0)]
    mask = np.uint64(len(table) - 1)
    for which in range(len(sizes)):
        size = sizes[which]
        power = np.uint64(1)
        for _ in range(size):
            power = power * _P
        for row in range(len(borders) - 1):
            state = np.uint64(0)
            for i in range(borders[row], borders[row + 1]):
                state = state * _P + hashes[i]
                if i - borders[row] >= size:
                    state = state - hashes[i - size] * power
                if i - borders[row] < size - 1:
                    continue
                key = final(state + np.uint64(size))
                slot = np.int64(key & mask)
                while table[slot] >= 0:
                    number = table[slot]
                    if gram[number] == key and limits[which] <= number < limits[which + 1]:
                        rows.append(np.int64(row))
                        numbers.append(number)
                        break
                    slot = (slot + 1) & (len(table) - 1)
    return np.array(rows, dtype=np.int64), np.array(numbers, dtype=np.int64)
