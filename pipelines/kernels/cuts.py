"""Texts without some of their bytes: runs of newlines that are too long, marks of citations.

Places are found 64 bytes at a time; texts in which there are none are not copied, and an array
without any is given back as it is.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty
from pipelines.kernels.characters import BLOCKS, INDEX, Ints, _flags_at, _width
from pipelines.kernels.unicode_table import NUMERIC_DIGIT
from pipelines.kernels.vectors import WIDTH, below, equal, lowest

NEWLINE, OPEN, CLOSE = 10, 91, 93
AHEAD = 4  # newlines of a run that are looked for at once
_MARKS = (b"edit]", b"citation needed]")
_MARK_BYTES = np.frombuffer(b"".join(_MARKS), np.uint8)
_MARK_SIZES = np.array([len(mark) for mark in _MARKS])

Spans = npt.NDArray[np.int64]


def long_newlines(texts: pa.Array, *, most: int) -> pa.Array:
    """The texts with at most this many newlines in a row."""
    data, offsets = buffers_of(texts)
    return _without(texts, data, offsets, _newlines(data, offsets, most))


def citations(texts: pa.Array) -> pa.Array:
    """The texts without `[`, decimal digits (any number, of any script), `]`; `[edit]`;
    `[citation needed]`."""
    data, offsets = buffers_of(texts)
    spans = _citations(data, offsets, INDEX, BLOCKS, _MARK_BYTES, _MARK_SIZES)
    return _without(texts, data, offsets, spans)


def _without(texts: pa.Array, data: Bytes, offsets: Offsets, spans: Spans) -> pa.Array:
    """The texts without the bytes start .. stop of (row, start, stop)."""
    if not len(spans):
        return texts
    out = empty(int(offsets[-1] - offsets[0]), np.uint8)
    places = empty(len(offsets), np.int64)
    used = _copied(data, offsets, spans, out, places)
    buffers = [None, pa.py_buffer(places), pa.py_buffer(out[:used])]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


@nb.njit(cache=True, nogil=True)
def _copied(data: Bytes, offsets: Offsets, spans: Spans, out: Bytes, places: Offsets) -> int:
    filled, copied, span = 0, offsets[0], 0
    places[0] = 0
    for row in range(len(offsets) - 1):
        while span < len(spans) and spans[span, 0] == row:
            size = spans[span, 1] - copied
            out[filled : filled + size] = data[copied : copied + size]
            filled += size
            copied = spans[span, 2]
            span += 1
        places[row + 1] = filled + offsets[row + 1] - copied  # the rest is copied with what follows
    size = offsets[-1] - copied
    out[filled : filled + size] = data[copied : copied + size]
    return filled + size


@nb.njit(cache=True, nogil=True)
def _newlines(data: Bytes, offsets: Offsets, most: int) -> Spans:
    spans = np.empty((64, 3), np.int64)
    count = 0
    sought = min(most, AHEAD)
    safe = len(data) - WIDTH - AHEAD
    newline, no_mask = np.uint8(NEWLINE), np.uint8(0)
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        behind = at  # the place behind the last run
        while at < end:
            if at <= safe:
                bits = equal(data, at, no_mask, newline)
                for k in range(1, sought + 1):
                    if bits:
                        bits &= equal(data, at + k, no_mask, newline)
                bits &= below(end - at)
                width = WIDTH
            else:
                bits, width = np.uint64(data[at] == NEWLINE), 1
            while bits:
                first = at + lowest(bits)
                bits &= bits - np.uint64(1)
                if first < behind:
                    continue
                behind = first + 1
                while behind < end and data[behind] == NEWLINE:
                    behind += 1
                if behind - first > most:
                    spans = _room(spans, count)
                    spans[count] = row, first + most, behind
                    count += 1
            at += width
    return spans[:count]


@nb.njit(cache=True, nogil=True)
def _citations(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    marks: Bytes,
    sizes: Ints,
) -> Spans:
    spans = np.empty((64, 3), np.int64)
    count = 0
    safe = len(data) - WIDTH
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        while at < end:
            if at <= safe:
                bits = equal(data, at, np.uint8(0), np.uint8(OPEN)) & below(end - at)
                width = WIDTH
            else:
                bits, width = np.uint64(data[at] == OPEN), 1
            while bits:
                first = at + lowest(bits)
                bits &= bits - np.uint64(1)
                stop = _behind_citation(data, first + 1, end, index, blocks, marks, sizes)
                if stop:
                    spans = _room(spans, count)
                    spans[count] = row, first, stop
                    count += 1
            at += width
    return spans[:count]


@nb.njit(cache=True)
def _behind_citation(
    data: Bytes,
    begin: int,
    end: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    marks: Bytes,
    sizes: Ints,
) -> int:
    """The place behind the citation whose bracket opens before `begin`; 0 where there is none."""
    at = begin
    while at < end:
        if data[at] < 0x80:
            width, digit = np.int64(1), 48 <= data[at] <= 57
        else:
            width = _width(data[at])
            digit = (_flags_at(data, at, width, index, blocks) & NUMERIC_DIGIT) != 0
        if not digit:
            break
        at += width
    if at < end and data[at] == CLOSE:
        return at + 1
    first = 0
    for mark in range(len(sizes)):
        size = sizes[mark]
        if begin + size <= end:
            same = True
            for k in range(size):
                same &= data[begin + k] == marks[first + k]
            if same:
                return begin + size
        first += size
    return 0


@nb.njit(cache=True)
def _room(spans: Spans, count: int) -> Spans:
    if count < len(spans):
        return spans
    larger = np.empty((2 * count, 3), np.int64)
    larger[:count] = spans
    return larger
