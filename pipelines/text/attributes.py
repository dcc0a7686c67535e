"""Scores that another tool left next to the documents: Dolma's attributes as columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Modifier
from pipelines.schema import EXTRA
from pipelines.text import fields


class AttributeScore(Modifier, name="attribute_score"):
    """Set a column to the value of one of Dolma's attributes, for `select` or `quality` to use.

    An attribute is a list of spans [begin, end, value]; a tagger of whole documents gives one, of
    paragraphs or sentences several. Null where a document has none.
    """

    attribute: str = Field(description="its name, as in `gopher_v1__gopher_v1__word_count`")
    column: str = Field("score", description="the column to write")
    of: Literal["first", "mean", "sum", "max", "min", "by_length"] = Field(
        "first", description="which value of several; by_length: mean, weighted by the spans"
    )
    reasons: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (EXTRA,)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        values = [self._value(row.get("attributes") or {}) for row in fields.extras(batch)]
        return {self.column: pa.array(values, type=pa.float64())}

    def _value(self, attributes: Mapping[str, list[tuple[int, int, float]]]) -> float | None:
        spans = attributes.get(self.attribute)
        if not spans:
            return None
        values = [float(value) for _, _, value in spans]
        if self.of == "first":
            return values[0]
        if self.of == "sum":
            return sum(values)
        if self.of == "max":
            return max(values)
        if self.of == "min":
            return min(values)
        if self.of == "mean":
            return sum(values) / len(values)
        lengths = [end - begin for begin, end, _ in spans]
        total = sum(lengths)
        if not total:
            return sum(values) / len(values)
        return sum(v * n for v, n in zip(values, lengths, strict=True)) / total
