"""Keeping a part of the pool: the best by a column, or a sample by hash."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Select
from pipelines.schema import ROW, TEXT


class SelectBy(Select, name="select"):
    """Keep the part of the pool with the highest (or lowest) values of a column."""

    by: str = Field(description="the column with the score")
    lowest: bool = Field(False, description="keep the lowest values instead")

    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.of == "rows" else (self.by, self.of)

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        values = batch.column(self.by).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return -values if self.lowest else values


class HashSample(Select, name="hash_sample"):
    """Keep a sample: the rows whose hash of seed and column is highest. No chance is involved.

    `same_size_as` takes the total from a finished dataset of the same pool (the round resolves it:
    `dclm run`, or `pipelines run --same-size-as RUN`), so that two datasets have equal size.
    """

    seed: int = Field(0, ge=0, description="another seed, another sample")
    column: str = Field(TEXT, description="the column that is hashed, or `row`")
    same_size_as: str | None = Field(None, description="take the total from this pipeline's run")
    reasons: ClassVar[tuple[str, ...]] = ("not_sampled", "no_score")

    def pending(self) -> str | None:
        if self.same_size_as is None or self.total is not None:
            return None
        return (
            f"its total is the size of {self.same_size_as!r}, which is not known here; run that "
            "pipeline first, then give --same-size-as RUN"
        )

    def reads(self) -> tuple[str, ...]:
        columns = () if self.column == ROW else (self.column,)
        return columns if self.of == "rows" else (*columns, self.of)

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        seed = f"{self.seed}:".encode()
        values = batch.column(self.column).to_pylist()
        hashes = [xxhash.xxh3_64_intdigest(seed + str(v).encode()) >> 11 for v in values]
        return np.array(hashes, dtype=np.float64) / float(1 << 53)
