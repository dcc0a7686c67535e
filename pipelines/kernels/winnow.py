"""Fingerprints of texts by winnowing (Schleimer, Wilkerson, Aiken 2003).

Of every `window` neighbouring n-grams the one with the least hash is kept, so any two texts that
share `window + ngram - 1` words in a row share a fingerprint.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from pipelines.kernels.bloom import final
from pipelines.kernels.words import Hashes, Ints

_PRIME = np.uint64(0x9E3779B97F4A7C15)


def fingerprints(
    hashes: Hashes, begin: Ints, end: Ints, *, ngram: int, window: int
) -> tuple[Ints, Hashes]:
    """The row of each fingerprint and its hash, in order. A window of 1 keeps every n-gram.

    A row with fewer n-grams than a window has one fingerprint, one of fewer words than an n-gram
    has none.
    """
    return _fingerprints(hashes, begin, end, ngram, window)


@nb.njit(cache=True, nogil=True)
def _fingerprints(
    hashes: Hashes, begin: Ints, end: Ints, ngram: int, window: int
) -> tuple[Ints, Hashes]:
    total = 0
    for row in range(len(begin)):
        total += max(0, end[row] - begin[row] - ngram + 1)
    rows, kept = np.empty(total, np.int64), np.empty(total, np.uint64)
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
            rows[count], kept[count] = row, values[last]
            count += 1
    return rows[:count], kept[:count]
