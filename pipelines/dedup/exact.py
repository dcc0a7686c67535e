"""Exact deduplication: equal texts, URLs or other columns over the whole pool."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import xxhash
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Dedup, Keys
from pipelines.schema import TEXT


class ExactDedup(Dedup, name="exact_dedup"):
    """Keep one of all documents that are equal in a column: the first in pool order.

    Compared by a 128-bit hash (xxh3). Rows where the column is null are never duplicates.
    """

    column: str = Field(TEXT, description="the column that is compared")
    normalize: Literal["none", "whitespace_lowercase"] = Field(
        "none", description="compare as it is, or lower-cased with whitespace squeezed"
    )
    reference: ClassVar[str | None] = "exact_dedup"

    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    def keys(self, batch: Batch) -> Keys:
        positions, hashes = [], []
        for position, value in enumerate(batch.column(self.column).to_pylist()):
            if value is not None:
                positions.append(position)
                hashes.append(_hash(self._normal(str(value))))
        key = np.array(hashes, dtype=np.uint64).reshape(len(hashes), 2)
        return Keys(
            position=np.array(positions, dtype=np.int64),
            unit=np.zeros(len(hashes), dtype=np.int64),
            key=key,
            rank=np.zeros(len(hashes)),
        )

    def _normal(self, value: str) -> str:
        return " ".join(value.lower().split()) if self.normalize != "none" else value


def _hash(value: str) -> tuple[int, int]:
    whole = xxhash.xxh3_128_intdigest(value.encode("utf-8"))
    return whole >> 64, whole & (1 << 64) - 1
