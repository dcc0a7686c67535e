"""Word boundaries of UAX #29 (Unicode 16, rules WB1 to WB16).

Most text needs no table: of ASCII, the letters of Latin and Russian and the usual quotes and dashes
the words are bits of 64 bytes at a time, to behind the last blank. Tokens that hold other
characters are cut by the rules, one character after the other.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes, Offsets
from pipelines.kernels.characters import Hashes, Ints, _flags_at, _width, decode, flags_of
from pipelines.kernels.hashes import GROUP, measure
from pipelines.kernels.unicode_table import (
    ALNUM,
    CLASS_MASK,
    CLASSES,
    PICTOGRAPHIC,
    SPACE,
)
from pipelines.kernels.vectors import (
    WIDTH,
    below,
    blanks,
    digits,
    equal,
    highest,
    letters,
    letters_of_two,
    lowest,
    not_ascii,
    signs_of_three,
    signs_of_two,
    spaces,
)

_C = {name: np.int64(number) for name, number in CLASSES.items()}
OTHER, CR, LF, NEWLINE = _C["OTHER"], _C["CR"], _C["LF"], _C["NEWLINE"]
EXTEND, ZWJ, FORMAT, RI = _C["EXTEND"], _C["ZWJ"], _C["FORMAT"], _C["REGIONALINDICATOR"]
KATAKANA, HEBREW, ALETTER = _C["KATAKANA"], _C["HEBREWLETTER"], _C["ALETTER"]
SINGLE_QUOTE, DOUBLE_QUOTE, MIDNUMLET = _C["SINGLEQUOTE"], _C["DOUBLEQUOTE"], _C["MIDNUMLET"]
MIDLETTER, MIDNUM, NUMERIC = _C["MIDLETTER"], _C["MIDNUM"], _C["NUMERIC"]
EXTENDNUMLET, WSEGSPACE = _C["EXTENDNUMLET"], _C["WSEGSPACE"]

KEEP_ALNUM, KEEP_NOT_SPACE, KEEP_ALL = 0, 1, 2
_1, _2, _3 = np.uint64(1), np.uint64(2), np.uint64(3)


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


@nb.njit(cache=True, nogil=True)
def segment(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    keep: int,
    moved: int,
    count: int,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    """Segments of each row that `keep` keeps, with their hashes, behind `count` others; their
    places are those in the data and `moved`. Their number, or -1 when there is no room for them."""
    capacity = len(start)
    ascii_flags = np.empty(128, np.int64)
    for byte in range(128):
        ascii_flags[byte] = blocks[np.int64(index[0]) << 7 | byte]
    scratch, measured = np.empty((4, GROUP), np.uint64), count
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        position = begin
        while position < end:
            plain, begins, inner = _simple(data, position, end - position, keep)
            if count + WIDTH > capacity:
                return -1
            while begins:
                low = lowest(begins)
                begins &= begins - _1
                start[count] = position + low + moved
                stop[count] = start[count] + 1 + lowest(~(inner >> np.uint64(low) >> _1))
                count += 1
            position += plain
            if plain:
                continue
            until = _behind_token(data, position, end, index, blocks)
            count = _segment_by_rules(
                data, position, until, index, blocks, ascii_flags, keep, moved, start, stop, count
            )
            if count < 0:
                return -1
            position = until
        borders[row + 1] = count
        if count - measured >= GROUP:  # while their places are in the cache
            measure(data, moved, start, stop, length, hashes, measured, count, scratch)
            measured = count
    measure(data, moved, start, stop, length, hashes, measured, count, scratch)
    return count


@nb.njit(cache=True, inline="always")
def _simple(data: Bytes, at: int, size: int, keep: int) -> tuple[int, np.uint64, np.uint64]:
    """How many of the next bytes can be cut without the table, where kept segments begin in them,
    and which bytes continue one.

    These are simple characters up to the last blanks (marks may belong to those) or the end, `size`
    bytes on. A word of them is a run of letters, digits and _, with `'`, `.`,
    `:` and curly quotes between letters, with `'`, `.`, `,`, `;` and curly quotes between digits
    (WB5 to WB13b); any other character is a segment.
    """
    none, inside = np.uint8(0), below(size)
    wide = not_ascii(data, at) & inside
    letter, digit = letters(data, at) & inside, digits(data, at) & inside
    both = equal(data, at, none, np.uint8(39)) | equal(data, at, none, np.uint8(46))
    with_letters = both | equal(data, at, none, np.uint8(58))
    with_digits = both | equal(data, at, none, np.uint8(44)) | equal(data, at, none, np.uint8(59))
    signs, quotes = np.uint64(0), np.uint64(0)
    if wide:
        of_two = letters_of_two(data, at) & inside
        letter |= of_two | of_two << _1
        signs, quotes = signs_of_two(data, at), signs_of_three(data, at)
        curly = equal(data, at + 2, none, np.uint8(0x98)) | equal(
            data, at + 2, none, np.uint8(0x99)
        )
        wide &= ~(letter | signs | signs << _1 | quotes | quotes << _1 | quotes << _2)
        curly &= quotes
        within = curly & (letter << _1 & letter >> _3 | digit << _1 & digit >> _3)
        continued = signs << _1 | (quotes << _1 | quotes << _2)
        within |= within << _1 | within << _2
    else:
        within = continued = np.uint64(0)
    plain = lowest(wide) if wide else min(size, WIDTH)
    blank = blanks(data, at)
    if plain < size:
        cuts = blank & ~(blank << _1 | _1) & below(plain)
        plain = highest(cuts) if cuts else 0
    within |= with_letters & letter << _1 & letter >> _1
    within |= with_digits & digit << _1 & digit >> _1
    words = (letter | digit | equal(data, at, none, np.uint8(95)) | within) & inside
    inner = words & words << _1 | continued & ~words
    if keep == KEEP_ALNUM:
        begins = words & ~inner & (letter | digit)
    elif keep == KEEP_NOT_SPACE:
        no_break_space = signs & equal(data, at + 1, none, np.uint8(0xA0))
        begins = ~(inner | spaces(data, at) | no_break_space)
    else:
        space = equal(data, at, none, np.uint8(32))
        inner |= space & space << _1  # WB3d
        inner |= equal(data, at, none, np.uint8(10)) & equal(data, at, none, np.uint8(13)) << _1
        begins = ~inner
    return plain, begins & below(plain), inner & inside


@nb.njit(cache=True, inline="always")
def _behind_token(
    data: Bytes,
    position: int,
    end: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> int:
    """Where the blank is behind a token (before which blanks may be), and behind those after it
    that begin with a character which is not ASCII: text of other scripts is cut in one go. No
    other white space is before that blank, to which it might belong (WB3d)."""
    while True:
        while position < end and (data[position] == 32 or 9 <= data[position] <= 13):
            position += 1
        while position < end:
            blank = blanks(data, position)
            if blank:
                position += lowest(blank)
                break
            position += WIDTH
        if position >= end:
            return end
        if position + 1 >= end or data[position + 1] < 0x80:
            if data[position - 1] < 0x80 or not _is_wide_space(data, position, index, blocks):
                return position


@nb.njit(cache=True, inline="always")
def _is_wide_space(
    data: Bytes,
    behind: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> bool:
    """Whether the character of several bytes before a place is white space of UAX #29."""
    first = behind - 1
    while data[first] & 0xC0 == 0x80:
        first -= 1
    return (_flags_at(data, first, behind - first, index, blocks) & CLASS_MASK) == WSEGSPACE


