"""Exact deduplication: equal texts, URLs, other columns or lines over the whole pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.dedup.ranks import Keep, Order, rank_kind, ranks
from pipelines.extra_fields import canonical
from pipelines.operators import Dedup, Keys, because
from pipelines.schema import KNOWN, STRING, TEXT
from pipelines.text.normalize import NORMALIZERS, Normalization


class ExactDedup(Dedup, name="exact_dedup"):
    """Keep one of all documents, or lines, that are equal in a column over the whole pool.

    Units are compared by a 128-bit hash (xxh3) of their normal form. The first in pool order stays,
    or the one with the greatest or least `keep_by` (ties: the first). Rows where the column is null
    are never duplicates. Numbers are compared by value; a column that holds strings in one row and
    numbers in another is refused, but for id, url, source, language and date: they are names and
    compared as text. Of lines, blank ones are units as well and have duplicates, and a document
    that loses all its lines is rejected. (Lines: Raffel et al. 2020, 2.2, and DCLM's c4)
    """

    version: ClassVar[int] = 2
    reference: ClassVar[str | None] = "exact_dedup"

    column: str = Field(TEXT, description="the column that is compared")
    unit: Literal["document", "line"] = Field("document", description="what is compared")
    normalize: Normalization = Field(
        "none",
        description="the form that is compared: as it is, lower-cased and stripped or with white "
        "space squeezed, as a URL, or CCNet's",
    )
    keep_by: str | None = Field(
        None, description="a column of numbers, times or short strings: who stays in a group"
    )
    keep: Keep = Field("max", description="which value of `keep_by` stays")
    keep_order: Order = Field(
        "value", description="compare the values of `keep_by`, or (the reference) their MD5"
    )
    delimiter: str = Field("\n", min_length=1, description="text between lines")
    joined_by: str | None = Field(None, description="what is put between lines after; as before")

    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.keep_by is None else (self.column, self.keep_by)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: STRING} if self.unit == "line" else {}

    def keys(self, batch: Batch) -> Keys:
        positions: list[int] = []
        units: list[int] = []
        digests: list[bytes] = []
        for position, unit, value in self._units(batch.column(self.column)):
            positions.append(position)
            units.append(unit)
            digests.append(xxhash.xxh3_128_digest(value))
        rows = np.array(positions, dtype=np.int64)
        key = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)
        return Keys(
            position=rows,
            unit=np.array(units, dtype=np.int64),
            key=key,
            rank=ranks(batch, self.keep_by, self.keep, self.keep_order)[rows],
            rank_kind=rank_kind(batch, self.keep_by, self.keep_order),
            key_kind=None if self.column in KNOWN else kind_of(batch.column(self.column).type),
        )

    def _units(self, values: pa.Array) -> Iterator[tuple[int, int, Any]]:
        """Row, number and normal form (UTF-8) of each unit that is compared."""
        if self.unit == "document" and self.normalize == "none":
            yield from self._whole(values)
            return
        normal = NORMALIZERS[self.normalize]
        for position, value in enumerate(values.to_pylist()):
            if value is None:
                continue
            whole = canonical(value)
            parts = whole.split(self.delimiter) if self.unit == "line" else [whole]
            for number, part in enumerate(parts):
                yield position, number, normal(part).encode("utf-8")

    def _whole(self, values: pa.Array) -> Iterator[tuple[int, int, Any]]:
        """Documents as they are, without a copy where they are strings."""
        if not pa.types.is_large_string(values.type):
            for position, value in enumerate(values.to_pylist()):
                if value is not None:
                    yield position, 0, canonical(value).encode("utf-8")
            return
        there = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)).tolist()
        data, offsets = kernels.buffers.buffers_of(values.fill_null(""))
        view, borders = memoryview(data), offsets.tolist()
        for position in there:
            yield position, 0, view[borders[position] : borders[position + 1]]

    def apply(self, batch: Batch, dropped: Sequence[Any]) -> Mapping[str, Any]:
        if self.unit == "document":
            return super().apply(batch, dropped)
        between = self.delimiter if self.joined_by is None else self.joined_by
        values: list[str | None] = []
        is_dropped = np.zeros(batch.num_rows, dtype=bool)
        for position, value in enumerate(batch.column(self.column).to_pylist()):
            if value is not None and (len(dropped[position]) or between != self.delimiter):
                parts = value.split(self.delimiter)
                lost = set(dropped[position].tolist())
                kept = [part for number, part in enumerate(parts) if number not in lost]
                is_dropped[position] = not kept
                value = between.join(kept)
            values.append(value)
        return {
            self.column: pa.array(values, type=STRING),
            "reject": because(is_dropped, self.reasons[0]),
        }

    def excerpt(self, value: str, unit: int) -> str:
        return value.split(self.delimiter)[unit] if self.unit == "line" else value


def kind_of(type_: pa.DataType) -> str | None:
    """What the values of a column are compared as; None for a column of nulls."""
    if pa.types.is_null(type_):
        return None
    if pa.types.is_large_string(type_):
        return "strings"
    if pa.types.is_boolean(type_):
        return "booleans"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "numbers"
    return "times" if pa.types.is_temporal(type_) else str(type_)
