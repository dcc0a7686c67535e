"""Words of UTF-8 text with their places, lengths and hashes, in one pass.

The word definitions of the platform are here, in one list:

| name | what a word is | who uses it |
| --- | --- | --- |
| `whitespace` | a run of characters that str.isspace says are none | most rules; str.split |
| `uax29` | a UAX #29 segment whose first character is alphanumeric | DCLM's repetition rules |
| `uax29_tokens` | a UAX #29 segment that is not all white space, punctuation too | BFF |
| `uax29_segments` | every UAX #29 segment | word counts that keep white space |
| `fasttext` | a run of bytes other than space, \\n \\r \\t \\v \\f \\0 | DCLM's word counts |

UTF-8 was validated by the reader. UAX #29 is implemented after the standard's rules WB1 to WB16
(Unicode 16); the classes come from the pinned table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty
from pipelines.kernels.unicode_table import (
    ALNUM,
    CLASS_MASK,
    CLASSES,
    PICTOGRAPHIC,
    SPACE,
    load_table,
)

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

INDEX, BLOCKS, UNICODE_VERSIONS = load_table()

_C = {name: np.int64(number) for name, number in CLASSES.items()}
OTHER, CR, LF, NEWLINE = _C["OTHER"], _C["CR"], _C["LF"], _C["NEWLINE"]
EXTEND, ZWJ, FORMAT, RI = _C["EXTEND"], _C["ZWJ"], _C["FORMAT"], _C["REGIONALINDICATOR"]
KATAKANA, HEBREW, ALETTER = _C["KATAKANA"], _C["HEBREWLETTER"], _C["ALETTER"]
SINGLE_QUOTE, DOUBLE_QUOTE, MIDNUMLET = _C["SINGLEQUOTE"], _C["DOUBLEQUOTE"], _C["MIDNUMLET"]
MIDLETTER, MIDNUM, NUMERIC = _C["MIDLETTER"], _C["MIDNUM"], _C["NUMERIC"]
EXTENDNUMLET, WSEGSPACE = _C["EXTENDNUMLET"], _C["WSEGSPACE"]

HASH_SEED = np.uint64(0x9E3779B97F4A7C15)  # not 0, or leading zero bytes would not count
HASH_PRIME = np.uint64(0x517CC1B727220A95)  # odd, so that no bit is lost; rustc's FxHash has it
_5, _59 = np.uint64(5), np.uint64(59)

KEEP_ALNUM, KEEP_NOT_SPACE, KEEP_ALL = 0, 1, 2


@dataclass(frozen=True)
class Words:
    """The words of each row: row i has the words begin[i] .. end[i] of the flat arrays.

    start, stop: byte places in the data; length: code points; hash: of the UTF-8 bytes.
    """

    start: Ints
    stop: Ints
    length: npt.NDArray[np.int32]
    hash: Hashes
    begin: Ints
    end: Ints
    data: Bytes

    def take(self, indices: npt.NDArray[np.int64]) -> Words:
        """The words of some rows."""
        begin, end = self.begin[indices], self.end[indices]
        return Words(self.start, self.stop, self.length, self.hash, begin, end, self.data)

    @property
    def counts(self) -> Ints:
        """Words per row."""
        return self.end - self.begin

    def strings(self, row: int) -> list[str]:
        """The words of one row, as text."""
        begin, end = int(self.begin[row]), int(self.end[row])
        if begin == end:
            return []
        first = int(self.start[begin])
        data = self.data[first : int(self.stop[end - 1])].tobytes()
        starts, stops = (self.start[begin:end] - first).tolist(), self.stop[begin:end] - first
        places = zip(starts, stops.tolist(), strict=True)
        if data.isascii():
            text = data.decode()
            return [text[start:stop] for start, stop in places]
        return [data[start:stop].decode() for start, stop in places]


def whitespace(texts: pa.Array) -> Words:
    """Words as Python's str.split finds them."""
    data, offsets = buffers_of(texts)
    return _words(_split_unicode, data, offsets, INDEX, BLOCKS)


