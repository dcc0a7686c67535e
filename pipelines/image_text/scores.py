"""Scores that somebody gave to the pairs of a pool, kept next to its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Modifier

INDEX = "index.json"
PREFIX = "scores/"  # how the column is called until this step gives it a name


class Scores(Modifier, name="scores"):
    """Add the column that `datacomp score` made for this pool; steps behind it read it by name.

    A pair without an image has no score. Scores belong to the very tables that they were made for:
    over other tables the run is refused.
    """

    of: str = Field(description="the name the scores were given: `score --name`")
    column: str = Field("score", description="the name of the column here")
    reasons: ClassVar[tuple[str, ...]] = ()

    def assets(self) -> tuple[str, ...]:
        return (f"{self.of}/{INDEX}",)

    def reads(self) -> tuple[str, ...]:
        return (f"{PREFIX}{self.of}",)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        return {self.column: batch.column(f"{PREFIX}{self.of}").cast(pa.float64())}
