"""MinHash signatures of shingles and keys of their bands (Broder 1997; Leskovec et al., 3.4)."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.bloom import final
from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.characters import Hashes, Ints, decode

Signatures = npt.NDArray[np.uint32]
Shifts = npt.NDArray[np.uint8]
Sets = tuple[Signatures, Ints, Shifts]

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: steps far apart
_32 = np.uint64(32)
_HIGH, _LOW = np.uint64(0x8EBC6AF09C88C6E3), np.uint64(0x589965CC75374CC3)


def coefficients(seed: int, number: int) -> tuple[Signatures, Signatures]:
    """An odd factor and a summand for each of `number` hash functions x -> a x + b mod 2^32."""
    state = np.arange(2 * number, dtype=np.uint64) + np.uint64(seed % (1 << 32) * (1 << 20))
    drawn = np.array([_mixed(np.uint64(value)) for value in state], dtype=np.uint64)
    top = (drawn >> _32).astype(np.uint32)
    return top[:number] | np.uint32(1), top[number:]


def characters(texts: pa.Array) -> tuple[Hashes, Ints, Ints]:
    """A hash per code point, and where each row's begin and end."""
    data, offsets = buffers_of(texts)
    hashes, borders = _characters(data, offsets)
    return hashes, borders[:-1], borders[1:]


def signatures(
    hashes: Hashes, begin: Ints, end: Ints, *, ngram: int, factors: Signatures, summands: Signatures
) -> Signatures:
    """The least value of each hash function over a row's n-grams, shape (rows, functions).

    A row of fewer than `ngram` units is one shingle; a row of none has the signature of nothing.
    """
    return _signatures(hashes, begin, end, ngram, factors, summands)


def band_keys(signed: Signatures, bands: int, rows: int) -> Hashes:
    """A 128-bit key of each band of `rows` values, shape (texts, bands, 2)."""
    return _band_keys(signed, bands, rows)


def sketches(
    hashes: Hashes, begin: Ints, end: Ints, *, ngram: int, limit: int
) -> tuple[Signatures, Ints, Shifts]:
    """Each row's n-grams as 32-bit hashes in the order of the text, their borders, and a shift.

    A row of fewer than `ngram` units has one, a row of none has none. Of a row with more than
    `limit` n-grams only those are kept whose upper `shift` bits are 0, about `limit` / 2 to `limit`
    of them: the same n-grams in every row, so that similarities are estimated without bias.
    """
    return _sketches(hashes, begin, end, ngram, limit)


def sorted_sets(flat: Signatures, borders: Ints) -> tuple[Signatures, Ints]:
    """The different hashes of each row, sorted, and their borders."""
    return _sorted_sets(flat, borders)


def similarity(
    left: Sets, left_at: Ints, right: Sets, right_at: Ints, *, containment: bool
) -> npt.NDArray[np.float64]:
    """Of pairs of sorted sets the Jaccard similarity, or which part of the left is in the right.

    A set is (hashes, borders, shifts); of two with other shifts, what both would have kept is
    compared. Of two empty sets it is 1.
    """
    return _similarity(*left, left_at, *right, right_at, containment)


@nb.njit(cache=True)
def _mixed(value: np.uint64) -> np.uint64:
    return final(value * _PRIME + _HIGH)


@nb.njit(cache=True, nogil=True)
def _characters(data: Bytes, offsets: Offsets) -> tuple[Hashes, Ints]:
    rows = len(offsets) - 1
    hashes = np.empty(offsets[rows] - offsets[0], np.uint64)
    borders = np.zeros(rows + 1, np.int64)
    count = 0
    for row in range(rows):
        position = offsets[row]
        while position < offsets[row + 1]:
            code, width = decode(data, position)
            hashes[count] = np.uint64(code) * _HIGH
            count += 1
            position += width
        borders[row + 1] = count
    return hashes[:count], borders


@nb.njit(cache=True, nogil=True)
def _signatures(
    hashes: Hashes, begin: Ints, end: Ints, ngram: int, factors: Signatures, summands: Signatures
) -> Signatures:
    functions = len(factors)
    signed = np.full((len(begin), functions), np.uint32(0xFFFFFFFF), np.uint32)
    for row in range(len(begin)):
        units = end[row] - begin[row]
        width = min(units, ngram)
        power = np.uint64(1)
        for _ in range(width):
            power = power * _PRIME
        state = np.uint64(0)
        least = signed[row]
        for i in range(units):
            state = state * _PRIME + final(hashes[begin[row] + i])
            if i >= width:
                state = state - final(hashes[begin[row] + i - width]) * power
            if i >= width - 1:
                shingle = np.uint32(final(state + np.uint64(width)) >> _32)
                for k in range(functions):
                    value = np.uint32(np.uint32(shingle * factors[k]) + summands[k])
                    least[k] = min(least[k], value)
    return signed


