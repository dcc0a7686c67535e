"""Exact deduplication of units over the whole pool: documents by a field, or their lines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Dedup, Keys, because
from pipelines.schema import STRING, TEXT
from pipelines.text.normalize import NORMALIZERS, Normalization


class UnitDedup(Dedup, name="unit_dedup"):
    """Keep one of all equal lines of the pool (or of all documents equal in a column).

    Units are compared by a 128-bit hash (xxh3) of their normal form. Of equal ones the one whose
    `prefer` column has the smallest MD5 stays, else the first in pool order. Blank lines are units
    as well and have duplicates. A document that loses all its lines is rejected. (Raffel et al.
    2020, 2.2, compare lines; DCLM's c4 as well)
    """

    column: str = Field(TEXT, description="the column that is compared")
    unit: Literal["document", "line"] = Field("line", description="what is compared")
    delimiter: str = Field("\n", min_length=1, description="what lies between lines")
    joined_by: str | None = Field(None, description="what is put between lines after; as before")
    normalize: Normalization = Field("strip_lowercase", description="the form that is compared")
    prefer: str | None = Field(
        None, description="column by whose MD5 the unit that stays is chosen"
    )
    prefer_largest: bool = Field(False, description="the largest MD5 instead of the smallest")
    reference: ClassVar[str | None] = "exact_dedup"

    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.prefer is None else (self.column, self.prefer)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: STRING} if self.unit == "line" else {}

    def keys(self, batch: Batch) -> Keys:
        normal = NORMALIZERS[self.normalize]
        ranks = self._ranks(batch)
        positions: list[int] = []
        units: list[int] = []
        hashes: list[tuple[int, int]] = []
        for position, value in enumerate(batch.column(self.column).to_pylist()):
            if value is None:
                continue
            parts = value.split(self.delimiter) if self.unit == "line" else [value]
            for number, part in enumerate(parts):
                positions.append(position)
                units.append(number)
                hashes.append(_hash(normal(part)))
        place = np.array(positions, dtype=np.int64)
        return Keys(
            position=place,
            unit=np.array(units, dtype=np.int64),
            key=np.array(hashes, dtype=np.uint64).reshape(len(hashes), 2),
            rank=ranks[place],
        )

    def _ranks(self, batch: Batch) -> npt.NDArray[np.float64]:
        if self.prefer is None:
            return np.zeros(batch.num_rows)
        # The first 52 bits of the digest: as an order of hexadecimal strings, and exact as a float.
        digests = [
            int(hashlib.md5(str(value).encode("utf-8")).hexdigest()[:13], 16)
            for value in batch.column(self.prefer).to_pylist()
        ]
        ranks = np.array(digests, dtype=np.float64)
        return -ranks if self.prefer_largest else ranks

    def apply(self, batch: Batch, dropped: Sequence[npt.NDArray[np.int64]]) -> Mapping[str, Any]:
        if self.unit == "document":
            return super().apply(batch, dropped)
        between = self.delimiter if self.joined_by is None else self.joined_by
        values: list[str | None] = []
        gone = np.zeros(batch.num_rows, dtype=bool)
        for position, value in enumerate(batch.column(self.column).to_pylist()):
            if value is not None and (len(dropped[position]) or between != self.delimiter):
                parts = value.split(self.delimiter)
                lost = set(dropped[position].tolist())
                kept = [part for number, part in enumerate(parts) if number not in lost]
                gone[position] = not kept
                value = between.join(kept)
            values.append(value)
        return {
            self.column: pa.array(values, type=STRING),
            "reject": because(gone, self.reasons[0]),
        }


def _hash(value: str) -> tuple[int, int]:
    whole = xxhash.xxh3_128_intdigest(value.encode("utf-8"))
    return whole >> 64, whole & (1 << 64) - 1
