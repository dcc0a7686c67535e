"""Lines of texts: what line rules measure of each, and texts without some of them.

A line is the text between newlines, as it is. When lines are dropped, the figures of those
that stay are carried along, so that rules in a row measure once and copy the text as rarely as can
be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty, padded
from pipelines.kernels.characters import BLOCKS, INDEX, Ints, _flags_at, _width
from pipelines.kernels.unicode_table import DIGIT, SPACE, UPPER
from pipelines.kernels.vectors import (
    PADDING,
    WIDTH,
    below,
    between,
    equal,
    lowest,
    not_ascii,
    ones,
    signs_of_three,
    signs_of_two,
    white_space,
)

Counts = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Lines:
    """The lines of each row: row i has the lines begin[i] .. end[i] of the flat arrays.

    start, stop: byte places in the data, without the newline. figures: code points, upper-case
    ones, digits (`str.isdigit`), words (`str.split`), an array (lines, 4) int32 with the columns
    of `pipelines.kernels.columns`.
    """

    start: Ints
    stop: Ints
    figures: npt.NDArray[np.int32]
    begin: Ints
    end: Ints
    data: Bytes

    def take(self, indices: npt.NDArray[np.int64]) -> Lines:
        """The lines of some rows."""
        begin, end = self.begin[indices], self.end[indices]
        return Lines(self.start, self.stop, self.figures, begin, end, self.data)

    def __getitem__(self, column: int) -> Counts:
        return self.figures[:, column]


class _Last:
    """The buffer of the text column that `without` wrote last, and its lines."""

    written: tuple[pa.Buffer, Lines] | None = None


def measured(texts: pa.Array) -> Lines:
    """The lines of each text; of a column that `without` has just written they are known."""
    data, offsets = buffers_of(texts)
    if _Last.written is not None and len(texts) and texts.offset == 0:
        buffer, lines = _Last.written
        bytes_of = texts.buffers()[2]
        if bytes_of is not None and bytes_of.address == buffer.address:
            if len(lines.begin) == len(texts):
                return lines
    capacity = int(offsets[-1] - offsets[0]) // 16 + len(offsets) + WIDTH
    while True:
        start, stop = empty(capacity, np.int64), empty(capacity, np.int64)
        figures = empty(4 * capacity, np.int32).reshape(capacity, 4)
        borders = np.zeros(len(offsets), np.int64)
        count = 0
        for part, part_offsets, rows in padded(data, offsets, PADDING):
            moved = int(offsets[rows.start] - part_offsets[0])
            ends = borders[rows.start : rows.stop + 1]
            places = (start, stop, figures, ends)
            count = _measure(part, part_offsets, INDEX, BLOCKS, moved, count, *places)
            if count < 0:
                break
        if count >= 0:
            break
        capacity *= 4
    return Lines(start[:count], stop[:count], figures[:count], borders[:-1], borders[1:], data)


def without(texts: pa.Array, lines: Lines, keep: npt.NDArray[np.bool_]) -> pa.Array:
    """The texts without the lines that are not kept; the same array when all of them are.

    `keep` has an entry per line of the flat arrays. A text left without lines is empty.
    """
    if keep.all():
        return texts
    rows = len(lines.begin)
    size = int(lines.stop.max(initial=0) - lines.start.min(initial=0)) + 1
    out = empty(size, np.uint8)
    kept = int(np.count_nonzero(keep))
    offsets = empty(rows + 1, np.int64)
    start, stop = empty(kept, np.int64), empty(kept, np.int64)
    borders = np.zeros(rows + 1, np.int64)
    used = _copy(
        *(lines.data, lines.start, lines.stop, lines.begin, lines.end),
        *(keep, out, offsets, start, stop, borders),
    )
    data_buffer = pa.py_buffer(out[:used])
    written = pa.Array.from_buffers(
        pa.large_string(), rows, [None, pa.py_buffer(offsets), data_buffer]
    )
    chosen = _chosen(lines.begin, lines.end, keep, kept)
    figures = lines.figures[chosen]
    carried = Lines(start, stop, figures, borders[:-1], borders[1:], out[:used])
    _Last.written = (data_buffer, carried)
    return written


def stripped(texts: pa.Array) -> pa.Array:
    """Each text as str.strip leaves it; the same array when that changes none."""
    data, offsets = buffers_of(texts)
    bounds = _bounds(data, offsets, INDEX, BLOCKS)
    sizes = bounds[:, 1] - bounds[:, 0]
    if (sizes == np.diff(offsets)).all():
        return texts
    out = empty(int(sizes.sum()), np.uint8)
    moved = np.zeros(len(offsets), np.int64)
    np.cumsum(sizes, out=moved[1:])
    _move(data, bounds, moved, out)
    buffers = [None, pa.py_buffer(moved), pa.py_buffer(out[: moved[-1]])]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def blank(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each text is nothing but white space."""
    data, offsets = buffers_of(texts)
    bounds = _bounds(data, offsets, INDEX, BLOCKS)
    return bounds[:, 0] == bounds[:, 1]  # type: ignore[no-any-return]


