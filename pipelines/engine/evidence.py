"""Evidence of a rejection: the value that a filter measured, its limit, and the passage."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.batch import Batch
from pipelines.operators import Case, Filter
from pipelines.records import Frozen

MAX_PASSAGE = 300  # characters of a passage in a report
MAX_TEXT_BYTES = 1 << 20  # of a text in which a passage is searched: a second search is slow


class Evidence(Frozen):
    """Why a filter dropped a row; a field is None if the filter does not provide it."""

    value: float | None = None
    limit: float | None = None
    passage: str | None = None

    def sentence(self) -> str:
        """The evidence as text for a person; empty when there is none."""
        parts = []
        if self.value is not None:
            parts.append(f"{self.value:.6g}")
            if self.limit is not None:
                parts.append(f"(limit {self.limit:.6g})")
        if self.passage is not None:
            parts.append(f"{' '.join(self.passage.split())!r}")
        return " ".join(parts)


def evidence_of(operator: Filter, batch: Batch, reason: str) -> Evidence:
    """The evidence for one rejected row (a batch of one row).

    For a text above `MAX_TEXT_BYTES` only the values of its rules: a passage would take too long.
    """
    case = _case(operator, batch, reason)
    value = None if case is None or case.value is None else _finite(case.value[0])
    passage = None
    if batch.amount().bytes <= MAX_TEXT_BYTES:
        passage = operator.passage(batch, reason)
        if value is None:
            value = operator.measured(batch, reason)
    return Evidence(
        value=value,
        limit=None if case is None else case.limit,
        passage=None if passage is None else passage[:MAX_PASSAGE],
    )


def _case(operator: Filter, batch: Batch, reason: str) -> Case | None:
    if not has_cases(operator):
        return None
    return next((case for case in operator.cases(batch) if case.reason == reason), None)


def has_cases(operator: Filter) -> bool:
    """Whether a filter consists of rules with values and limits, without its own `reject`."""
    cls = type(operator)
    return cls.cases is not Filter.cases and cls.reject is Filter.reject


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
