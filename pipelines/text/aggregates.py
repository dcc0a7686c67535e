"""Statistics of a field over the pool, as counters that add up over batches, shards and workers.

`value_counts` lets every row pass and counts what a field holds. `histogram`, `percentiles` and
`top_language` are the statistics of DCLM's `_aggregate` over a list of values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Counted, Filter
from pipelines.text import fields


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """min, max, median, p25, p75, p90, p95, p99 (a value of the list each) and the mean.

    ValueError for an empty list.
    """
    if not values:
        raise ValueError("percentiles of no values")
    array = np.asarray(values, dtype=np.float64)
    summary = {"min": array.min(), "max": array.max()}
    for name, share in (("median", 50), ("p25", 25), ("p75", 75), ("p90", 90), ("p95", 95)):
        summary[name] = np.percentile(array, share, method="nearest")
    summary["p99"] = np.percentile(array, 99, method="nearest")
    summary["mean"] = array.mean()
    return {name: float(value) for name, value in summary.items()}


def histogram(values: Sequence[Any]) -> dict[Any, int]:
    """Strings with their counts; numbers in ten equal bins named by their left edge."""
    if values and not all(isinstance(value, str) for value in values):
        counts, edges = np.histogram(np.asarray(values, dtype=np.float64), bins=10)
        return {float(edge): int(n) for edge, n in zip(edges, counts, strict=False)}
    return dict(Counter(values))


def weighted_percentiles(counts: Mapping[float, int]) -> dict[str, float]:
    """The same of a list in which each value comes so often. ValueError for no values."""
    if not counts:
        raise ValueError("percentiles of no values")
    values = np.array(sorted(counts), dtype=np.float64)
    ends = np.cumsum([counts[value] for value in values.tolist()])
    total = int(ends[-1])

    def at(share: float) -> float:
        # numpy's `nearest`: the position is rounded, halves to the even one
        return float(values[np.searchsorted(ends, np.rint((total - 1) * share / 100), "right")])

    summary = {"min": at(0), "max": at(100), "median": at(50)}
    summary |= {f"p{share}": at(share) for share in (25, 75, 90, 95, 99)}
    weights = np.array([counts[value] for value in values.tolist()], dtype=np.float64)
    return summary | {"mean": float((values * weights).sum() / total)}


def weighted_histogram(counts: Mapping[float, int]) -> dict[float, int]:
    """Ten equal bins by their left edge, of values that come so often."""
    values = np.array(list(counts), dtype=np.float64)
    weights = np.array(list(counts.values()))
    bins, edges = np.histogram(values, bins=10, weights=weights)
    return {float(edge): int(number) for edge, number in zip(edges, bins, strict=False)}


def summary_of(counters: Mapping[str, int], by: str, statistic: str) -> dict[str, Any]:
    """What `_aggregate` gives for a field, from the counters of a `value_counts`."""
    prefix = f"{by}="
    counts = {k.removeprefix(prefix): n for k, n in counters.items() if k.startswith(prefix)}
    try:
        numbers = {float(value): number for value, number in counts.items()}
    except ValueError:
        numbers = {}  # strings: their counts are the histogram
    if statistic == "percentiles" and numbers:
        return weighted_percentiles(numbers)
    if statistic == "histogram" and numbers:
        return {f"{edge:.6g}": number for edge, number in weighted_histogram(numbers).items()}
    return dict(counts)


def top_language(scores: Mapping[str, float], threshold: float, default: str = "unknown") -> str:
    """The likeliest language if it reaches the threshold; the first of equal ones."""
    if not scores:
        return default
    best = max(scores, key=lambda language: scores[language])
    return best if scores[best] >= threshold else default


class ValueCounts(Filter, name="value_counts"):
    """Count what a field holds, and let every row pass. The counts are in the run's statistics.

    With a `statistic`, stats.json has its summary over the whole pool under `aggregates`.
    Strings are counted as they are; of `{language: probability}` the likeliest language, if it
    reaches `min_probability`; numbers rounded to `digits` significant digits, so that percentiles
    can be read off the counts. A row without the field is an error.
    """

    by: str = Field(min_length=1, description="the field")
    min_probability: float = Field(0.0, ge=0, description="below it a language is the default")
    default: str = Field("unknown", description="counted for a row without a likely language")
    digits: int = Field(2, ge=1, le=6, description="significant digits of numbers")
    statistic: Literal["percentiles", "histogram"] | None = Field(
        None, description="summary of the counts, as DCLM's", exclude_if=lambda s: s is None
    )
    reasons: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (self.by,)

    def reject(self, batch: Batch) -> Counted:
        values = fields.needed(batch, self.by, why=self.name)
        counts = Counter(f"{self.by}={self._name(value)}" for value in values)
        return Counted(pa.nulls(batch.num_rows, pa.string()), dict(sorted(counts.items())))

    def _name(self, value: Any) -> str:
        if isinstance(value, dict):
            return top_language(value, self.min_probability, self.default)
        if isinstance(value, float) and math.isfinite(value):
            return f"{value:.{self.digits}g}"
        return str(value)
