"""Windows of k units (words, bytes) and the anchors that equal windows share.

A window's anchor is, of the m-grams inside it, the first with the least hash. Equal windows have
equal anchors, and neighbouring windows mostly share one, so about 2 of k - m + 2 places are anchors
(winnowing: Schleimer, Wilkerson, Aiken 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import pyarrow as pa

from pipelines.kernels import bloom
from pipelines.kernels.bloom import final
from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.characters import Hashes, Ints

# Odd, so that multiplying loses no bit: two hashes roll together and make a key of 128 bits.
_P1, _P2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_ADD = np.uint64(0x8EBC6AF09C88C6E3)
SEPARATOR = 0xFF  # never occurs in UTF-8 text


@dataclass(frozen=True)
class Places:
    """Places in rows with 128-bit keys; `route` is the first half of the anchor's key."""

    row: Ints
    unit: Ints
    key: Hashes  # shape (places, 2)
    route: Hashes


def byte_units(texts: pa.Array) -> tuple[Hashes, Ints, Ints]:
    """Every byte as a unit: a hash each, and where each row's begin and end."""
    data, offsets = buffers_of(texts)
    here = data[offsets[0] : offsets[-1]]
    borders = offsets - offsets[0]
    return here.astype(np.uint64) * _P2 + _ADD, borders[:-1], borders[1:]


def anchors(hashes: Hashes, begin: Ints, end: Ints, *, window: int, gram: int) -> Places:
    """The anchors of all windows of `window` units, each once, with the keys of their m-grams."""
    none = np.zeros(0, np.int64)
    places = _walk(hashes, begin, end, window, gram, True, none, np.zeros(len(begin) + 1, np.int64))
    return Places(*places)


def windows(
    hashes: Hashes, begin: Ints, end: Ints, *, window: int, gram: int, marked: Ints, border: Ints
) -> Places:
    """Windows whose anchor is marked: row i's are marked[border[i] .. border[i + 1]], sorted."""
    return Places(*_walk(hashes, begin, end, window, gram, False, marked, border))


def quotes(data: Bytes, start: Ints, stop: Ints, first: Ints, last: Ints) -> tuple[Bytes, Offsets]:
    """Words first .. last of each quote, a byte 255 behind each: equal if all words are equal."""
    return _quotes(data, start, stop, first, last)


def cut(data: Bytes, offsets: Offsets, start: Ints, stop: Ints, border: Ints) -> pa.Array:
    """The texts without the bytes start .. stop of row i's spans border[i] .. border[i + 1]."""
    out, places = bloom._cut(data, offsets, start, stop, border)
    return pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(places), pa.py_buffer(out)
    )


@nb.njit(cache=True, nogil=True)
def _rolled(hashes: Hashes, begin: int, units: int, width: int, high: Hashes, low: Hashes) -> None:
    """Both halves of the key of every run of `width` units."""
    power1 = power2 = np.uint64(1)
    for _ in range(width):
        power1 = power1 * _P1
        power2 = power2 * _P2
    state1 = state2 = np.uint64(0)
    for i in range(units):
        unit = final(hashes[begin + i])
        state1, state2 = state1 * _P1 + unit, state2 * _P2 + unit
        if i >= width:
            leaving = final(hashes[begin + i - width])
            state1, state2 = state1 - leaving * power1, state2 - leaving * power2
        if i >= width - 1:
            high[i - width + 1] = final(state1 + np.uint64(width))
            low[i - width + 1] = final(state2 ^ _ADD)


@nb.njit(cache=True, nogil=True)
def _walk(
    hashes: Hashes,
    begins: Ints,
    ends: Ints,
    window: int,
    gram: int,
    all_anchors: bool,
    marked: Ints,
    border: Ints,
) -> tuple[Ints, Ints, Hashes, Hashes]:
    longest = 1
    total = 0
    for row in range(len(begins)):
        longest = max(longest, ends[row] - begins[row])
        if all_anchors:
            total += max(0, ends[row] - begins[row] - window + 1)
        else:
            total += (border[row + 1] - border[row]) * (window - gram + 1)
    size = max(16, total // 8 if all_anchors else total)
    out_row, out_unit = np.empty(size, np.int64), np.empty(size, np.int64)
    out_key, out_route = np.empty((size, 2), np.uint64), np.empty(size, np.uint64)
    high, low = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    whole_high = np.empty(longest if not all_anchors else 1, np.uint64)
    whole_low = np.empty(longest if not all_anchors else 1, np.uint64)
    queue = np.empty(longest, np.int64)
    reach = window - gram + 1
    count = 0
    for row in range(len(begins)):
        units = ends[row] - begins[row]
        if units < window or (not all_anchors and border[row] == border[row + 1]):
            continue
        _rolled(hashes, begins[row], units, gram, high, low)
        if not all_anchors:
            _rolled(hashes, begins[row], units, window, whole_high, whole_low)
        mark = border[row]
        head = tail = 0  # queue[head:tail]: places whose hashes rise, the least first
        before = -1
        for i in range(units - gram + 1):
            while tail > head and high[queue[tail - 1]] > high[i]:
                tail -= 1
            queue[tail] = i
            tail += 1
            at = i - reach + 1  # the window that ends with this m-gram
            if at < 0:
                continue
            if queue[head] < at:
                head += 1
            anchor = queue[head]
            if all_anchors:
                if anchor == before:
                    continue
                before = anchor
            else:
                while mark < border[row + 1] and marked[mark] < anchor:
                    mark += 1
                if mark == border[row + 1]:
                    break
                if marked[mark] != anchor:
                    continue
            if count == len(out_row):
                out_row, out_unit = _grown(out_row), _grown(out_unit)
                out_route = _grown(out_route)
                longer = np.empty((2 * count, 2), np.uint64)
                longer[:count] = out_key
                out_key = longer
            out_row[count], out_route[count] = row, high[anchor]
            if all_anchors:
                out_unit[count] = anchor
                out_key[count, 0], out_key[count, 1] = high[anchor], low[anchor]
            else:
                out_unit[count] = at
                out_key[count, 0], out_key[count, 1] = whole_high[at], whole_low[at]
            count += 1
    return out_row[:count], out_unit[:count], out_key[:count], out_route[:count]


@nb.njit(cache=True)
def _grown(values: Ints) -> Ints:
    longer = np.empty(2 * len(values), values.dtype)
    longer[: len(values)] = values
    return longer


@nb.njit(cache=True, nogil=True)
def _quotes(data: Bytes, start: Ints, stop: Ints, first: Ints, last: Ints) -> tuple[Bytes, Offsets]:
    offsets = np.zeros(len(first) + 1, np.int64)
    for quote in range(len(first)):
        size = 0
        for word in range(first[quote], last[quote]):
            size += stop[word] - start[word] + 1
        offsets[quote + 1] = offsets[quote] + size
    out = np.empty(offsets[-1], np.uint8)
    filled = 0
    for quote in range(len(first)):
        for word in range(first[quote], last[quote]):
            size = stop[word] - start[word]
            out[filled : filled + size] = data[start[word] : stop[word]]
            out[filled + size] = SEPARATOR
            filled += size + 1
    return out, offsets
