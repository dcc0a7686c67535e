"""What happened to rows: in and out per step, reasons with counts. Merging is addition.

`ShardStats` is the same for the same input whatever ran it; times are kept apart (`Timings`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipelines.records import Frozen

if TYPE_CHECKING:
    from pipelines.batch import Amount
    from pipelines.operators import Case

SHARE_BINS, LOG_BINS = 50, 4
ON_GPU = "/gpu"  # behind a step's number: the seconds that it held GPUs, times their number
READ = -1  # the number of reading the pool, which is no step


class Histogram(Frozen):
    """What a rule measured in all rows it saw, counted by bins, with its limit.

    Bins are 1/50 wide for shares (limits from 0 to 1), else a quarter of a power of two of
    1 + |value|, negative values in negative bins.
    """

    limit: float | None = None
    bins: dict[str, int] = Field(default_factory=dict)

    def plus(self, other: Histogram) -> Histogram:
        limit = self.limit if self.limit is not None else other.limit
        return Histogram(limit=limit, bins=add_counts(self.bins, other.bins))

    @property
    def is_share(self) -> bool:
        return self.limit is None or 0 <= self.limit <= 1

    def edges(self, number: int) -> tuple[float, float]:
        """The lower and the upper bound of a bin."""
        if self.is_share:
            return number / SHARE_BINS, (number + 1) / SHARE_BINS
        if number < 0:
            return 1 - 2 ** (-number / LOG_BINS), 1 - 2 ** ((-number - 1) / LOG_BINS)
        return 2 ** (number / LOG_BINS) - 1, 2 ** ((number + 1) / LOG_BINS) - 1


def histogram_of(values: npt.NDArray[Any], limit: float) -> dict[int, int]:
    """Counts by bin (see Histogram); NaN and infinity are left out."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if 0 <= limit <= 1:
        places = np.floor(np.clip(values, -1, 2) * SHARE_BINS)
    else:
        places = np.floor(LOG_BINS * np.log2(1 + np.abs(values)))
        places = np.where(values < 0, -1 - places, places)
    numbers = places.astype(np.int64)
    if not len(numbers):
        return {}
    first = int(numbers.min())  # bins are few (at most some 8,000), so they are counted unsorted
    counts = np.bincount(numbers - first)
    filled = np.flatnonzero(counts)
    return dict(zip((filled + first).tolist(), counts[filled].tolist(), strict=True))


class StepStats(Frozen):
    """Counts of one step. `rows_in = rows_out + sum(reasons) + errors` (splitters add `split`)."""

    number: int
    name: str
    kind: str
    rows_in: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    words_in: int = 0
    words_out: int = 0
    split: int = 0
    errors: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)
    counters: dict[str, int] = Field(default_factory=dict)
    histograms: dict[str, Histogram] = Field(default_factory=dict)  # by reason

    def plus(self, other: StepStats) -> StepStats:
        assert (self.number, self.name) == (other.number, other.name)
        return StepStats(
            number=self.number,
            name=self.name,
            kind=self.kind,
            rows_in=self.rows_in + other.rows_in,
            rows_out=self.rows_out + other.rows_out,
            bytes_in=self.bytes_in + other.bytes_in,
            bytes_out=self.bytes_out + other.bytes_out,
            words_in=self.words_in + other.words_in,
            words_out=self.words_out + other.words_out,
            split=self.split + other.split,
            errors=self.errors + other.errors,
            reasons=add_counts(self.reasons, other.reasons),
            counters=add_counts(self.counters, other.counters),
            histograms={
                name: self.histograms.get(name, Histogram()).plus(
                    other.histograms.get(name, Histogram())
                )
                for name in sorted(self.histograms.keys() | other.histograms.keys())
            },
        )

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())

    def check(self) -> None:
        """Our own promise: no row is lost without a reason."""
        assert self.rows_in + self.split == self.rows_out + self.rejected + self.errors, self


class RunStats(Frozen):
    """All steps of a run, in order, reading first."""

    steps: tuple[StepStats, ...] = ()

    def step(self, number: int) -> StepStats:
        return next(step for step in self.steps if step.number == number)

    @property
    def rows_in(self) -> int:
        return self.steps[0].rows_in if self.steps else 0

    @property
    def rows_out(self) -> int:
        return self.steps[-1].rows_out if self.steps else 0

    @property
    def errors(self) -> int:
        return sum(step.errors for step in self.steps)

    def check(self) -> None:
        """Every step accounts for its rows, and passes on what the next one gets."""
        for step in self.steps:
            step.check()
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            assert before.rows_out == after.rows_in, (before, after)


def add_counts(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    """Key by key sums, keys sorted."""
    keys = sorted(set(left) | set(right))
    return {key: left.get(key, 0) + right.get(key, 0) for key in keys}


def merge(parts: Iterable[Iterable[StepStats]]) -> RunStats:
    """The statistics of a run from those of its shards."""
    total: dict[int, StepStats] = {}
    for part in parts:
        for step in part:
            known = total.get(step.number)
            total[step.number] = step if known is None else known.plus(step)
    return RunStats(steps=tuple(total[number] for number in sorted(total)))


class Tally:
    """A step's counts while a shard runs; `freeze` makes the StepStats."""

    def __init__(self, number: int, name: str, kind: str) -> None:
        self.number, self.name, self.kind = number, name, kind
        self.rows_in = self.rows_out = self.bytes_in = self.bytes_out = 0
        self.words_in = self.words_out = 0
        self.split = self.errors = 0
        self.reasons: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.histograms: dict[str, dict[int, int]] = {}
        self.limits: dict[str, float] = {}
        self.seconds = self.gpu_seconds = 0.0

    def enter(self, amount: Amount) -> None:
        """Count what comes in."""
        self.rows_in += amount.rows
        self.bytes_in += amount.bytes
        self.words_in += amount.words

    def leave(self, amount: Amount) -> None:
        """Count the rows that are passed on."""
        self.rows_out += amount.rows
        self.bytes_out += amount.bytes
        self.words_out += amount.words

    def because(self, reason: str, number: int) -> None:
        if number:
            self.reasons[reason] = self.reasons.get(reason, 0) + number

    def count(self, counts: Mapping[str, int]) -> None:
        self.counters = add_counts(self.counters, counts)

    def measure(self, case: Case) -> None:
        """Add what a rule measured to its histogram."""
        if case.value is None or case.limit is None or not math.isfinite(case.limit):
            return  # a cut among infinite scores has no place on an axis
        bins = self.histograms.setdefault(case.reason, {})
        self.limits[case.reason] = float(case.limit)
        for bin_number, number in histogram_of(case.value, case.limit).items():
            bins[bin_number] = bins.get(bin_number, 0) + number

    def freeze(self) -> StepStats:
        return StepStats(
            number=self.number,
            name=self.name,
            kind=self.kind,
            rows_in=self.rows_in,
            rows_out=self.rows_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            words_in=self.words_in,
            words_out=self.words_out,
            split=self.split,
            errors=self.errors,
            reasons=dict(sorted(self.reasons.items())),
            counters=self.counters,
            histograms={
                name: Histogram(
                    limit=self.limits[name], bins={str(n): bins[n] for n in sorted(bins)}
                )
                for name, bins in sorted(self.histograms.items())
            },
        )