def fasttext(texts: pa.Array) -> Words:
    """Words as fastText splits a line: at ASCII white space and NUL only."""
    data, offsets = buffers_of(texts)
    return _words(_split_bytes, data, offsets)


def uax29(texts: pa.Array) -> Words:
    """UAX #29 words whose first character is alphanumeric."""
    data, offsets = buffers_of(texts)
    return _words(_segment, data, offsets, INDEX, BLOCKS, KEEP_ALNUM)


def uax29_tokens(texts: pa.Array) -> Words:
    """UAX #29 segments other than white space, punctuation included."""
    data, offsets = buffers_of(texts)
    return _words(_segment, data, offsets, INDEX, BLOCKS, KEEP_NOT_SPACE)


def uax29_segments(texts: pa.Array) -> Words:
    """All UAX #29 segments, white space too: together they are the text."""
    data, offsets = buffers_of(texts)
    return _words(_segment, data, offsets, INDEX, BLOCKS, KEEP_ALL)


def _words(kernel: Callable[..., int], data: Bytes, offsets: Offsets, *options: object) -> Words:
    """Run a kernel over outputs large enough: it answers the number of words, or -1."""
    size = int(offsets[-1] - offsets[0])
    capacity = size // 4 + 16
    while True:
        start, stop = empty(capacity, np.int64), empty(capacity, np.int64)
        length, hashes = empty(capacity, np.int32), empty(capacity, np.uint64)
        borders = np.zeros(len(offsets), np.int64)
        count = kernel(data, offsets, *options, start, stop, length, hashes, borders)
        if count >= 0:
            break
        capacity = min(2 * capacity, size + 16)
    return Words(
        start[:count], stop[:count], length[:count], hashes[:count], borders[:-1], borders[1:], data
    )


