"""Where the rows of a pass come from: shards of documents, or tables of pairs.

Documents are read whole, since every column travels to the output. Of tables of pairs only the
columns are read that the steps of the pass read (features and scores from the files next to them):
the output is a list of uids, and rows travel between passes as their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.errors import PipelineError
from pipelines.formats.chunks import BadRow, Chunk
from pipelines.formats.pool_schema import conformed
from pipelines.formats.readers import read_shard, schema_of
from pipelines.formats.shard_identity import same_bytes
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_subset import VALUES
from pipelines.images.pairs import UID, pair_columns, read_table, score_files, table_columns
from pipelines.job import Held, Plan, ShardTask, load_array
from pipelines.operators import Dedup, Operator, Select
from pipelines.pipeline import Pass
from pipelines.schema import ROW, TEXT, URL, row_of
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

Ints = npt.NDArray[np.int64]
SAMPLED_ROWS = 1024  # of a table, among which the samples of a report are looked for
MAX_BAD_SHOWN = 40  # characters of a value in an error


def first_chunks(task: ShardTask) -> Iterator[Chunk]:
    """The rows of an input shard, with what is broken in it. ShardChanged as `same_bytes`."""
    source, name = open_store(task.plan.input_uri), task.input.name
    with same_bytes(source, name, task.input.identity):
        if not task.plan.pairs:
            for chunk in read_shard(source, name, shard=task.shard):
                table = conformed(chunk.table, task.plan.columns, name=name, where=source.uri)
                yield replace(chunk, table=table)
            return
        for batch in _pairs(source, task, columns_of(task.plan, task.number)):
            yield _checked(batch)


def _pairs(source: Store, task: ShardTask, columns: Sequence[str]) -> Iterator[Batch]:
    assets = task.plan.pipeline().assets
    return read_table(
        source,
        task.name,
        columns,
        scores=score_files(assets, columns, task.sha256),
        first_row=row_of(task.shard, 0),
    )


def _checked(batch: Batch) -> Chunk:
    """The pairs that have a uid; every other row is a broken record."""
    column = batch.column(UID)
    if not pa.types.is_large_string(column.type):
        raise PipelineError(f"the column {UID!r} holds {column.type}, expected strings")
    bad = kernels.uids.parse(column)[2]
    if not bad.any():
        return Chunk(batch.table)
    rows = batch.rows
    faults = []
    for row in np.flatnonzero(bad).tolist():
        value = column[row].as_py()
        faults.append(
            BadRow(
                int(rows[row]),
                f"the uid is {str(value)[:MAX_BAD_SHOWN]!r}, expected 32 lower-case hexadecimal "
                "digits",
                b"" if value is None else value.encode(),
            )
        )
    return Chunk(batch.keep(~bad).table, tuple(faults))


def task_rows(task: ShardTask, store: Store) -> Iterator[Batch]:
    """The rows of a shard as the pass before this task's left them."""
    columns = columns_of(task.plan, task.number) if task.plan.pairs else None
    return held_rows(task.input, store, task.plan, task.shard, columns=columns, sha256=task.sha256)


def held_rows(
    input: Held,
    store: Store,
    plan: Plan,
    shard: int,
    *,
    columns: Sequence[str] | None = None,
    sha256: str = "",
) -> Iterator[Batch]:
    """The rows of a shard as an earlier pass left them, in batches.

    Of tables of pairs, only `columns`; `sha256` is the input table's, where a column is a score.
    """
    source = store if input.work else open_store(plan.input_uri)
    kept = None if input.rows is None else load_array(store, input.rows)
    batches: Iterator[Batch]
    try:
        if plan.pairs:
            assert columns is not None
            batches = _held_pairs(input, store, plan, shard, columns, sha256)
        else:
            chunks = read_shard(source, input.name, shard=shard, keep_rows=input.work)
            of_pool = None if input.work else plan.columns
            batches = (
                Batch(conformed(chunk.table, of_pool, name=input.name, where=source.uri))
                for chunk in chunks
            )
        with same_bytes(source, input.name, None if input.work else input.identity):
            for batch in batches:
                if kept is not None:
                    batch = batch.keep(_among(batch.rows, kept))
                if batch.num_rows:
                    yield batch
    except ShardError:
        if input.work or not plan.quarantine:
            raise  # else the first pass set the rest of the shard aside, at this very place


