"""Scores that `pipelines score` kept for a pool, joined to its rows: read, filtered by, turned into
documents again.

A folder of scores is a run whose rows have no text: the identity of the row in the pool, in a
column that names the pool, and the scores. A pipeline over that folder reads nothing else, and what
it leaves is a choice of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Filter, Modifier, because
from pipelines.records import DatasetRecord, parse_record
from pipelines.schema import ROW_BITS

POOL_ROW = "pool_row_"  # then the beginning of the pool's id
RECORD = "record.json"


class OnlyScores(Modifier, name="only_scores"):
    """Leave of each row its identity in the pool and its scores. `pipelines score` ends with it."""

    pool: str = Field(min_length=16, max_length=16, description="how the pool's id begins")
    drop: tuple[str, ...] = Field(description="the columns that are no scores")
    reasons: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        return ()

    def writes(self) -> Mapping[str, pa.DataType]:
        return {f"{POOL_ROW}{self.pool}": pa.int64()}

    def drops(self) -> tuple[str, ...]:
        return self.drop

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        return {f"{POOL_ROW}{self.pool}": pa.array(batch.rows)}


class ScoreColumns(Modifier, name="score_columns"):
    """Add columns that `pipelines score` made for this pool; nothing is computed again.

    A row that has no score there is null. Scores belong to the pool that they were made for: over
    another one the run is refused.
    """

    of: str = Field(description="the folder of scores, below one that --assets names")
    columns: dict[str, str] = Field(
        min_length=1, description="columns of it and their types, as {quality: double}"
    )
    _folder: Any = PrivateAttr(None)

    reasons: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        return ()

    def writes(self) -> Mapping[str, pa.DataType]:
        return {name: pa.type_for_alias(alias) for name, alias in self.columns.items()}

    def assets(self) -> tuple[str, ...]:
        return (f"{self.of}/{RECORD}",)

    def load(self, assets: AssetFolder) -> None:
        self._folder = RowFolder(assets.path(f"{self.of}/{RECORD}"), tuple(self.columns))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        there, positions, table = self._folder.find(batch.rows)
        taken = pa.array(np.where(there, positions, 0), mask=~there)
        types = self.writes()
        return {
            name: _one(table.column(name)).take(taken).cast(types[name]) for name in self.columns
        }


class ChosenRows(Filter, name="chosen_rows"):
    """Keep the documents whose rows a pipeline over scores has left."""

    of: str = Field(description="the folder of that run, below one that --assets names")
    reasons: ClassVar[tuple[str, ...]] = ("not_chosen",)
    _folder: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return ()

    def assets(self) -> tuple[str, ...]:
        return (f"{self.of}/{RECORD}",)

    def load(self, assets: AssetFolder) -> None:
        self._folder = RowFolder(assets.path(f"{self.of}/{RECORD}"), ())

    def reject(self, batch: Batch) -> pa.Array:
        there, _, _ = self._folder.find(batch.rows)
        return because(~there, "not_chosen")


class RowFolder:
    """A run whose rows name rows of a pool. Of one shard's files at a time the columns are held."""

    def __init__(self, record: Path, columns: Sequence[str]) -> None:
        parsed = parse_record(record.read_bytes(), source=str(record))
        if not isinstance(parsed, DatasetRecord):
            raise ValueError(f"{record} is a {parsed.kind} record, expected that of a run")
        self._folder, self._columns = record.parent, tuple(columns)
        self._files = [record.parent / file.name for file in parsed.outputs]
        self._shard = -1
        self._rows = np.zeros(0, np.int64)
        self._table = pa.table({})
        there = pq.read_schema(self._files[0]).names
        naming = [name for name in there if name.startswith(POOL_ROW)]
        missing = set(columns) - set(there)
        if not naming or missing:
            lacks = ", ".join(sorted(missing)) or "that names rows of a pool"
            raise ValueError(
                f"{record.parent} has no column {lacks}; it has {', '.join(there)}: was it made by "
                "`score`, or by a pipeline over its folder?"
            )
        self._naming = naming[0]

    @property
    def pool(self) -> str:
        """How the id of the pool begins whose rows these are."""
        return self._naming.removeprefix(POOL_ROW)

    def find(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], pa.Table]:
        """Which of the rows (of one shard) are there, their positions, and the columns."""
        shard = int(rows[0]) >> ROW_BITS if len(rows) else self._shard
        if shard != self._shard:
            self._read(shard)
        if not len(self._rows):
            nothing = np.zeros(len(rows), np.int64)
            return np.zeros(len(rows), dtype=bool), nothing, self._table
        positions = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        return self._rows[positions] == rows, positions, self._table

    def _read(self, shard: int) -> None:
        """The rows of one shard of the pool: a file of each number, as runs write them."""
        if shard >= len(self._files):
            raise ValueError(f"{self._folder} was made for a pool of {len(self._files)} shards")
        names = [self._naming, *self._columns]
        self._table = pq.read_table(self._files[shard], columns=names)
        self._rows = _one(self._table.column(self._naming)).to_numpy()
        self._shard = shard
        if len(self._rows) and (self._rows >> ROW_BITS != shard).any():
            raise ValueError(f"{self._files[shard]} holds rows of other shards than {shard}")


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
