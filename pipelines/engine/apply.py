"""Run a pipeline over a table in memory with the engine used for pools, for tests and notebooks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.run import run
from pipelines.execution.progress import quiet
from pipelines.formats.arrow_tables import normal_table
from pipelines.formats.pool import Pool, open_pool
from pipelines.pipeline import Pipeline
from pipelines.schema import ROW, STRING
from pipelines.stats import RunStats
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

REJECTED = pa.schema(
    [("row", pa.int64()), ("step", pa.int32()), ("operator", STRING), ("reason", STRING)]
)
ERRORS = pa.schema([("row", pa.int64()), ("step", STRING), ("message", STRING)])


@dataclass(frozen=True)
class Applied:
    """The outcome of each row: kept (`table`), `rejected` with step and reason, or in `errors`."""

    table: pa.Table
    rejected: pa.Table
    errors: pa.Table
    stats: RunStats


def apply(pipeline: Pipeline, table: pa.Table, *, quarantine: bool = True) -> Applied:
    """Run over the rows as one shard; `row` is the position in `table`, counted from 0.

    Columns keep their names and types, except that strings become large_string and nested columns
    JSON. Rows on which an operator raises are listed in `errors`; with `quarantine=False` they stop
    the run (OperatorFailed).
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        source = Path(folder) / "in"
        source.mkdir()
        pq.write_table(normal_table(table), source / "00000.parquet")
        pool: Pool = open_pool(str(source))
        out = str(Path(folder) / "out")
        result = run(pipeline, pool, out=out, quarantine=quarantine, allow_empty=True)
        store = open_store(out)
        kept = pa.concat_tables(
            [pq.read_table(store.open(file.name)) for file in result.record.outputs]
        )
        return Applied(kept, _rejected(store), _errors(store), result.summary.stats)


def _rejected(store: Store) -> pa.Table:
    parts = [pq.read_table(store.open(e.name)) for e in store.list("rejected/")]
    if not parts:
        return REJECTED.empty_table()
    table = pa.concat_tables(parts).select(REJECTED.names)
    order = np.argsort(table.column(ROW).to_numpy(), kind="stable")
    return table.take(pa.array(order))


def _errors(store: Store) -> pa.Table:
    rows = [
        orjson.loads(line)
        for entry in store.list("quarantine/")
        for line in store.read_bytes(entry.name).splitlines()
    ]
    rows.sort(key=lambda row: row["row"])
    columns = {
        "row": [row["row"] for row in rows],
        "step": [row["step"] for row in rows],
        "message": [row["error"] for row in rows],
    }
    return pa.table(columns, schema=ERRORS)
