"""Repeated lines, paragraphs and word n-grams of documents, equal to `pipelines.text.repetition`.

Units and n-grams are compared by 64-bit hashes: two different ones of a document collide with a
probability below 1e-12 for a million units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, padded
from pipelines.kernels.characters import BLOCKS, INDEX, Ints, _flags_at, _width
from pipelines.kernels.hashes import HASH_SEED, first_eight, inner_bytes
from pipelines.kernels.unicode_table import SPACE
from pipelines.kernels.vectors import PADDING, WIDTH, below, equal, lowest
from pipelines.kernels.words import Words

Codes = npt.NDArray[np.int8]
MULTIPLIER = np.uint64(0x9FB21C651E98DF25)  # odd, so that no bit is lost; xxh3's avalanche
_29, _32 = np.uint64(29), np.uint64(32)


@dataclass(frozen=True)
class Units:
    """Lines or paragraphs of each row: how many, their code points, and those of repeated ones.

    `copies` counts every copy of a unit that occurs more than once, `surplus` all but the first.
    """

    count: Ints
    characters: Ints
    copies: Ints
    copies_characters: Ints
    surplus: Ints
    surplus_characters: Ints

    def take(self, indices: npt.NDArray[np.int64]) -> Units:
        """The figures of some rows."""
        return Units(*(getattr(self, name)[indices] for name in self.__dataclass_fields__))

    def fraction(self, *, characters: bool, every_copy: bool) -> npt.NDArray[np.float64]:
        """The share of repeated units, or of the characters in them; 0 for a single unit."""
        if characters:
            part = self.copies_characters if every_copy else self.surplus_characters
            whole = self.characters
        else:
            part, whole = (self.copies if every_copy else self.surplus), self.count
        alone = (self.count <= 1) | (whole == 0)
        return np.where(alone, 0.0, part / np.maximum(whole, 1))


def lines(texts: pa.Array) -> Units:
    """The stripped, non-empty lines of each text."""
    return _counted(texts, 1)


def paragraphs(texts: pa.Array) -> Units:
    """The text between pairs of newlines, stripped, without empty ones."""
    return _counted(texts, 2)


def _counted(texts: pa.Array, newlines: int) -> Units:
    data, offsets = buffers_of(texts)
    figures = np.zeros((len(offsets) - 1, 6), np.int64)
    for part, part_offsets, rows in padded(data, offsets, PADDING):
        _units(part, part_offsets, INDEX, BLOCKS, newlines, figures[rows])
    return Units(*figures.T)


def first_ngram_failure(
    words: Words,
    most_common: dict[int, float],
    all_repeated: dict[int, float],
    *,
    every_copy: bool,
) -> Codes:
    """For each row the place of the first limit that it exceeds, -1 where it exceeds none.

    The limits are on shares of characters by n-gram size: `most_common` first, then `all_repeated`,
    each in the order given.
    """
    sizes = np.array([*most_common, *all_repeated], dtype=np.int64)
    limits = np.array([*most_common.values(), *all_repeated.values()], dtype=np.float64)
    return _ngram_failures(
        words.hash,
        words.length,
        words.begin,
        words.end,
        sizes,
        limits,
        len(most_common),
        every_copy,
    )


@nb.njit(cache=True, inline="always")
def _find(
    table: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], key: np.uint64, mask: int
) -> int:
    """The slot of a key in an open table of places in `keys` (-1 is free), or a free slot."""
    slot = np.int64((key ^ (key >> _32)) & np.uint64(mask))
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@nb.njit(cache=True)
def _table_size(count: int) -> int:
    size = np.int64(16)
    while size < 2 * count:
        size *= 2
    return size


@nb.njit(cache=True, inline="always")
def _space_at(
    data: Bytes, position: int, index: npt.NDArray[np.uint16], blocks: npt.NDArray[np.uint16]
) -> bool:
    """Whether the character that begins at a byte place is white space (str.isspace)."""
    byte = data[position]
    if byte < 0x80:
        return byte == 32 or (9 <= byte <= 13) or (28 <= byte <= 31)
    return (_flags_at(data, position, _width(byte), index, blocks) & SPACE) != 0


@nb.njit(cache=True, inline="always")
def _stripped(
    data: Bytes,
    first: int,
    last: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> tuple[int, int]:
    """The bytes first .. last without white space at both ends."""
    while first < last and _space_at(data, first, index, blocks):
        first += 1 if data[first] < 0x80 else _width(data[first])
    while last > first:
        position = last - 1
        while data[position] & 0xC0 == 0x80:
            position -= 1
        if not _space_at(data, position, index, blocks):
            break
        last = position
    return first, last


@nb.njit(cache=True, inline="always")
def _hash_range(data: Bytes, first: int, last: int) -> tuple[np.uint64, int]:
    """A hash of some bytes, eight at a time, and how many characters begin in them."""
    state = HASH_SEED ^ np.uint64(last - first)
    characters = last - first
    while first < last:
        word = first_eight(data, first, last - first)
        state = (state ^ word) * MULTIPLIER
        state ^= state >> _32
        characters -= inner_bytes(word)
        first += 8
    return state, characters


@nb.njit(cache=True, inline="always")
def next_newline(data: Bytes, position: int, end: int, newlines: int) -> int:
    """The next newline, or the first of the next two in a row; `end` when there is none."""
    while position < end:
        bits = equal(data, position, np.uint8(0), np.uint8(10))
        if newlines == 2:
            bits &= equal(data, position + 1, np.uint8(0), np.uint8(10))
        bits &= below(end - position + 1 - newlines)
        if bits:
            return position + lowest(bits)
        position += WIDTH
    return end


@nb.njit(cache=True, nogil=True)
def _units(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    newlines: int,
    out: Ints,
) -> None:
    longest = np.int64(0)
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    most = longest // 2 + 1  # units that are not empty, and a newline after each
    keys, sizes = np.empty(most, np.uint64), np.empty(most, np.int64)
    counts, table = np.empty(most, np.int64), np.empty(_table_size(most), np.int64)
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        units = np.int64(0)
        while position <= end:
            stop = next_newline(data, position, end, newlines)
            first, last = _stripped(data, position, stop, index, blocks)
            last_state, last_chars = _hash_range(data, first, last)
            position = stop
            position += newlines if position < end else 1
            if last_chars > 0:
                keys[units], sizes[units] = last_state, last_chars
                units += 1
        size = _table_size(units)
        table[:size] = -1
        _count_copies(keys, sizes, counts, table, units, size - 1, out[row])


@nb.njit(cache=True)  # a function of its own: in the loop above each look-up counts references
def _count_copies(
    keys: npt.NDArray[np.uint64],
    sizes: Ints,
    counts: Ints,
    table: Ints,
    units: int,
    mask: int,
    out: Ints,
) -> None:
    """The figures of `Units` of one row, whose units have these keys and sizes."""
    characters, copies, copies_characters = np.int64(0), np.int64(0), np.int64(0)
    surplus, surplus_characters = np.int64(0), np.int64(0)
    for k in range(units):
        characters += sizes[k]
        slot = _find(table, keys, keys[k], mask)
        if table[slot] < 0:
            table[slot] = k
            counts[k] = 1
        else:
            first = table[slot]
            counts[first] += 1
            added = np.int64(2) if counts[first] == 2 else np.int64(1)
            copies += added
            copies_characters += added * sizes[first]
            surplus += 1
            surplus_characters += sizes[first]
    out[0], out[1], out[2] = units, characters, copies
    out[3], out[4], out[5] = copies_characters, surplus, surplus_characters


@nb.njit(cache=True)
def _most(begin: Ints, end: Ints) -> int:
    """The largest number of words of a row."""
    most = np.int64(0)
    for row in range(len(begin)):
        most = max(most, end[row] - begin[row])
    return most


@nb.njit(cache=True, nogil=True)
def _ngram_failures(
    hashes: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.int32],
    begin: Ints,
    end: Ints,
    sizes: Ints,
    limits: npt.NDArray[np.float64],
    num_most_common: int,
    every_copy: bool,
) -> Codes:
    rows = len(begin)
    out = np.full(rows, -1, np.int8)
    most = _most(begin, end)
    grams = np.empty(most, np.uint64)
    before = np.zeros(most + 1, np.int64)
    counts = np.empty(most, np.int32)
    first_at = np.empty(most, np.int64)  # the place of the first equal n-gram
    again = np.zeros(most + 1, np.bool_)  # an n-gram of the size before that occurs again
    some = np.empty(most, np.int64)  # places whose n-grams may be repeated
    table = np.empty(_table_size(most), np.int64)
    for row in range(rows):
        words = end[row] - begin[row]
        first = begin[row]
        for k in range(words):
            before[k + 1] = before[k] + lengths[first + k]
        total = before[words]
        grown = np.int64(0)  # how many words the hashes in `grams` hold
        known = np.int64(0)  # the size that `again` describes; 0: none
        num_some = np.int64(0)
        for rule in range(len(sizes)):
            size = sizes[rule]
            num = words - size + 1
            if num < 2:
                continue
            if grown == 0 or grown > size:  # begin anew
                for k in range(words):
                    grams[k] = hashes[first + k]
                    some[k] = k
                grown, known, num_some = np.int64(1), np.int64(0), words
            # An n-gram is repeated only if both shorter ones at its ends are.
            kept = np.int64(0)
            for i in range(num_some):
                k = some[i]
                if k < num and (known == 0 or (again[k] and again[k + size - known])):
                    some[kept] = k
                    kept += 1
            num_some = kept
            if known > 0:
                for k in range(words):
                    again[k] = False
            for i in range(num_some):
                k = some[i]
                state = grams[k]
                for word in range(grown, size):
                    state = ((state ^ (state >> _29)) * MULTIPLIER) ^ hashes[first + k + word]
                grams[k] = state
            grown, known = size, size
            if num_some < 2:
                num_some = 0
                continue
            most_common = rule < num_most_common
            mask = _table_size(num_some) - 1
            table[: mask + 1] = -1
            top, longest = np.int64(1), np.int64(0)
            for i in range(num_some):
                k = some[i]
                again[k] = False
                slot = _find(table, grams, grams[k], mask)
                if table[slot] < 0:
                    table[slot] = k
                    counts[k] = 1
                    first_at[k] = k
                    continue
                entry = table[slot]
                first_at[k] = entry
                counts[entry] += 1
                again[entry] = again[k] = True
                if most_common:
                    chars = before[k + size] - before[k]
                    if counts[entry] > top:
                        top, longest = np.int64(counts[entry]), chars
                    elif counts[entry] == top:
                        longest = max(longest, chars)
            if most_common:
                if top < 2:
                    continue
                covered = longest * (top if every_copy else top - 1)
            else:
                covered = np.int64(0)
                until = np.int64(0)
                for i in range(num_some):
                    k = some[i]
                    if again[k] and (every_copy or first_at[k] != k):
                        covered += before[k + size] - before[max(k, until)]
                        until = k + size
            if covered / total > limits[rule]:
                out[row] = rule
                break
    return out