def endings(lines: Lines) -> npt.NDArray[np.int8]:
    """How each line ends, white space aside: 2 in an ellipsis, 1 in . ! ? or ", 0 otherwise."""
    return _endings(lines.data, lines.start, lines.stop, INDEX, BLOCKS)


def ends_with(lines: Lines, endings: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Whether each line ends, white space aside, with one of these (not empty) strings."""
    encoded = [ending.encode("utf-8") for ending in endings]
    sizes = np.array([len(ending) for ending in encoded], dtype=np.int64)
    flat = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return _ends_with(lines.data, lines.start, lines.stop, flat, sizes, INDEX, BLOCKS)


def per_row(lines: Lines, mask: npt.NDArray[np.bool_]) -> Ints:
    """How many lines of each row are in the mask."""
    before = np.concatenate([[0], np.cumsum(mask)])
    return before[lines.end] - before[lines.begin]  # type: ignore[no-any-return]


@nb.njit(cache=True, nogil=True)
def _ends_with(
    data: Bytes,
    start: Ints,
    stop: Ints,
    endings: Bytes,
    sizes: Ints,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> npt.NDArray[np.bool_]:
    out = np.zeros(len(start), np.bool_)
    for line in range(len(start)):
        first = start[line]
        last = _rstrip(data, first, stop[line], index, blocks)
        begin = 0
        for ending in range(len(sizes)):
            size = sizes[ending]
            if last - first >= size:
                equal = True
                for k in range(size):
                    if data[last - size + k] != endings[begin + k]:
                        equal = False
                        break
                if equal:
                    out[line] = True
                    break
            begin += size
    return out


@nb.njit(cache=True, inline="always")
def _is_space(
    data: Bytes,
    position: int,
    width: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> bool:
    byte = data[position]
    if byte < 0x80:
        return byte == 32 or (9 <= byte <= 13) or (28 <= byte <= 31)
    return (_flags_at(data, position, width, index, blocks) & SPACE) != 0


@nb.njit(cache=True)
def _rstrip(
    data: Bytes,
    start: int,
    stop: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> int:
    """The place behind the last character that is not a space; `start` when there is none."""
    while stop > start:
        position = stop - 1
        while (data[position] & 0xC0) == 0x80:
            position -= 1
        if not _is_space(data, position, stop - position, index, blocks):
            break
        stop = position
    return stop


@nb.njit(cache=True, nogil=True)
def _bounds(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> Ints:
    rows = len(offsets) - 1
    out = np.empty((rows, 2), np.int64)
    for row in range(rows):
        start = offsets[row]
        stop = _rstrip(data, start, offsets[row + 1], index, blocks)
        while start < stop:
            byte = data[start]
            width = np.int64(1) if byte < 0x80 else _width(byte)
            if not _is_space(data, start, width, index, blocks):
                break
            start += width
        out[row, 0], out[row, 1] = start, stop
    return out


@nb.njit(cache=True, nogil=True)
def _move(data: Bytes, bounds: Ints, moved: Ints, out: Bytes) -> None:
    for row in range(len(bounds)):
        out[moved[row] : moved[row + 1]] = data[bounds[row, 0] : bounds[row, 1]]


@nb.njit(cache=True, nogil=True)
def _endings(
    data: Bytes,
    start: Ints,
    stop: Ints,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> npt.NDArray[np.int8]:
    out = np.zeros(len(start), np.int8)
    for line in range(len(start)):
        first = start[line]
        last = _rstrip(data, first, stop[line], index, blocks)
        if last == first:
            continue
        byte = data[last - 1]
        if last - first >= 3:
            a, b = data[last - 3], data[last - 2]
            if (a == 46 and b == 46 and byte == 46) or (a == 0xE2 and b == 0x80 and byte == 0xA6):
                out[line] = 2
                continue
        if byte == 46 or byte == 33 or byte == 63 or byte == 34:
            out[line] = 1
    return out


@nb.njit(cache=True, nogil=True)
def _measure(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    moved: int,
    count: int,
    start: Ints,
    stop: Ints,
    figures: npt.NDArray[np.int32],
    borders: Ints,
) -> int:
    """Lines behind the first `count`; their places are those in the data and `moved`. The new
    count, or -1 when there is no room."""
    capacity = len(start)
    none, zero = np.uint8(0), np.uint64(0)
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        first = begin
        chars, upper, digits, words = 0, 0, 0, 0
        outside, spread = np.uint64(1), zero
        for at in range(begin, end, WIDTH):
            if count + WIDTH >= capacity:
                return -1
            rest = below(end - at)
            blank, spread = white_space(data, at, end, spread)
            starts = ~blank & (blank << np.uint64(1) | outside)
            outside = blank >> np.uint64(63)
            wide = not_ascii(data, at) & rest
            upper_bits = between(data, at, np.uint8(65), np.uint8(90))
            digit_bits = between(data, at, np.uint8(48), np.uint8(57))
            inner = zero
            if wide:
                inner = between(data, at, np.uint8(0x80), np.uint8(0xBF))
                unknown = wide & ~(
                    inner | blank | signs_of_two(data, at) | signs_of_three(data, at)
                )
                while unknown:
                    bit = lowest(unknown)
                    unknown &= unknown - np.uint64(1)
                    flags = _flags_at(data, at + bit, _width(data[at + bit]), index, blocks)
                    upper_bits |= np.uint64((flags & UPPER) != 0) << np.uint64(bit)
                    digit_bits |= np.uint64((flags & DIGIT) != 0) << np.uint64(bit)
            newline = equal(data, at, none, np.uint8(10)) & rest
            while newline:
                bit = lowest(newline)
                newline &= newline - np.uint64(1)
                part = rest & below(bit)
                figures[count, 0] = chars + ones(part & ~inner)
                figures[count, 1] = upper + ones(part & upper_bits)
                figures[count, 2] = digits + ones(part & digit_bits)
                figures[count, 3] = words + ones(part & starts)
                start[count], stop[count] = first + moved, at + bit + moved
                count += 1
                first = at + bit + 1
                chars, upper, digits, words = 0, 0, 0, 0
                rest &= ~below(bit + 1)
            chars += ones(rest & ~inner)
            upper += ones(rest & upper_bits)
            digits += ones(rest & digit_bits)
            words += ones(rest & starts)
        if count == capacity:
            return -1
        start[count], stop[count] = first + moved, end + moved  # of an empty text too
        figures[count, 0], figures[count, 1] = chars, upper
        figures[count, 2], figures[count, 3] = digits, words
        count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _copy(
    data: Bytes,
    start: Ints,
    stop: Ints,
    begin: Ints,
    end: Ints,
    keep: npt.NDArray[np.bool_],
    out: Bytes,
    offsets: Offsets,
    new_start: Ints,
    new_stop: Ints,
    borders: Ints,
) -> int:
    filled = np.int64(0)
    count = 0
    offsets[0] = 0
    for row in range(len(begin)):
        written = False
        line = begin[row]
        while line < end[row]:
            if not keep[line]:
                line += 1
                continue
            last = line  # a run of kept lines is copied at once
            while last + 1 < end[row] and keep[last + 1]:
                last += 1
            if written:
                out[filled] = 10
                filled += 1
            written = True
            source = start[line]
            shift = filled - source
            size = stop[last] - source
            out[filled : filled + size] = data[source : source + size]
            for k in range(line, last + 1):
                new_start[count], new_stop[count] = start[k] + shift, stop[k] + shift
                count += 1
            filled += size
            line = last + 1
        offsets[row + 1] = filled
        borders[row + 1] = count
    return filled


@nb.njit(cache=True, nogil=True)
def _chosen(begin: Ints, end: Ints, keep: npt.NDArray[np.bool_], kept: int) -> Ints:
    """The places of the kept lines of these rows."""
    chosen = np.empty(kept, np.int64)
    count = 0
    for row in range(len(begin)):
        for line in range(begin[row], end[row]):
            if keep[line]:
                chosen[count] = line
                count += 1
    return chosen[:count]
