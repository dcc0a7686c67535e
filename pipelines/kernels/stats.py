"""What document rules measure, all in one pass over the bytes: words, lines, symbols.

Equal to `str.split`, `str.strip`, `str.count`, `str.isalpha` as the rules in
`pipelines.text.heuristics` use them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, padded
from pipelines.kernels.characters import BLOCKS, INDEX, Ints, _flags_at, _width
from pipelines.kernels.unicode_table import ALNUM, ALPHA
from pipelines.kernels.vectors import (
    PADDING,
    WIDTH,
    below,
    between,
    blanks,
    digits,
    equal,
    highest,
    letters,
    letters_of_two,
    lowest,
    not_ascii,
    ones,
    signs_of_three,
    signs_of_two,
    white_space,
)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_60, _61, _62, _63 = np.uint64(60), np.uint64(61), np.uint64(62), np.uint64(63)


@dataclass(frozen=True)
class Stats:
    """A row of figures for each document; the columns are those of `pipelines.kernels.columns`."""

    figures: Ints

    def take(self, indices: npt.NDArray[np.int64]) -> Stats:
        """The figures of some rows."""
        return Stats(self.figures[indices])

    def __getitem__(self, column: int) -> Ints:
        return self.figures[:, column]


def documents(texts: pa.Array) -> Stats:
    """The figures of each text.

    Words are those of str.split; FASTTEXT_WORDS those of fastText that begin with a letter or
    digit. Lines are separated by newlines, stripped, empty ones left out.
    """
    data, offsets = buffers_of(texts)
    figures = np.zeros((len(offsets) - 1, 13), np.int64)
    for part, part_offsets, rows in padded(data, offsets, PADDING):
        _documents(part, part_offsets, INDEX, BLOCKS, figures[rows])
    return Stats(figures)


# Whole on purpose: thirteen counts come from one pass; in separate passes the text would be read
# thirteen times. Numbers like `words` are bits of 64 bytes, whose ones are counted.
@nb.njit(cache=True, nogil=True)
def _documents(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    out: Ints,
) -> None:
    none, zero = np.uint8(0), np.uint64(0)
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        words, word_chars, letterless = np.int64(0), np.int64(0), np.int64(0)
        num_stops, seen_stops = np.int64(0), np.int64(0)
        hashes, dots, spaced, ellipses = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        lines, bullets, ends, fasttext = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        line_first = np.int64(-1)  # place of the line's first character that is not a space
        line_last = np.int64(-1)  # place behind the last one
        dots_free, spaced_free = begin, begin  # places before are part of a match
        outside, break_before = _1, _1  # whether white space, of Python and fastText, is before
        pending = zero  # 1 when the word that continues here has no letter so far
        next_blank, spread = white_space(data, begin, end, zero)
        for at in range(begin, end, WIDTH):
            inside = below(end - at)
            blank = next_blank
            next_blank, spread = white_space(data, at + WIDTH, end, spread)
            wide = not_ascii(data, at) & inside
            letter = letters(data, at)
            alnum = letter | digits(data, at)
            dot = equal(data, at, none, np.uint8(46)) & inside
            starts = ~blank & (blank << _1 | outside)
            breaks = blanks(data, at) | equal(data, at, none, none) | ~inside
            fast_starts = ~breaks & (breaks << _1 | break_before)
            if wide:
                inner = between(data, at, np.uint8(0x80), np.uint8(0xBF))
                of_two = letters_of_two(data, at)
                letter |= of_two
                alnum |= of_two
                dots_of_three = equal(data, at, none, np.uint8(0xE2)) & wide
                dots_of_three &= equal(data, at + 1, none, np.uint8(0x80))
                ellipses += ones(dots_of_three & equal(data, at + 2, none, np.uint8(0xA6)))
                known = inner | blank | of_two | signs_of_two(data, at) | signs_of_three(data, at)
                rest = wide & ~known
                while rest:
                    first = lowest(rest)
                    rest &= rest - _1
                    flags = _flags_at(data, at + first, _width(data[at + first]), index, blocks)
                    letter |= np.uint64((flags & ALPHA) != 0) << np.uint64(first)
                    alnum |= np.uint64((flags & ALNUM) != 0) << np.uint64(first)
                word_chars += ones(~blank & ~inner)
            else:
                word_chars += ones(~blank)
            words += ones(starts)
            fasttext += ones(fast_starts & alnum)
            hashes += ones(equal(data, at, none, np.uint8(35)) & inside)
            # Signs at the beginning of a word are added up: the sum carries to the first other one.
            signs = ~blank & ~letter
            total = signs + (starts & signs)
            carried = np.uint64(total < signs)
            total += pending
            carried |= np.uint64(total < pending)
            letterless += ones(total & ~signs & blank)
            pending = carried
            outside, break_before = blank >> _63, breaks >> _63
            ones_of, seen = _stop_words(data, at, starts, blank, next_blank)
            num_stops += ones_of
            seen_stops |= seen
            if dot:
                three = dot & equal(data, at + 2, none, np.uint8(46))
                while three:
                    position = at + lowest(three)
                    three &= three - _1
                    if position >= dots_free and position + 2 < end and data[position + 1] == 46:
                        dots += 1
                        dots_free = position + 3
                    elif position >= spaced_free and _is_spaced(data, position, end):
                        spaced += 1
                        spaced_free = position + 5
            newline = equal(data, at, none, np.uint8(10)) & inside
            rest = ~blank
            while newline:
                first = lowest(newline)
                newline &= newline - _1
                part = rest & below(first)
                if part:
                    line_first = at + lowest(part) if line_first < 0 else line_first
                    line_last = at + highest(part) + 1
                if line_first >= 0:
                    lines += 1
                    bullets += _is_bullet(data, line_first, line_last)
                    ends += _ends_in_ellipsis(data, line_first, line_last)
                line_first = np.int64(-1)
                rest &= ~below(first)
            if rest:
                line_first = at + lowest(rest) if line_first < 0 else line_first
                line_last = at + highest(rest) + 1
        if line_first >= 0:
            lines += 1
            bullets += _is_bullet(data, line_first, line_last)
            ends += _ends_in_ellipsis(data, line_first, line_last)
        letterless += np.int64(pending)
        out[row, 0], out[row, 1], out[row, 2] = words, word_chars, words - letterless
        out[row, 3], out[row, 4], out[row, 5] = num_stops, ones(np.uint64(seen_stops)), hashes
        out[row, 6], out[row, 7], out[row, 8] = dots, spaced, ellipses
        out[row, 9], out[row, 10], out[row, 11] = lines, bullets, ends
        out[row, 12] = fasttext


@nb.njit(cache=True, inline="always")
def _folds_to(data: Bytes, at: int, letter: int) -> np.uint64:
    return equal(data, at, np.uint8(0x20), np.uint8(letter))


@nb.njit(cache=True, inline="always")
def _stop_words(
    data: Bytes, at: int, starts: np.uint64, blank: np.uint64, next_blank: np.uint64
) -> tuple[int, int]:
    """How many words of a block are stop words, and which of these there are."""
    behind = blank >> _2 | next_blank << _62
    be = starts & _folds_to(data, at, 98) & _folds_to(data, at + 1, 101) & behind
    to = starts & _folds_to(data, at, 116) & _folds_to(data, at + 1, 111) & behind
    of = starts & _folds_to(data, at, 111) & _folds_to(data, at + 1, 102) & behind
    behind = blank >> _3 | next_blank << _61
    th = starts & _folds_to(data, at, 116) & _folds_to(data, at + 1, 104)
    the = th & _folds_to(data, at + 2, 101) & behind
    an = starts & _folds_to(data, at, 97) & _folds_to(data, at + 1, 110)
    and_ = an & _folds_to(data, at + 2, 100) & behind
    behind = blank >> _4 | next_blank << _60
    that = th & _folds_to(data, at + 2, 97) & _folds_to(data, at + 3, 116) & behind
    ha = starts & _folds_to(data, at, 104) & _folds_to(data, at + 1, 97)
    have = ha & _folds_to(data, at + 2, 118) & _folds_to(data, at + 3, 101) & behind
    wi = starts & _folds_to(data, at, 119) & _folds_to(data, at + 1, 105)
    with_ = wi & _folds_to(data, at + 2, 116) & _folds_to(data, at + 3, 104) & behind
    seen = 0
    for bit, word in enumerate((the, be, to, of, and_, that, have, with_)):
        seen |= np.int64(word != 0) << bit
    return ones(the | be | to | of | and_ | that | have | with_), seen


@nb.njit(cache=True, inline="always")
def _is_spaced(data: Bytes, position: int, end: int) -> bool:
    """Whether three dots with a space between each begin here."""
    return (
        position + 4 < end
        and data[position] == 46
        and data[position + 1] == 32
        and data[position + 2] == 46
        and data[position + 3] == 32
        and data[position + 4] == 46
    )


@nb.njit(cache=True, inline="always")
def _is_bullet(data: Bytes, first: int, last: int) -> bool:
    """Whether a line begins with U+25CF, U+2022, * or -."""
    byte = data[first]
    if byte == 42 or byte == 45:
        return True
    if byte != 0xE2:
        return False
    second, third = data[first + 1], data[first + 2]
    return (second == 0x97 and third == 0x8F) or (second == 0x80 and third == 0xA2)


@nb.njit(cache=True, inline="always")
def _ends_in_ellipsis(data: Bytes, first: int, last: int) -> bool:
    """Whether a line ends with three dots, spaced ones, or U+2026."""
    if last - first < 3:
        return False
    a, b, c = data[last - 3], data[last - 2], data[last - 1]
    if (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6):
        return True
    if last - first < 5 or not (a == 46 and b == 32 and c == 46):
        return False
    return data[last - 5] == 46 and data[last - 4] == 32
