"""Fingerprints of texts by winnowing (Schleimer, Wilkerson, Aiken 2003).

Of every `window` neighbouring n-grams the one with the least hash is kept, so any two texts that
share `window + ngram - 1` words in a row share a fingerprint.

The words around a fingerprint, `SIDE` before and after, are summed up in 64 bits: four bits of the
hash of the nearest word, of the nearest two, and so on. Two texts that have a fingerprint and also
share words around it have equal bits there, as far as the shared words reach.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from pipelines.kernels.bloom import final
from pipelines.kernels.characters import Hashes, Ints

_PRIME = np.uint64(0x9E3779B97F4A7C15)
SIDE = 8  # words before and after a fingerprint that its neighbourhood has bits of
_BITS = 4  # of each number of words on each side: 64 in all
_60 = np.uint64(60)


def fingerprints(
    hashes: Hashes, begin: Ints, end: Ints, *, ngram: int, window: int
) -> tuple[Ints, Hashes, Ints]:
    """The row of each fingerprint, its hash and first word, in order. A window of 1 keeps all.

    A row with fewer n-grams than a window has one fingerprint, one of fewer words than an n-gram
    has none.
    """
    return _fingerprints(hashes, begin, end, ngram, window)


def neighbourhoods(
    hashes: Hashes, begin: Ints, end: Ints, *, rows: Ints, first: Ints, ngram: int
) -> tuple[Hashes, Hashes]:
    """The bits of the words around each fingerprint, and a mask of those that have a word.

    A text that continues where another one ends agrees with it in the bits of the other's mask.
    """
    return _neighbourhoods(hashes, begin, end, rows, first, ngram)


@nb.njit(cache=True, nogil=True)
def _fingerprints(
    hashes: Hashes, begin: Ints, end: Ints, ngram: int, window: int
) -> tuple[Ints, Hashes, Ints]:
    total = 0
    for row in range(len(begin)):
        total += max(0, end[row] - begin[row] - ngram + 1)
    rows, kept = np.empty(total, np.int64), np.empty(total, np.uint64)
    words = np.empty(total, np.int64)
    count = 0
    power = np.uint64(1)
    for _ in range(ngram):
        power = power * _PRIME
    for row in range(len(begin)):
        units = end[row] - begin[row]
        number = units - ngram + 1
        if number <= 0:
            continue
        values = np.empty(number, np.uint64)
        state = np.uint64(0)
        for i in range(units):
            state = state * _PRIME + final(hashes[begin[row] + i])
            if i >= ngram:
                state = state - final(hashes[begin[row] + i - ngram]) * power
            if i >= ngram - 1:
                values[i - ngram + 1] = final(state)
        width = min(window, number)
        last = -1
        for first in range(number - width + 1):
            if last < first:  # the least one has left the window
                last = first
                for i in range(first + 1, first + width):
                    if values[i] <= values[last]:
                        last = i
            elif values[first + width - 1] <= values[last]:
                last = first + width - 1
            else:
                continue
            rows[count], kept[count], words[count] = row, values[last], begin[row] + last
            count += 1
    return rows[:count], kept[:count], words[:count]


@nb.njit(cache=True, nogil=True)
def _neighbourhoods(
    hashes: Hashes, begin: Ints, end: Ints, rows: Ints, first: Ints, ngram: int
) -> tuple[Hashes, Hashes]:
    bits, mask = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.uint64)
    for n in range(len(rows)):
        low, high = begin[rows[n]], end[rows[n]]
        for side in range(2):
            state = np.uint64(side)
            for k in range(SIDE):
                word = first[n] + ngram + k if side else first[n] - 1 - k
                if word < low or word >= high:
                    break
                state = final(state * _PRIME + hashes[word])
                shift = np.uint64(_BITS * (SIDE * side + k))
                bits[n] |= (state >> _60) << shift
                mask[n] |= np.uint64(15) << shift
    return bits, mask
