"""Rows that went, with step and reason; a few of each with their text."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.batch import Batch
from pipelines.engine.evidence import Evidence, evidence_of
from pipelines.operators import Filter
from pipelines.schema import ROW, STRING, TEXT, URL
from pipelines.stats import Tally

SAMPLES_PER_REASON = 3  # rejected documents kept with their text, per shard, step and reason
SAMPLE_CHARACTERS = 2000


@dataclass
class Rejections:
    """Rows that went, with step and reason; a few of each with their text."""

    rows: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    evidence: dict[int, Evidence] = field(default_factory=dict)  # by place in the lists
    _seen: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(
        self,
        batch: Batch,
        gone: npt.NDArray[np.bool_],
        reasons: list[str],
        step: Tally,
        *,
        filter_: Filter | None = None,
    ) -> None:
        """Remember the rows that go. `filter_` tells of the first few what it measured in them."""
        indices = np.flatnonzero(gone)
        if not len(indices):
            return
        rows = batch.rows[indices].tolist()
        taken = batch.table.take(pa.array(indices))
        urls = taken.column(URL).to_pylist() if batch.has(URL) else [None] * len(rows)
        texts = taken.column(TEXT) if batch.has(TEXT) else None
        for position, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
            seen = self._seen.get((step.number, reason), 0)
            self._seen[step.number, reason] = seen + 1
            sample = None
            if seen < SAMPLES_PER_REASON and texts is not None:
                value = texts[position].as_py()
                sample = None if value is None else value[:SAMPLE_CHARACTERS]
            if seen < SAMPLES_PER_REASON and filter_ is not None:
                one = batch.slice(int(indices[position]), 1)
                self.evidence[len(self.rows)] = evidence_of(filter_, one, reason)
            self.add_row(row, step, reason, urls[position], sample)

    def add_row(
        self, row: int, step: Tally, reason: str, url: str | None, text: str | None
    ) -> None:
        self.rows.append(row)
        self.steps.append(step.number)
        self.names.append(step.name)
        self.reasons.append(reason)
        self.urls.append(url)
        self.texts.append(text)

    def table(self) -> pa.Table:
        nothing = Evidence()
        evidence = [self.evidence.get(place, nothing) for place in range(len(self.rows))]
        return pa.table(
            {
                ROW: pa.array(self.rows, type=pa.int64()),
                "step": pa.array(self.steps, type=pa.int32()),
                "operator": pa.array(self.names, type=STRING),
                "reason": pa.array(self.reasons, type=STRING),
                URL: pa.array(self.urls, type=STRING),
                TEXT: pa.array(self.texts, type=STRING),
                "value": pa.array([e.value for e in evidence], type=pa.float64()),
                "limit": pa.array([e.limit for e in evidence], type=pa.float64()),
                "passage": pa.array([e.passage for e in evidence], type=STRING),
            }
        )
