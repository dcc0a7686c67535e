"""Rows of a finished run's pool, read again from where they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch import Batch
from pipelines.engine.run_folder import read_run
from pipelines.formats.readers import read_shard
from pipelines.images.pairs import (
    FEATURES,
    TEXT,
    UID,
    URL,
    read_table,
    score_files,
    table_columns,
    tables_of,
)
from pipelines.job import Plan
from pipelines.records import File, PoolRecord, RecordError
from pipelines.schema import ROW, row_of, shard_of
from pipelines.sources import columns_of
from pipelines.storage.base import Store
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store


@dataclass(frozen=True)
class RunPool:
    """The pool that a run read. `files`: its shards as the run's record of it lists them.

    A file that came later is none of them, and a pool that was removed is still named.
    """

    store: Store  # of the run
    plan: Plan
    files: tuple[File, ...]

    def batches(self, number: int, *, columns: Sequence[str] | None = None) -> Iterator[Batch]:
        """The rows of one shard. RecordError when it is not where it was.

        `columns`: of tables of pairs, these where the table has them; else what the steps read,
        uid, url and caption.
        """
        source, shard = open_store(self.plan.input_uri), self.files[number]
        if not source.exists(shard.name):
            raise RecordError(
                f"the pool of this run is not at {self.plan.input_uri} any more (no {shard.name}), "
                "so its documents cannot be shown; put it back"
            )
        if not self.plan.pairs:
            for chunk in read_shard(source, shard.name, shard=number):
                yield Batch(chunk.table)
            return
        if columns is None:
            passes = range(len(self.plan.pipeline().passes()))
            read = dict.fromkeys(name for n in passes for name in columns_of(self.plan, n))
            columns = list(dict.fromkeys((UID, URL, TEXT)) | read)
        scores = score_files(self.plan.pipeline().assets, columns, shard.sha256)
        there = {*table_columns(source, shard.name), *scores, *FEATURES}
        yield from read_table(
            source,
            shard.name,
            [name for name in columns if name in there],
            scores=scores,
            first_row=row_of(number, 0),
        )

    def kept_pairs(self, number: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of one table of pairs that the run kept: neither rejected nor set aside."""
        out = np.concatenate([np.zeros(0, np.int64), *self._rows_out(number)])
        for batch in self.batches(number, columns=columns):
            yield batch.table.filter(pa.array(~np.isin(batch.rows, out)))

    def _rows_out(self, number: int) -> Iterator[np.ndarray]:
        for name in self._rejected.get(number, ()):
            with self.store.open(name) as file:
                yield pq.read_table(file, columns=[ROW])[ROW].to_numpy()
        for name in self._set_aside.get(number, ()):
            lines = self.store.read_bytes(name).splitlines()
            yield np.array([orjson.loads(line)["row"] for line in lines], np.int64)

    @cached_property
    def _rejected(self) -> dict[int, list[str]]:
        return files_by_shard(self.store, "rejected/")

    @cached_property
    def _set_aside(self) -> dict[int, list[str]]:
        return files_by_shard(self.store, "quarantine/")


def files_by_shard(store: Store, folder: str) -> dict[int, list[str]]:
    """The files that a run's passes left in a folder, `PASS-SHARD.HASH.suffix`, listed once."""
    names: dict[int, list[str]] = {}
    for entry in store.list(folder):
        _, _, shard = entry.name.rpartition("/")[2].partition(".")[0].partition("-")
        names.setdefault(int(shard), []).append(entry.name)
    return names


def run_pool(store: Store) -> RunPool:
    """The pool of the run in a folder, which may have been removed since."""
    plan = read_run(store).of_pipeline()
    record = next(link for link in read_chain(store) if isinstance(link, PoolRecord))
    return RunPool(store, plan, tables_of(record) if plan.pairs else tuple(record.outputs))


def pool_rows(store: Store, rows: Sequence[int]) -> tuple[Plan, dict[int, Batch]]:
    """The plan of a run, and rows of its pool by their identity, one batch each.

    RecordError when the pool is not where it was.
    """
    pool = run_pool(store)
    batches: dict[int, Batch] = {}
    for number in sorted({shard_of(row) for row in rows}):
        here = pa.array([row for row in rows if shard_of(row) == number])
        for batch in pool.batches(number):
            match = batch.table.filter(pc.is_in(batch.table[ROW], here))
            for position in range(match.num_rows):
                row = Batch(match.slice(position, 1))
                batches[int(row.rows[0])] = row
    return pool.plan, batches
