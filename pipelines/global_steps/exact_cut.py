"""The exact cut of a Select: the score that keeps a fraction of the pool, found by counting."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.execution.executors import MapTasks
from pipelines.operators import Select
from pipelines.records import Frozen, digest
from pipelines.storage.base import Store
from pipelines.storage.open import open_store
from pipelines.verdict import NO_CUT, Verdict, ordered_bits

# Four levels of 16 bits find the cut among 64-bit scores: a level counts 65,536 bins (512 KB) per
# task, where one of 64 bits would have to sort the scores of all tasks in one place.
RADIX_BITS = 16


MAX_COUNTS = 512  # tasks of one level: each sends half a megabyte to the driver


def score_of(bits: int) -> float:
    """The score of ordered bits: the inverse of `ordered_bits`."""
    number = np.uint64(bits)
    top = np.uint64(1 << 63)
    value = number ^ top if number & top else ~number
    return float(np.array([value], np.uint64).view(np.float64)[0])


class CountTask(Frozen):
    """Sum the weights of some shards' scores by their next bits, for those that match `prefix`."""

    uri: str
    scores: tuple[str, ...]
    weights: tuple[str | None, ...]
    level: int
    prefix: int


def run_count(task: CountTask) -> npt.NDArray[np.int64]:
    """Counts over the shards, shape (65536,); at level 4 for each shard the weight at `prefix`."""
    store = open_store(task.uri)
    counts = [
        _count_shard(store, task, scores, weights)
        for scores, weights in zip(task.scores, task.weights, strict=True)
    ]
    if task.level == 64 // RADIX_BITS:
        return np.concatenate(counts)
    return np.sum(counts, axis=0, dtype=np.int64)


def _count_shard(
    store: Store, task: CountTask, scores_name: str, weights_name: str | None
) -> npt.NDArray[np.int64]:
    scores = _load(store, scores_name)
    weights = None if weights_name is None else _load(store, weights_name)
    has_score = ~np.isnan(scores)
    bits = ordered_bits(scores[has_score])
    if weights is not None:
        weights = weights[has_score]
    known = RADIX_BITS * task.level
    if known:
        match = (bits >> np.uint64(64 - known)) == np.uint64(task.prefix)
        bits = bits[match]
        weights = None if weights is None else weights[match]
    if task.level == 64 // RADIX_BITS:
        total = len(bits) if weights is None else int(weights.sum())
        return np.array([total], dtype=np.int64)
    digits = (bits >> np.uint64(64 - known - RADIX_BITS)) & np.uint64((1 << RADIX_BITS) - 1)
    length = 1 << RADIX_BITS
    if weights is None:
        return np.bincount(digits.astype(np.int64), minlength=length)
    counts = np.zeros(length, dtype=np.int64)
    np.add.at(counts, digits.astype(np.int64), weights)
    return counts


def find_cut(
    operator: Select,
    *,
    uri: str,
    scores: Sequence[str],
    weights: Sequence[str | None],
    amount: int,
    map_tasks: MapTasks,
) -> Verdict:
    """The exact cut over all shards. `amount` is the whole pool in units of `of`, with NaN rows.

    ValueError when no row has a score, or `ties: reference` asks for more than there are.
    """
    target = operator.total
    if target is None:
        assert operator.fraction is not None
        target = int(amount * operator.fraction)
    if operator.ties == "reference" and target >= amount:
        raise ValueError(
            f"ties: reference has no row at index {target} of {amount}: use a smaller fraction"
        )
    reach = operator.ties == "keep"  # stop where the target is reached, not where it is passed
    above, prefix = 0, 0
    for level in range(64 // RADIX_BITS):
        counts = _count(uri, scores, weights, level, prefix, map_tasks)
        if level == 0 and amount and weights[0] is None and not counts.any():
            raise ValueError(
                f"none of the {amount:,} rows has a score; is the column filled in this pool?"
            )
        sums = above + np.cumsum(counts[::-1])
        over = np.flatnonzero(sums >= target if reach else sums > target)
        if not len(over):
            assert level == 0, "a level must hold what the level above counted"
            if operator.ties == "reference":  # the n-th score is NaN: nothing compares to it
                return _verdict(threshold=(1 << 64) - 1, keep_ties=False, budgets=())
            return _verdict(threshold=NO_CUT, keep_ties=True, budgets=())
        digit = len(counts) - 1 - int(over[0])
        above = int(sums[over[0]] - counts[digit])
        prefix = prefix << RADIX_BITS | digit
    if operator.ties in ("keep", "reference"):
        return _verdict(threshold=prefix, keep_ties=True, budgets=())
    left = target - above
    budgets = []
    tasks = _tasks(uri, scores, weights, 64 // RADIX_BITS, prefix)
    for tied in np.concatenate(map_tasks(run_count, tasks)).tolist():
        budgets.append(max(left, 0))
        left -= tied
    return _verdict(threshold=prefix, keep_ties=False, budgets=tuple(budgets))


def _verdict(*, threshold: int, keep_ties: bool, budgets: tuple[int, ...]) -> Verdict:
    hash_ = digest([str(threshold), keep_ties, list(budgets)])
    return Verdict(hash=hash_, threshold=threshold, keep_ties=keep_ties, budgets=budgets)


def _tasks(
    uri: str, scores: Sequence[str], weights: Sequence[str | None], level: int, prefix: int
) -> list[CountTask]:
    size = -(-len(scores) // MAX_COUNTS)
    return [
        CountTask(
            uri=uri,
            scores=tuple(scores[first : first + size]),
            weights=tuple(weights[first : first + size]),
            level=level,
            prefix=prefix,
        )
        for first in range(0, len(scores), size)
    ]


def _count(
    uri: str,
    scores: Sequence[str],
    weights: Sequence[str | None],
    level: int,
    prefix: int,
    map_tasks: MapTasks,
) -> npt.NDArray[np.int64]:
    counts: Iterable[npt.NDArray[np.int64]] = map_tasks(
        run_count, _tasks(uri, scores, weights, level, prefix)
    )
    return np.sum(list(counts), axis=0, dtype=np.int64)


def _load(store: Store, name: str) -> npt.NDArray[Any]:
    with store.open(name) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)
