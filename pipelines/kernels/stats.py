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

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.characters import BLOCKS, INDEX, Ints, _flags_at, _width
from pipelines.kernels.unicode_table import ALNUM, ALPHA, SPACE

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOPS = np.array(
    [int.from_bytes(word.encode(), "little") | len(word) << 56 for word in STOP_WORDS],
    dtype=np.uint64,
)  # the letters, and how many there are


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
    return Stats(_documents(data, offsets, INDEX, BLOCKS, _STOPS))


# Whole on purpose: thirteen counts come from one pass; in separate passes the text would be read
# thirteen times.
@nb.njit(cache=True, nogil=True)
def _documents(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    stops: npt.NDArray[np.uint64],
) -> Ints:
    rows = len(offsets) - 1
    out = np.zeros((rows, 13), np.int64)
    ascii_flags = np.empty(128, np.int64)
    for byte in range(128):
        ascii_flags[byte] = blocks[np.int64(index[0]) << 7 | byte]
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        words, word_chars, with_letter = np.int64(0), np.int64(0), np.int64(0)
        num_stops, seen_stops = np.int64(0), np.int64(0)
        hashes, dots, spaced, ellipses = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        lines, bullets, ends, fasttext = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        in_word, letter = False, False
        word_bytes, key = np.int64(0), np.uint64(0)  # the word's first bytes in lower case
        after_break = True  # fastText's word begins here
        line_first = np.int64(-1)  # place of the line's first character that is not a space
        line_last = np.int64(-1)  # place behind the last one
        dots_free, spaced_free = position, position  # places before are part of a match
        while position <= end:
            if position < end:
                byte = data[position]
                if byte < 0x80:
                    width = np.int64(1)
                    flags = ascii_flags[byte]
                else:
                    width = _width(byte)
                    flags = _flags_at(data, position, width, index, blocks)
                space = (flags & SPACE) != 0
            else:
                byte, width, flags, space = np.uint8(10), np.int64(1), np.int64(0), True
            if space:
                if in_word:
                    words += 1
                    with_letter += letter
                    if 2 <= word_bytes <= 4:
                        key |= np.uint64(word_bytes) << np.uint64(56)
                        for k in range(len(stops)):
                            if stops[k] == key:
                                num_stops += 1
                                seen_stops |= 1 << k
                    in_word = False
                if byte == 10:  # a line ends (the text's end as well)
                    if line_first >= 0:
                        lines += 1
                        bullets += _is_bullet(data, line_first, line_last)
                        ends += _ends_in_ellipsis(data, line_first, line_last)
                    line_first = np.int64(-1)
                if byte == 32 or (9 <= byte <= 13):
                    after_break = True
                elif after_break:  # a word of fastText that begins with other white space
                    after_break = False
            else:
                if not in_word:
                    in_word, letter = True, False
                    word_bytes, key = np.int64(0), np.uint64(0)
                    if line_first < 0:
                        line_first = position
                line_last = position + width
                word_chars += 1
                letter = letter or (flags & ALPHA) != 0
                if word_bytes < 5:
                    low = np.uint64(byte | 0x20) if 65 <= byte <= 90 else np.uint64(byte)
                    key |= low << np.uint64(8 * word_bytes)
                    word_bytes += width
                if after_break:
                    if byte == 0:
                        pass
                    else:
                        fasttext += (flags & ALNUM) != 0
                        after_break = False
                elif byte == 0:
                    after_break = True
                if byte == 35:
                    hashes += 1
                elif byte == 46:
                    if position >= dots_free and position + 2 < end:
                        if data[position + 1] == 46 and data[position + 2] == 46:
                            dots += 1
                            dots_free = position + 3
                    if position >= spaced_free and position + 4 < end:
                        if (
                            data[position + 1] == 32
                            and data[position + 2] == 46
                            and data[position + 3] == 32
                            and data[position + 4] == 46
                        ):
                            spaced += 1
                            spaced_free = position + 5
                elif byte == 0xE2 and data[position + 1] == 0x80 and data[position + 2] == 0xA6:
                    ellipses += 1
            position += width
        distinct = np.int64(0)
        for k in range(len(stops)):
            distinct += (seen_stops >> k) & 1
        out[row, 0], out[row, 1], out[row, 2] = words, word_chars, with_letter
        out[row, 3], out[row, 4], out[row, 5] = num_stops, distinct, hashes
        out[row, 6], out[row, 7], out[row, 8] = dots, spaced, ellipses
        out[row, 9], out[row, 10], out[row, 11] = lines, bullets, ends
        out[row, 12] = fasttext
    return out


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
