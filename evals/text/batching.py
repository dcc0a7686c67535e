"""Cutting sequences of different lengths into batches that waste little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.models import Ids


def length_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Indices grouped so that (longest in group) * (size of group) is at most `max_tokens`.

    Longest first, so that a batch that does not fit in memory fails at once. A sequence longer
    than `max_tokens` is a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    longest = 0
    for index in order:
        if groups and longest * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = max(lengths[index], 1)
    return groups


def pad_right(rows: Sequence[Ids]) -> np.ndarray:
    """Rows of ids as one (rows, longest) int64 array, filled with 0 behind each row's end.

    In a causal model later tokens do not change earlier ones, so no mask is needed.
    """
    padded = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
