"""Why a filter dropped a document: the value it measured, its limit, the passage that caused it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.batch import Batch
from pipelines.operators import Case, Filter
from pipelines.records import Frozen

MAX_PASSAGE = 300  # characters: a passage is for reading
MAX_TEXT_BYTES = 1 << 20


class Evidence(Frozen):
    """Why a filter dropped a row: what it measured, its limit, the passage, where it has them."""

    value: float | None = None
    limit: float | None = None
    passage: str | None = None

    def sentence(self) -> str:
        """As a person reads it; empty when nothing is known."""
        parts = []
        if self.value is not None:
            parts.append(f"{self.value:.6g}")
            if self.limit is not None:
                parts.append(f"(limit {self.limit:.6g})")
        if self.passage is not None:
            parts.append(f"{' '.join(self.passage.split())!r}")
        return " ".join(parts)


def evidence_of(operator: Filter, batch: Batch, reason: str) -> Evidence:
    """What a filter says of one rejected row (a batch of one).

    Of a text above `MAX_TEXT_BYTES` only what its rules measured: a passage would take too long.
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
    """Whether a filter is rules with values and limits, not a `reject` of its own."""
    cls = type(operator)
    return cls.cases is not Filter.cases and cls.reject is Filter.reject


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
