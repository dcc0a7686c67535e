"""Scores of the pairs of a pool, computed by `datacomp score` and kept next to its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Modifier

INDEX = "index.json"
PREFIX = "scores/"  # of the column's name before this step renames it


class Scores(Modifier, name="scores"):
    """Add a column of scores that `datacomp score` computed for this pool, for later steps.

    A pair without an image has no score (null). Scores are valid only for the tables they were
    computed from: a run over other tables is refused.
    """

    of: str = Field(description="the name of the scores: `score --name`")
    column: str = Field("score", description="column to write")
    reasons: ClassVar[tuple[str, ...]] = ()

    def assets(self) -> tuple[str, ...]:
        return (f"{self.of}/{INDEX}",)

    def reads(self) -> tuple[str, ...]:
        return (f"{PREFIX}{self.of}",)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        return {self.column: batch.column(f"{PREFIX}{self.of}").cast(pa.float64())}