@nb.njit(cache=True, inline="always")
def _is_alnum(byte: int) -> bool:
    return 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57


# Whole on purpose: one pass over the characters, with eight scalars that every branch changes.
@nb.njit(cache=True, inline="always")
def _segment_by_rules(
    data: Bytes,
    position: int,
    end: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    ascii_flags: Ints,
    keep: int,
    moved: int,
    start: Ints,
    stop: Ints,
    count: int,
) -> int:
    """Cut position .. end, where boundaries are, by the rules; the new count, -1 for no room."""
    capacity = len(start)
    before, previous, raw = OTHER, OTHER, OTHER
    odd = False
    first = position
    is_word = False
    while position < end:
        byte = data[position]
        if previous == ALETTER or previous == NUMERIC:  # run on over letters and digits
            while byte < 0x80 and _is_alnum(byte):
                before, previous = previous, ascii_flags[byte] & CLASS_MASK
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
        if position == first:
            border = False
        elif kind == ALETTER or kind == NUMERIC:
            if previous == ALETTER or previous == NUMERIC:
                border = False
            elif previous == WSEGSPACE and raw == WSEGSPACE:
                border = True
            else:
                border = _breaks(
                    before, previous, raw, kind, flags, odd, data, position + width, end, index,
                    blocks,
                )  # fmt: skip
        elif kind == WSEGSPACE:
            border = raw != WSEGSPACE
        elif kind == OTHER and raw != ZWJ:
            border = True
        else:
            border = _breaks(
                before, previous, raw, kind, flags, odd, data, position + width, end, index,
                blocks,
            )  # fmt: skip
        if border:
            if is_word:
                if count == capacity:
                    return -1
                start[count], stop[count] = first + moved, position + moved
                count += 1
            first, is_word = position, False
        if keep == KEEP_ALNUM:
            if position == first:
                is_word = (flags & ALNUM) != 0
        elif keep == KEEP_ALL or (flags & SPACE) == 0:
            is_word = True
        if EXTEND <= kind <= FORMAT and not (
            position == first or raw == CR or raw == LF or raw == NEWLINE
        ):  # WB4: skipped
            raw = kind
        else:
            odd = kind == RI and not (previous == RI and odd)
            before, previous, raw = previous, kind, kind
        position += width
    if is_word and position > first:
        if count == capacity:
            return -1
        start[count], stop[count] = first + moved, position + moved
        count += 1
    return count