@nb.njit(cache=True, inline="always")
def decode(data: Bytes, position: int) -> tuple[int, int]:
    """The code point at a byte place of valid UTF-8, and how many bytes it takes."""
    first = np.int64(data[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[position + 1]) & 0x3F), 2
    if first < 0xF0:
        code = (first & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6
        return code | (np.int64(data[position + 2]) & 0x3F), 3
    code = (first & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
    return code | (np.int64(data[position + 2]) & 0x3F) << 6 | (
        np.int64(data[position + 3]) & 0x3F
    ), 4


@nb.njit(cache=True, inline="always")
def flags_of(code: int, index: npt.NDArray[np.uint16], blocks: npt.NDArray[np.uint16]) -> int:
    """The 16 bits of a code point."""
    return np.int64(blocks[np.int64(index[code >> 7]) << 7 | code & 127])


@nb.njit(cache=True, inline="always")
def mix(state: np.uint64, byte: np.uint8) -> np.uint64:
    """The next state of the byte hash: rotate, xor, multiply."""
    return ((state << _5 | state >> _59) ^ np.uint64(byte)) * HASH_PRIME


@nb.njit(cache=True, nogil=True)
def _split_bytes(
    data: Bytes,
    offsets: Offsets,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    capacity = len(start)
    count = 0
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            byte = data[position]
            if byte == 32 or (9 <= byte <= 13) or byte == 0:
                position += 1
                continue
            first = position
            state = HASH_SEED
            chars = 0
            while position < end:
                byte = data[position]
                if byte == 32 or (9 <= byte <= 13) or byte == 0:
                    break
                state = mix(state, byte)
                chars += (byte & 0xC0) != 0x80
                position += 1
            if count == capacity:
                return -1
            start[count], stop[count], length[count], hashes[count] = first, position, chars, state
            count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _split_unicode(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    capacity = len(start)
    count = 0
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            first = np.int64(-1)
            state = HASH_SEED
            chars = 0
            while position < end:
                byte = data[position]
                if byte < 0x80:
                    if byte == 32 or (9 <= byte <= 13) or (28 <= byte <= 31):
                        if first >= 0:
                            break
                        position += 1
                        continue
                    if first < 0:
                        first = position
                    state = mix(state, byte)
                    position += 1
                    chars += 1
                    continue
                width = _width(byte)
                if _flags_at(data, position, width, index, blocks) & SPACE:
                    if first >= 0:
                        break
                    position += width
                    continue
                if first < 0:
                    first = position
                for k in range(position, position + width):
                    state = mix(state, data[k])
                position += width
                chars += 1
            if first >= 0:
                if count == capacity:
                    return -1
                start[count], stop[count], length[count], hashes[count] = (
                    first,
                    position,
                    chars,
                    state,
                )
                count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, inline="always")
def _width(byte: int) -> int:
    """Bytes of the character that begins with this byte (0x80 or above)."""
    return np.int64(2) + (byte >= 0xE0) + (byte >= 0xF0)


@nb.njit(cache=True, inline="always")
def _flags_at(
    data: Bytes,
    position: int,
    width: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> int:
    """The 16 bits of the character of two to four bytes at a place."""
    code = np.uint32(data[position]) & (np.uint32(0x7F) >> np.uint32(width))
    for k in range(position + 1, position + width):
        code = code << np.uint32(6) | (np.uint32(data[k]) & np.uint32(0x3F))
    high = np.uint32(index[code >> np.uint32(7)]) << np.uint32(7)
    return np.int64(blocks[high | (code & np.uint32(127))])


@nb.njit(cache=True, inline="always")
def _is_letter(kind: int) -> bool:
    return kind == ALETTER or kind == HEBREW


@nb.njit(cache=True, inline="always")
def _is_ignored(kind: int) -> bool:
    return kind == EXTEND or kind == FORMAT or kind == ZWJ


@nb.njit(cache=True)
def _next_kind(
    data: Bytes,
    position: int,
    end: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> int:
    """The class of the next character that WB4 does not skip; OTHER at the end."""
    while position < end:
        code, width = decode(data, position)
        kind = flags_of(code, index, blocks) & CLASS_MASK
        if not _is_ignored(kind):
            return kind
        position += width
    return OTHER


@nb.njit(cache=True)
def _breaks(
    before: int,
    previous: int,
    raw: int,
    kind: int,
    flags: int,
    odd: bool,
    data: Bytes,
    after: int,
    end: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> bool:
    """Whether there is a word boundary before a character of class `kind`.

    `raw` is the class of the character just before; `previous` and `before` are the last two
    classes after WB4; `odd` says that an odd number of regional indicators ends here.
    """
    if raw == CR and kind == LF:  # WB3
        return False
    if raw == CR or raw == LF or raw == NEWLINE:  # WB3a
        return True
    if kind == CR or kind == LF or kind == NEWLINE:  # WB3b
        return True
    if raw == ZWJ and flags & PICTOGRAPHIC:  # WB3c
        return False
    if raw == WSEGSPACE and kind == WSEGSPACE:  # WB3d
        return False
    if _is_ignored(kind):  # WB4
        return False
    if _is_letter(previous):
        if _is_letter(kind) or kind == NUMERIC or kind == EXTENDNUMLET:  # WB5, WB9, WB13a
            return False
        if kind == MIDLETTER or kind == MIDNUMLET or kind == SINGLE_QUOTE:  # WB6, WB7a
            if previous == HEBREW and kind == SINGLE_QUOTE:
                return False
            return not _is_letter(_next_kind(data, after, end, index, blocks))
        if previous == HEBREW and kind == DOUBLE_QUOTE:  # WB7b
            return _next_kind(data, after, end, index, blocks) != HEBREW
        return True
    if previous == NUMERIC:
        if kind == NUMERIC or _is_letter(kind) or kind == EXTENDNUMLET:  # WB8, WB10, WB13a
            return False
        if kind == MIDNUM or kind == MIDNUMLET or kind == SINGLE_QUOTE:  # WB12
            return _next_kind(data, after, end, index, blocks) != NUMERIC
        return True
    if previous == MIDLETTER or previous == MIDNUMLET or previous == SINGLE_QUOTE:
        if _is_letter(before) and _is_letter(kind):  # WB7
            return False
    if previous == MIDNUM or previous == MIDNUMLET or previous == SINGLE_QUOTE:
        if before == NUMERIC and kind == NUMERIC:  # WB11
            return False
    if previous == DOUBLE_QUOTE and before == HEBREW and kind == HEBREW:  # WB7c
        return False
    if previous == KATAKANA and (kind == KATAKANA or kind == EXTENDNUMLET):  # WB13, WB13a
        return False
    if previous == EXTENDNUMLET:  # WB13a, WB13b
        if kind == EXTENDNUMLET or _is_letter(kind) or kind == NUMERIC or kind == KATAKANA:
            return False
    return not (kind == RI and previous == RI and odd)  # WB15, WB16


# Whole on purpose: one pass over the characters, with ten scalars that every branch changes.
@nb.njit(cache=True, nogil=True)
def _segment(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    keep: int,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    capacity = len(start)
    ascii_flags = np.empty(128, np.int64)
    for byte in range(128):
        ascii_flags[byte] = blocks[np.int64(index[0]) << 7 | byte]
    letters = np.zeros(128, np.uint8)  # the class of ASCII letters and digits, 0 for others
    for byte in range(128):
        kind = ascii_flags[byte] & CLASS_MASK
        if kind == ALETTER or kind == NUMERIC:
            letters[byte] = kind
    count = 0
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        before, previous, raw = OTHER, OTHER, OTHER
        odd = False
        first = position
        is_word = False
        chars = 0
        state = HASH_SEED
        while position < end:
            byte = data[position]
            if previous == ALETTER or previous == NUMERIC:  # run on over letters and digits
                while byte < 0x80 and letters[byte]:
                    state = mix(state, byte)
                    chars += 1
                    before, previous = previous, np.int64(letters[byte])
                    raw = previous
                    position += 1
                    if position == end:
                        break
                    byte = data[position]
                if position == end:
                    break
            if byte < 0x80:
                width = np.int64(1)
                flags = ascii_flags[byte]
            else:
                width = _width(byte)
                flags = _flags_at(data, position, width, index, blocks)
            kind = flags & CLASS_MASK
            # Most characters are letters within a word, spaces, or ideographs: decided here.
            if kind == ALETTER or kind == NUMERIC:
                if chars == 0 or previous == ALETTER or previous == NUMERIC:
                    border = False
                elif previous == WSEGSPACE and raw == WSEGSPACE:
                    border = True
                else:
                    border = _breaks(
                        before, previous, raw, kind, flags, odd, data, position + width, end, index,
                        blocks,
                    )  # fmt: skip
            elif kind == WSEGSPACE:
                border = chars > 0 and raw != WSEGSPACE
            elif kind == OTHER and raw != ZWJ:
                border = chars > 0
            else:
                border = chars > 0 and _breaks(
                    before,
                    previous,
                    raw,
                    kind,
                    flags,
                    odd,
                    data,
                    position + width,
                    end,
                    index,
                    blocks,
                )
            if border:
                if is_word:
                    if count == capacity:
                        return -1
                    start[count], stop[count] = first, position
                    length[count], hashes[count] = chars, state
                    count += 1
                first, chars, state, is_word = position, 0, HASH_SEED, False
            if keep == KEEP_ALNUM:
                if chars == 0:
                    is_word = (flags & ALNUM) != 0
            elif keep == KEEP_ALL or (flags & SPACE) == 0:
                is_word = True
            state = mix(state, byte)
            for k in range(position + 1, position + width):
                state = mix(state, data[k])
            chars += 1
            if EXTEND <= kind <= FORMAT and not (
                border or chars == 1 or raw == CR or raw == LF or raw == NEWLINE
            ):  # WB4: skipped
                raw = kind
            else:
                odd = kind == RI and not (previous == RI and odd)
                before, previous, raw = previous, kind, kind
            position += width
        if is_word and chars > 0:
            if count == capacity:
                return -1
            start[count], stop[count], length[count], hashes[count] = first, position, chars, state
            count += 1
        borders[row + 1] = count
    return count
