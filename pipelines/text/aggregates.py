"""Statistics of a field over the pool, as counters that add up over batches, shards and workers.

`value_counts` lets every row pass and counts what a field holds. `histogram`, `percentiles` and
`top_language` are the statistics of DCLM's `_aggregate` over a list of values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

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


def top_language(scores: Mapping[str, float], threshold: float, default: str = "unknown") -> str:
    """The likeliest language if it reaches the threshold; the first of equal ones."""
    if not scores:
        return default
    best = max(scores, key=lambda language: scores[language])
    return best if scores[best] >= threshold else default


class ValueCounts(Filter, name="value_counts"):
    """Count what a field holds, and let every row pass. The counts are in the run's statistics.

    Strings are counted as they are; of `{language: probability}` the likeliest language, if it
    reaches `min_probability`; numbers rounded to `digits` significant digits, so that percentiles
    can be read off the counts. A row without the field is an error.
    """

    by: str = Field(min_length=1, description="the field")
    min_probability: float = Field(0.0, ge=0, description="below it a language is the default")
    default: str = Field("unknown", description="counted for a row without a likely language")
    digits: int = Field(2, ge=1, le=6, description="significant digits of numbers")
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
