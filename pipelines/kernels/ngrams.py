"""Word n-grams of texts as 64-bit numbers, and which of them are in a given set.

Words are runs of letters and digits (str.isalnum) in lower case, letter by letter as Arrow's
`utf8_lower` maps them. Composition is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.kernels.bloom import final
from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty
from pipelines.kernels.characters import BLOCKS, INDEX, Hashes, Ints, _width
from pipelines.kernels.hashes import HASH_SEED, mix
from pipelines.kernels.unicode_table import ALNUM, BLOCK_BITS

_P = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: steps far apart
_ASCII = np.array([ord(chr(code).lower()) * chr(code).isalnum() for code in range(128)], np.uint8)


@dataclass(frozen=True)
class Grams:
    """A set of n-grams of several sizes: `number` of a gram is its place in the arrays.

    Every gram ends in `size[0]` words; texts are looked up by those alone, and what is found is
    compared in full.
    """

    gram: Hashes  # sorted within a size
    size: Ints  # the sizes there are, ascending
    border: Ints  # grams of size[i] are in border[i] .. border[i + 1]
    table: Ints  # open addressing: the number of a gram, or -1
    bits: Hashes  # three bits for each ending in one of the words: most grams of a text end here


def words(texts: pa.Array) -> tuple[Hashes, Ints]:
    """A hash for each word, and where each row's words begin (and end), shape (rows + 1,).

    Texts are compared in form NFC: those with a character that may compose are normalized.
    """
    hashes, borders, composes = _words_of(texts, _letters(), checked=True)
    if composes.any():
        normal = pc.utf8_normalize(texts.filter(pa.array(composes)), form="NFC")
        others, other_borders, _ = _words_of(normal, _letters(), checked=False)
        hashes, borders = _filled_in(
            hashes, borders, np.flatnonzero(composes), others, other_borders
        )
    return hashes, borders


def _words_of(
    texts: pa.Array, letters: npt.NDArray[np.int32], *, checked: bool
) -> tuple[Hashes, Ints, npt.NDArray[np.bool_]]:
    """As `words`; with `checked`, a row that may compose has no words and is marked."""
    data, offsets = buffers_of(texts)
    # a word takes two bytes with the gap behind it, or the row ends
    capacity = int(offsets[-1] - offsets[0] + len(texts)) // 2 + 1
    hashes, borders = empty(capacity, np.uint64), np.zeros(len(offsets), np.int64)
    composes = np.zeros(len(offsets) - 1, np.bool_)
    count = _words(data, offsets, _ASCII, letters, checked, hashes, borders, composes)
    return hashes[:count], borders, composes


CODE = (1 << 21) - 1
IS_LETTER, MAY_COMPOSE = 1 << 21, 1 << 22


@lru_cache(maxsize=1)
def _letters() -> npt.NDArray[np.int32]:
    """Per code point the one that Arrow's `utf8_lower` makes of it (one for one), IS_LETTER where
    str.isalnum holds, and MAY_COMPOSE where form NFC may be another."""
    lower = np.arange(0x110000, dtype=np.int32)
    known = np.concatenate([lower[:0xD800], lower[0xE000:]])
    text = known.tobytes().decode("utf-32-le")
    lowered = pc.utf8_lower(pa.scalar(text, pa.large_string())).as_py()
    letters = lower.copy()
    letters[known] = np.frombuffer(lowered.encode("utf-32-le"), np.int32)
    blocks = INDEX[lower >> BLOCK_BITS].astype(np.int64) << BLOCK_BITS
    flags = BLOCKS[blocks | lower & ((1 << BLOCK_BITS) - 1)]
    letters[(flags & ALNUM) != 0] |= IS_LETTER
    letters[~_INERT] |= MAY_COMPOSE
    return letters


# Characters that are their own NFC form, have combining class 0 and compose with none before them
# (NFC_Quick_Check is Yes). Any text of such characters is in form NFC.
INERT_RANGES = (
    *((0x0000, 0x02FF), (0x0388, 0x03FF), (0x0400, 0x0482), (0x048A, 0x052F), (0x0531, 0x0556)),
    *((0x05D0, 0x05EA), (0x0600, 0x060F), (0x061B, 0x063A), (0x0640, 0x064A), (0x0660, 0x066F)),
    *((0x0671, 0x06D3), (0x0E01, 0x0E37), (0x0E3F, 0x0E47), (0x0E4F, 0x0E5B), (0x10D0, 0x10FF)),
    *(
        (0x1E00, 0x1EFF),
        (0x2002, 0x205E),
        (0x2070, 0x209C),
        (0x20A0, 0x20BF),
        (0x2100, 0x2125),
        (0x2132, 0x2328),
    ),
    *((0x232B, 0x2ADB), (0x2ADE, 0x2BFF), (0x3000, 0x3029), (0x3041, 0x3096), (0x30A1, 0x30FF)),
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


def grams_of(by_size: dict[int, Hashes], endings: Hashes | None = None) -> Grams:
    """A set from n-grams by their size; equal ones are one.

    `endings` are the last words of all of them, as many as the smallest size has; they are not
    needed where there is one size.
    """
    sizes = sorted(size for size, some in by_size.items() if len(some))
    parts = [np.unique(by_size[size]) for size in sizes]
    borders = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    gram = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    if endings is None:
        assert len(sizes) < 2
        endings = gram
    slots = 16
    while slots < 2 * len(gram):
        slots *= 2
    table = np.full(slots, -1, np.int64)
    # Eight to sixteen bits a gram, a sixteenth of the table: one look in fifty is in vain.
    bits = np.zeros(slots // 16, np.uint64)
    _fill(gram, endings, table, bits)
    return Grams(gram, np.array(sizes, np.int64), borders, table, bits)


def occurrences(known: Grams, hashes: Hashes, borders: Ints) -> tuple[Ints, Ints, Ints]:
    """Which known n-grams each row has: the row, the gram's number, and its first word in the row.

    Every occurrence, in order of row and of the gram's last word.
    """
    return _found(known.gram, known.size, known.border, known.table, known.bits, hashes, borders)


@nb.njit(cache=True, nogil=True)
def _words(
    data: Bytes,
    offsets: Offsets,
    ascii_: Bytes,
    letters: npt.NDArray[np.int32],
    checked: bool,
    hashes: Hashes,
    borders: Ints,
    composes: npt.NDArray[np.bool_],
) -> int:
    count = 0
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        inside = False
        state = HASH_SEED
        while position < end:
            byte = data[position]
            if byte < 0x80:
                byte = ascii_[byte]
                position += 1
                if byte != 0:
                    state = mix(state, byte)
                    inside = True
                elif inside:
                    hashes[count] = final(state)
                    count += 1
                    inside, state = False, HASH_SEED
                continue
            width = _width(byte)
            code = _code_at(data, position, width)
            letter = np.int64(letters[code])
            if checked and letter & MAY_COMPOSE:
                composes[row] = True
                break
            if letter & IS_LETTER:
                small = letter & CODE
                if small == code:
                    for k in range(position, position + width):
                        state = mix(state, data[k])
                else:
                    state = _mix_code(state, small)
                inside = True
            elif inside:
                hashes[count] = final(state)
                count += 1
                inside, state = False, HASH_SEED
            position += width
        if composes[row]:
            count = borders[row]
        elif inside:
            hashes[count] = final(state)
            count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _filled_in(
    hashes: Hashes, borders: Ints, rows: Ints, others: Hashes, other_borders: Ints
) -> tuple[Hashes, Ints]:
    """The words of all rows, those of `rows` from `others`."""
    out = np.empty(len(hashes) + len(others), np.uint64)
    out_borders = np.zeros(len(borders), np.int64)
    count = 0
    following = 0
    for row in range(len(borders) - 1):
        if following < len(rows) and rows[following] == row:
            for k in range(other_borders[following], other_borders[following + 1]):
                out[count] = others[k]
                count += 1
            following += 1
        else:
            for k in range(borders[row], borders[row + 1]):
                out[count] = hashes[k]
                count += 1
        out_borders[row + 1] = count
    return out, out_borders


@nb.njit(cache=True, inline="always")
def _code_at(data: Bytes, position: int, width: int) -> int:
    """The code point of 2 to 4 bytes."""
    code = np.int64(data[position]) & (0xFF >> (width + 1))
    for k in range(position + 1, position + width):
        code = code << 6 | np.int64(data[k]) & 0x3F
    return code


@nb.njit(cache=True)
def _mix_code(state: np.uint64, code: int) -> np.uint64:
    """The hash behind the UTF-8 bytes of a code point."""
    if code < 0x80:
        return mix(state, np.uint8(code))
    if code < 0x800:
        state = mix(state, np.uint8(0xC0 | code >> 6))
    else:
        if code < 0x10000:
            state = mix(state, np.uint8(0xE0 | code >> 12))
        else:
            state = mix(state, np.uint8(0xF0 | code >> 18))
            state = mix(state, np.uint8(0x80 | code >> 12 & 0x3F))
        state = mix(state, np.uint8(0x80 | code >> 6 & 0x3F))
    return mix(state, np.uint8(0x80 | code & 0x3F))


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
def _fill(gram: Hashes, endings: Hashes, table: Ints, bits: Hashes) -> None:
    mask = np.uint64(len(table) - 1)
    bit_mask = np.uint64(len(bits) - 1)
    for ending in endings:
        bits[np.int64(ending >> np.uint64(20) & bit_mask)] |= _bits_of(ending)
    for number in range(len(gram)):
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
    bits: Hashes,
    hashes: Hashes,
    borders: Ints,
) -> tuple[Ints, Ints, Ints]:
    rows = [np.int64(0) for _ in range(0)]
    numbers = [np.int64(0) for _ in range(0)]
    words = [np.int64(0) for _ in range(0)]
    bit_mask = np.uint64(len(bits) - 1)
    if len(sizes) > 0:
        least = sizes[0]
        power = np.uint64(1)
        for _ in range(least):
            power = power * _P
        for row in range(len(borders) - 1):
            state = np.uint64(0)
            begin = borders[row]
            for i in range(begin, borders[row + 1]):
                state = state * _P + hashes[i]
                if i - begin >= least:
                    state = state - hashes[i - least] * power
                if i - begin < least - 1:
                    continue
                key = final(state + np.uint64(least))
                marks = _bits_of(key)
                if bits[np.int64(key >> np.uint64(20) & bit_mask)] & marks != marks:
                    continue
                for which in range(len(sizes)):
                    size = sizes[which]
                    if i - begin < size - 1:
                        break
                    if which > 0:
                        key = _key_of(hashes, i, size)
                    number = _number_of(gram, limits, table, key, which)
                    if number >= 0:
                        rows.append(np.int64(row))
                        numbers.append(number)
                        words.append(np.int64(i - begin - size + 1))
    return (
        np.array(rows, dtype=np.int64),
        np.array(numbers, dtype=np.int64),
        np.array(words, dtype=np.int64),
    )


@nb.njit(cache=True, inline="always")
def _bits_of(key: np.uint64) -> np.uint64:
    """Three bits of 64, by the upper bits of an n-gram's number (the lower ones place it)."""
    bit, low = np.uint64(1), np.uint64(63)
    marks = bit << (key >> np.uint64(46) & low) | bit << (key >> np.uint64(52) & low)
    return marks | bit << (key >> np.uint64(58))


@nb.njit(cache=True)
def _key_of(hashes: Hashes, last: int, size: int) -> np.uint64:
    """The n-gram that ends at a word."""
    state = np.uint64(0)
    for k in range(last - size + 1, last + 1):
        state = state * _P + hashes[k]
    return final(state + np.uint64(size))


@nb.njit(cache=True, inline="always")
def _number_of(gram: Hashes, limits: Ints, table: Ints, key: np.uint64, which: int) -> int:
    """The number of an n-gram of a size, or -1."""
    number = np.int64(-1)
    slot = np.int64(key & np.uint64(len(table) - 1))
    while table[slot] >= 0:
        here = table[slot]
        if gram[here] == key and limits[which] <= here < limits[which + 1]:
            number = here
            break
        slot = (slot + 1) & (len(table) - 1)
    return number
