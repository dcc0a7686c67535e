"""The stretch of a document that holds most of an item's n-grams, weighed."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.characters import Ints

Floats = npt.NDArray[np.float64]


@nb.njit(cache=True, nogil=True)
def best_windows(
    group: Ints, word: Ints, local: Ints, weight: Floats, reach: Ints
) -> tuple[Floats, Ints, Ints]:
    """Per group the greatest weight of different n-grams whose first words are within `reach`.

    Occurrences are in order of group (0, 1, ... all there) and word; `local` numbers the n-grams
    of a group's item, `reach` is by group. Also the first words of the first and the last n-gram
    of that stretch, the earliest of equal ones.
    """
    groups = group[-1] + 1 if len(group) else 0
    best = np.zeros(groups, np.float64)
    first, last = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    largest = np.int64(0)
    for number in local:
        largest = max(largest, number)
    counts = np.zeros(largest + 1, np.int64)
    begin = 0
    while begin < len(group):
        here = group[begin]
        end = begin
        while end < len(group) and group[end] == here:
            end += 1
        total = 0.0
        tail = begin
        for head in range(begin, end):
            counts[local[head]] += 1
            if counts[local[head]] == 1:
                total += weight[head]
            while word[head] - word[tail] >= reach[here]:
                counts[local[tail]] -= 1
                if counts[local[tail]] == 0:
                    total -= weight[tail]
                tail += 1
            if total > best[here] * (1 + 1e-12):  # not for what rounding leaves behind
                best[here] = total
                first[here], last[here] = word[tail], word[head]
        for at in range(begin, end):
            counts[local[at]] = 0
        begin = end
    return best, first, last
