"""Word n-grams of texts as 64-bit numbers, and which of them are in a given set.

Words are runs of letters and digits (str.isalnum). Case and composition are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.bloom import final
from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty
from pipelines.kernels.unicode_table import ALNUM
from pipelines.kernels.words import BLOCKS, HASH_SEED, INDEX, Hashes, Ints, _flags_at, _width, mix

_P = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: steps far apart
_ASCII = np.array([chr(code).isalnum() for code in range(128)])


@dataclass(frozen=True)
class Grams:
    """A set of n-grams of several sizes: `number` of a gram is its place in the arrays."""

    gram: Hashes  # sorted within a size
    size: Ints  # the sizes there are, ascending
    border: Ints  # grams of size[i] are in border[i] .. border[i + 1]
    table: Ints  # open addressing: the number of a gram, or -1
    bits: Bytes  # a bit for each gram, by other bits of its number: most grams of a text end here


def words(texts: pa.Array) -> tuple[Hashes, Ints]:
    """A hash for each word, and where each row's words begin (and end), shape (rows + 1,)."""
    data, offsets = buffers_of(texts)
    # a word takes two bytes with the gap behind it, or the row ends
    capacity = int(offsets[-1] - offsets[0] + len(texts)) // 2 + 1
    hashes, borders = empty(capacity, np.uint64), np.zeros(len(offsets), np.int64)
    count = _words(data, offsets, INDEX, BLOCKS, _ASCII, hashes, borders)
    return hashes[:count], borders


def composed(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each text is sure to be in form NFC already: nothing in it composes with anything.
    False where that is not known; then `utf8_normalize` decides."""
    data, offsets = buffers_of(texts)
    return _composed(data, offsets, _INERT)


# Characters that are their own NFC form, have combining class 0 and compose with none before them
# (NFC_Quick_Check is Yes). Any text of such characters is in form NFC.
INERT_RANGES = (
    *((0x0000, 0x02FF), (0x0388, 0x03FF), (0x0400, 0x0482), (0x048A, 0x052F), (0x0531, 0x0556)),
    *((0x05D0, 0x05EA), (0x0600, 0x060F), (0x061B, 0x063A), (0x0640, 0x064A), (0x0660, 0x066F)),
    *((0x0671, 0x06D3), (0x0E01, 0x0E37), (0x0E3F, 0x0E47), (0x0E4F, 0x0E5B), (0x10D0, 0x10FF)),
    *((0x1E00, 0x1EFF), (0x2002, 0x205E), (0x20A0, 0x20BF), (0x2100, 0x2125), (0x2132, 0x2328)),
    *((0x232B, 0x2ADB), (0x3001, 0x3029), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x30FC, 0x30FF)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFE0E, 0xFE0F), (0xFEFF, 0xFEFF), (0xFF01, 0xFF5E)),
    (0x1F000, 0x1FAFF),
)
_INERT = np.zeros(0x110000, np.bool_)
for _first, _last in INERT_RANGES:
    _INERT[_first : _last + 1] = True


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
    # Eight to sixteen bits a gram, a sixteenth of the table: one look in ten is in vain.
    bits = np.zeros(slots // 2, np.uint8)
    _fill(gram, table, bits)
    return Grams(gram, np.array(sizes, np.int64), borders, table, bits)


def occurrences(known: Grams, hashes: Hashes, borders: Ints) -> tuple[Ints, Ints]:
    """Which known n-grams each row has: row and the gram's number, every occurrence."""
    return _found(known.gram, known.size, known.border, known.table, known.bits, hashes, borders)


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
        position, end = offsets[row], offsets[row + 1]
        inside = False
        state = HASH_SEED
        while position < end:
            byte = data[position]
            width = np.int64(1)
            if byte < 0x80:
                word = ascii_[byte]
            else:
                width = _width(byte)
                word = (_flags_at(data, position, width, index, blocks) & ALNUM) != 0
            if word:
                if not inside:
                    inside, state = True, HASH_SEED
                for k in range(position, position + width):
                    state = mix(state, data[k])
            elif inside:
                hashes[count] = final(state)
                count += 1
                inside = False
            position += width
        if inside:
            hashes[count] = final(state)
            count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _composed(data: Bytes, offsets: Offsets, inert: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    is_composed = np.ones(len(offsets) - 1, np.bool_)
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            byte = np.int64(data[position])
            if byte < 0x80:
                position += 1
                continue
            if byte < 0xE0:
                code = (byte & 0x1F) << 6 | np.int64(data[position + 1]) & 0x3F
                position += 2
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6
                code |= np.int64(data[position + 2]) & 0x3F
                position += 3
            else:
                code = (byte & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
                code |= (np.int64(data[position + 2]) & 0x3F) << 6 | np.int64(
                    data[position + 3]
                ) & 0x3F
                position += 4
            if not inert[code]:
                is_composed[row] = False
                break
    return is_composed


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
def _fill(gram: Hashes, table: Ints, bits: Bytes) -> None:
    mask = np.uint64(len(table) - 1)
    bit_mask = np.uint64(8 * len(bits) - 1)
    for number in range(len(gram)):
        bit = np.int64(gram[number] >> np.uint64(20) & bit_mask)
        bits[bit >> 3] |= np.uint8(1 << (bit & 7))
        slot = np.int64(gram[number] & mask)
        while table[slot] >= 0:
            slot = (slot + 1) & (len(table) - 1)
        table[slot] = number


@nb.njit(cache=True, nogil=True)
def _found(
    gram: Hashes,
    sizes: Ints,
    limits: Ints,
    table: Ints,
    bits: Bytes,
    hashes: Hashes,
    borders: Ints,
) -> tuple[Ints, Ints]:
    rows = [np.int64(0) for _ in range(0)]
    numbers = [np.int64(0) for _ in range(0)]
    mask = np.uint64(len(table) - 1)
    bit_mask = np.uint64(8 * len(bits) - 1)
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
                bit = np.int64(key >> np.uint64(20) & bit_mask)
                if bits[bit >> 3] >> np.uint8(bit & 7) & 1 == 0:
                    continue
                slot = np.int64(key & mask)
                while table[slot] >= 0:
                    number = table[slot]
                    if gram[number] == key and limits[which] <= number < limits[which + 1]:
                        rows.append(np.int64(row))
                        numbers.append(number)
                        break
                    slot = (slot + 1) & (len(table) - 1)
    return np.array(rows, dtype=np.int64), np.array(numbers, dtype=np.int64)