@nb.njit(cache=True, nogil=True)
def _band_keys(signed: Signatures, bands: int, rows: int) -> Hashes:
    keys = np.empty((len(signed), bands, 2), np.uint64)
    for text in range(len(signed)):
        for band in range(bands):
            high = np.uint64(band) * _HIGH + np.uint64(1)
            low = np.uint64(band) * _LOW + np.uint64(2)
            for k in range(band * rows, (band + 1) * rows):
                high = final(high * _PRIME + np.uint64(signed[text, k]))
                low = final((low ^ np.uint64(signed[text, k])) * _LOW + _HIGH)
            keys[text, band, 0], keys[text, band, 1] = high, low
    return keys


@nb.njit(cache=True, nogil=True)
def _sketches(
    hashes: Hashes, begin: Ints, end: Ints, ngram: int, limit: int
) -> tuple[Signatures, Ints, Shifts]:
    total = 0
    for row in range(len(begin)):
        total += max(min(end[row] - begin[row], 1), end[row] - begin[row] - ngram + 1)
    flat = np.empty(total, np.uint32)
    borders, shifts = np.zeros(len(begin) + 1, np.int64), np.zeros(len(begin), np.uint8)
    count = 0
    for row in range(len(begin)):
        units = end[row] - begin[row]
        width = min(units, ngram)
        shift = 0
        while (units - width + 1) >> shift > limit:
            shift += 1
        bound = np.uint64(1) << np.uint64(32 - shift)
        shifts[row] = shift
        power = np.uint64(1)
        for _ in range(width):
            power = power * _PRIME
        state = np.uint64(0)
        for i in range(units):
            state = state * _PRIME + final(hashes[begin[row] + i])
            if i >= width:
                state = state - final(hashes[begin[row] + i - width]) * power
            if i >= width - 1:
                shingle = final(state + np.uint64(width)) >> _32
                if shingle < bound:
                    flat[count] = np.uint32(shingle)
                    count += 1
        borders[row + 1] = count
    return flat[:count], borders, shifts


@nb.njit(cache=True, nogil=True)
def _sorted_sets(flat: Signatures, borders: Ints) -> tuple[Signatures, Ints]:
    out, sizes = np.empty(len(flat), np.uint32), np.zeros(len(borders), np.int64)
    count = 0
    for row in range(len(borders) - 1):
        here = np.sort(flat[borders[row] : borders[row + 1]])
        for i in range(len(here)):
            if i == 0 or here[i] != here[i - 1]:
                out[count] = here[i]
                count += 1
        sizes[row + 1] = count
    return out[:count], sizes


@nb.njit(cache=True, nogil=True)
def _similarity(
    left: Signatures,
    left_borders: Ints,
    left_shifts: Shifts,
    left_at: Ints,
    right: Signatures,
    right_borders: Ints,
    right_shifts: Shifts,
    right_at: Ints,
    containment: bool,
) -> npt.NDArray[np.float64]:
    similar = np.ones(len(left_at))
    for pair in range(len(left_at)):
        i, i_end = left_borders[left_at[pair]], left_borders[left_at[pair] + 1]
        j, j_end = right_borders[right_at[pair]], right_borders[right_at[pair] + 1]
        shift = max(left_shifts[left_at[pair]], right_shifts[right_at[pair]])
        if shift:
            bound = np.uint64(1) << np.uint64(32 - np.int64(shift))
            while i_end > i and np.uint64(left[i_end - 1]) >= bound:
                i_end -= 1
            while j_end > j and np.uint64(right[j_end - 1]) >= bound:
                j_end -= 1
        size, sizes = i_end - i, i_end - i + j_end - j
        common = 0
        while i < i_end and j < j_end:
            a, other = left[i], right[j]
            common += a == other
            i += a <= other
            j += other <= a
        if containment and size:
            similar[pair] = common / size
        elif sizes:
            similar[pair] = common / (sizes - common)
    return similar
