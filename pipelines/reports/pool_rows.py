"""Rows of a finished run's pool, read again from where they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch import Batch
from pipelines.engine.run import pool_of
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
)
from pipelines.job import Plan
from pipelines.records import RecordError
from pipelines.schema import ROW, row_of, shard_of
from pipelines.sources import columns_of
from pipelines.storage.base import Store
from pipelines.storage.open import open_store


def pool_rows(store: Store, rows: Sequence[int]) -> tuple[Plan, dict[int, Batch]]:
    """The plan of a run, and rows of its pool by their identity, one batch each.

    Of tables of pairs: what the run's steps read, uid, url and caption. RecordError when the pool
    is not where it was.
    """
    plan = read_run(store).of_pipeline()
    batches: dict[int, Batch] = {}
    for number in sorted({shard_of(row) for row in rows}):
        here = pa.array([row for row in rows if shard_of(row) == number])
        for batch in shard_batches(plan, number):
            match = batch.table.filter(pc.is_in(batch.table[ROW], here))
            for position in range(match.num_rows):
                row = Batch(match.slice(position, 1))
                batches[int(row.rows[0])] = row
    return plan, batches


def kept_pairs(store: Store, plan: Plan, number: int, columns: Sequence[str]) -> pa.Table:
    """The rows of one table of pairs that a run kept: neither rejected nor set aside."""
    tables = [batch.table for batch in shard_batches(plan, number, columns=columns)]
    table = pa.concat_tables(tables).combine_chunks()
    out = []
    for entry in store.list("rejected/"):
        if f"-{number:05d}." in entry.name:
            with store.open(entry.name) as file:
                out.append(pq.read_table(file, columns=[ROW])[ROW].to_numpy())
    for entry in store.list("quarantine/"):
        lines = store.read_bytes(entry.name).splitlines()
        out.append(np.array([orjson.loads(line)["row"] for line in lines], np.int64))
    if not out:
        return table
    return table.filter(pa.array(~np.isin(table[ROW].to_numpy(), np.concatenate(out))))


def shard_batches(
    plan: Plan, number: int, *, columns: Sequence[str] | None = None
) -> Iterator[Batch]:
    """The rows of one shard of a run's pool. RecordError when it is not where it was.

    `columns`: of tables of pairs, these where the table has them; else what the run's steps read.
    """
    source = open_store(plan.input_uri)
    shard = pool_of(plan).shards[number]
    if not source.exists(shard.name):
        raise RecordError(
            f"the pool of this run is not at {plan.input_uri} any more (no {shard.name}), so its "
            "documents cannot be shown; put it back"
        )
    if not plan.pairs:
        yield from (Batch(chunk.table) for chunk in read_shard(source, shard.name, shard=number))
        return
    if columns is None:
        passes = range(len(plan.pipeline().passes()))
        read = dict.fromkeys(name for n in passes for name in columns_of(plan, n))
        columns = list(dict.fromkeys((UID, URL, TEXT)) | read)
    scores = score_files(plan.pipeline().assets, columns, shard.sha256)
    there = {*table_columns(source, shard.name), *scores, *FEATURES}
    yield from read_table(
        source,
        shard.name,
        [name for name in columns if name in there],
        scores=scores,
        first_row=row_of(number, 0),
    )
