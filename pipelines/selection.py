"""Keeping a part of the pool: the best by a column, or a sample by hash."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field, model_validator

from pipelines.batch import Batch
from pipelines.extra_fields import canonical
from pipelines.kernels.splitmix import mixed
from pipelines.operators import Select
from pipelines.schema import ROW, TEXT


class SelectBy(Select, name="select"):
    """Keep the part of the pool with the highest (or lowest) values of a column."""

    by: str = Field(description="the column with the score")
    lowest: bool = Field(False, description="keep the lowest values instead")

    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.of == "rows" else (self.by, self.of)

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        values = as_scores(batch.column_or_null(self.by), self.by)
        return -values if self.lowest else values


def as_scores(values: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """Numbers as doubles, times as seconds since 1970; NaN for null. ValueError for other types.

    Integers above 2^53 are rounded to the nearest double.
    """
    type_ = values.type
    if pa.types.is_date(type_):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(values.type) or pa.types.is_duration(values.type):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[values.type.unit]
        units = values.cast(pa.int64())
        return _doubles(units) / per_second
    types = pa.types
    kinds = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    if not any(is_kind(type_) for is_kind in kinds):
        raise ValueError(f"the column {name!r} holds {type_}; a score is a number or a time")
    return _doubles(values.cast(pa.int8()) if pa.types.is_boolean(type_) else values)


def _doubles(values: pa.Array) -> npt.NDArray[np.float64]:
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


class HashSample(Select, name="hash_sample"):
    """Keep a sample: the rows whose hash of seed and column is highest. No chance is involved.

    `same_size_as` takes the total from a finished dataset of the same pool (the round resolves it:
    `dclm run`, or `pipelines run --same-size-as RUN`), so that two datasets have equal size.
    """

    seed: int = Field(0, ge=0, description="another seed, another sample")
    column: str = Field(TEXT, description="the column that is hashed, or `row`")
    same_size_as: str | None = Field(None, description="take the total from this pipeline's run")
    plain: bool = Field(
        False,
        description="hash the value without the seed, and keep the lowest hashes",
        exclude_if=lambda plain: not plain,
    )
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
        seed = b"" if self.plain else f"{self.seed}:".encode()
        hashes, missing = _hashes(batch.column(self.column), seed)
        scores = (hashes >> np.uint64(11)).astype(np.float64) / float(1 << 53)
        if self.plain:
            scores = -scores
        scores[missing] = np.nan  # nothing to hash: no score
        return scores


def _hashes(
    column: pa.ChunkedArray, seed: bytes
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A hash of each value, whatever its type, and which values are null."""
    values = column.to_pylist()
    hashes = [xxhash.xxh3_64_intdigest(seed + canonical(value).encode()) for value in values]
    missing = np.array([value is None for value in values], bool)
    return np.array(hashes, np.uint64), missing


class SoftCap(Select, name="soft_cap"):
    """Draw a sample in which good rows may come several times, each further time less likely.

    Copy number j (from 0) of a row has the log-weight `by / temperature - penalty * j`; copies are
    drawn without replacement in proportion to their weights, no row more than `most` times. Chance
    is the hash of seed, row and copy. Must be the last step. Between passes a row takes 8 * `most`
    bytes.
    (Shechter and Carmon 2025, arXiv 2503.08805, Soft Cap Sampling; drawn here as Gumbel top-k: Kool
    et al. 2019, arXiv 1903.06059)
    """

    by: str = Field(description="the column with the score")
    temperature: float = Field(1.0, gt=0, description="what a score is divided by")
    penalty: float = Field(0.15, gt=0, description="what each copy takes from the log-weight")
    most: int = Field(10, ge=1, le=255, description="copies of a row, at most")
    seed: int = Field(0, ge=0, description="another seed, another sample")
    column: str = Field("uid", description="the column that is hashed, or `row`")
    reasons: ClassVar[tuple[str, ...]] = ("not_drawn", "no_score")

    @model_validator(mode="after")
    def _of_rows(self) -> SoftCap:
        if self.of != "rows" or self.ties != "row":
            raise ValueError("soft_cap draws rows: leave `of` and `ties` as they are")
        return self

    def reads(self) -> tuple[str, ...]:
        return (self.by,) if self.column == ROW else (self.by, self.column)

    def copies(self) -> int:
        return self.most

    def score(self, batch: Batch) -> npt.NDArray[np.float64]:
        """The log-weight of each copy plus a Gumbel variate, shape (rows, most)."""
        weights = as_scores(batch.column_or_null(self.by), self.by) / self.temperature
        rows, missing = _hashes(batch.column(self.column), f"{self.seed}:".encode())
        copy = np.arange(self.most)
        draws = mixed(rows[:, None], copy[None, :] + 1)
        uniform = ((draws >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)
        scores = weights[:, None] - self.penalty * copy - np.log(-np.log(uniform))
        scores[missing] = np.nan
        return scores