def _among(rows: Ints, kept: Ints) -> npt.NDArray[np.bool_]:
    """Which of these rows are in `kept`. Both ascend; rows that are in `kept` only are ignored."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    begin, stop = np.searchsorted(kept, [rows[0], rows[-1] + 1]).tolist()
    here = kept[begin:stop]
    if rows[-1] - rows[0] == len(rows) - 1:  # without gaps, as a table's rows are: no search
        mask = np.zeros(len(rows), dtype=bool)
        mask[here - rows[0]] = True
        return mask
    return np.isin(rows, here, assume_unique=True)


def _held_pairs(
    input: Held, store: Store, plan: Plan, shard: int, columns: Sequence[str], sha256: str
) -> Iterator[Batch]:
    """Columns of an input table, and those that earlier steps wrote, row by row together."""
    written: pa.Table | None = None
    if input.columns is not None:
        with store.open(input.columns) as file:
            written = pq.read_table(file).combine_chunks()
    ours = [] if written is None else [n for n in columns if n in written.column_names]
    scores = score_files(plan.pipeline().assets, columns, sha256) if sha256 else {}
    theirs = [name for name in columns if name not in ours]
    source, first = open_store(plan.input_uri), row_of(shard, 0)
    for batch in read_table(source, input.name, theirs, scores=scores, first_row=first):
        if written is None or not batch.num_rows:
            yield batch
            continue
        rows = written.column(ROW).to_numpy()
        begin, stop = np.searchsorted(rows, [batch.rows[0], batch.rows[-1] + 1]).tolist()
        part = written.slice(begin, stop - begin)
        table = batch.keep(_among(batch.rows, rows[begin:stop])).table
        for name in ours:
            table = table.append_column(name, part.column(name))
        yield Batch(table)


def empty_pairs(task: ShardTask) -> pa.Table:
    """No rows, with the columns of a pass."""
    columns = columns_of(task.plan, task.number)
    input = task.input.model_copy(update={"rows": None})
    store = open_store(task.plan.output_uri)
    first = next(_held_pairs(input, store, task.plan, task.shard, columns, task.sha256), None)
    assert first is not None, "a table gives at least one batch"
    return first.table.slice(0, 0)


def describe_pairs(task: ShardTask, rows: Sequence[int]) -> dict[int, dict[str, str | None]]:
    """Caption, URL and uid of some pairs, of those that are among the table's first rows.

    Only one batch is read: samples for a report are not worth a pass over a table of millions.
    """
    source = open_store(task.plan.input_uri)
    columns = columns_of(task.plan, task.number)  # a sample has the uid where the pass reads it
    named = (TEXT, URL) if UID in columns else (UID, TEXT, URL)
    there = [name for name in named if name in table_columns(source, task.name)]
    first = row_of(task.shard, 0)
    batch = next(read_table(source, task.name, there, first_row=first, batch_rows=SAMPLED_ROWS))
    positions = np.searchsorted(batch.rows, rows)
    known: dict[int, dict[str, str | None]] = {}
    for row, position in zip(rows, positions.tolist(), strict=True):
        if position < batch.num_rows and batch.rows[position] == row:
            known[row] = {name: batch.column(name)[position].as_py() for name in there}
    return known


# ---- which columns of pairs


def columns_of(plan: Plan, number: int) -> list[str]:
    """The columns that a pass over pairs reads: of its steps, and what its verdict takes."""
    passes = plan.pipeline().passes()
    columns = dict.fromkeys([UID] if number in (0, len(passes) - 1) else [])
    columns |= dict.fromkeys(_reads(passes, number))
    return [name for name in columns if name != ROW]


def stored_after(plan: Plan, number: int) -> list[str]:
    """The columns that steps up to this pass wrote and later passes read."""
    passes = plan.pipeline().passes()
    written = {name for before in range(number + 1) for name in _writes(passes, before)}
    read = {name for later in range(number + 1, len(passes)) for name in _reads(passes, later)}
    return sorted(written & read)


def _reads(passes: Sequence[Pass], number: int) -> list[str]:
    """What one pass reads before it writes it."""
    before = passes[number - 1].end if number else None
    columns = [] if before is None else list(_verdict_reads(before.operator))
    current, written = passes[number], set[str]()
    for step in [*current.steps, *([current.end] if current.end is not None else [])]:
        columns += [name for name in pair_columns(step.operator) if name not in written]
        written |= set(step.operator.writes())
    if number == len(passes) - 1:  # what goes with the uids, where an earlier pass wrote it
        earlier = {name for before in range(number) for name in _writes(passes, before)}
        columns += [name for name in VALUES if name in earlier - written]
    return columns


def _writes(passes: Sequence[Pass], number: int) -> set[str]:
    before = passes[number - 1].end if number else None
    written = set() if before is None else set(before.operator.writes())
    return written.union(*(step.operator.writes() for step in passes[number].steps))


def _verdict_reads(operator: Operator) -> Sequence[str]:
    """What applying a global step's verdict reads in the pass behind it."""
    if isinstance(operator, Select):
        return () if operator.of == "rows" else (operator.of,)
    return pair_columns(operator) if isinstance(operator, Dedup) else ()


def held_schema(input: Held, store: Store, plan: Plan) -> pa.Schema:
    """The columns of the rows of a shard of documents.

    Of an input shard that cannot be read, those of the others.
    """
    if input.work:
        return schema_of(store, input.name)
    source, name = open_store(plan.input_uri), input.name
    try:
        schema = schema_of(source, name)
    except ShardError:
        if plan.like is None:
            raise
        name = plan.like
        schema = schema_of(source, name)
    return conformed(schema.empty_table(), plan.columns, name=name, where=source.uri).schema
