"""The rows of a parquet file, row group by row group; damaged groups become bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, cut
from pipelines.formats.arrow_tables import (
    NameTaken,
    is_binary,
    normal_schema,
    normal_table,
    plain_size,
)
from pipelines.formats.chunks import UNREADABLE, BadRow, Chunk, numbered
from pipelines.formats.inflate import FREE_BYTES, MAX_EXPANSION
from pipelines.formats.shards import ShardError, log
from pipelines.schema import (
    KNOWN,
    ROW,
    ROW_BITS,
    row_of,
)
from pipelines.storage.base import StorageError

REPEATED_ROWS = 256  # read at once where values may repeat, which have up to a megabyte, mostly
MOST_BYTES = 64 * MAX_BATCH_BYTES  # of rows that are held at once, four times what is aimed at


def read_parquet(file: BinaryIO, *, shard: int, where: str, keep_rows: bool) -> Iterator[Chunk]:
    """Yields chunks, row group by row group; the unreadable rows of a damaged group are one BadRow.

    `keep_rows` keeps the file's own row identities; then any damage is a ShardError. ShardError
    too for a file that is not parquet or has a reserved column name.
    """
    parquet = parquet_file(file, where)
    _check_parquet(parquet, where, keep_rows=keep_rows)
    schema = normal_schema(parquet.schema_arrow)[0]
    number = 0
    for group in range(parquet.num_row_groups):
        end = number + parquet.metadata.row_group(group).num_rows
        try:
            for stored in _group_tables(parquet, group):
                table, faults = _without_bad_texts(stored, allowed=not keep_rows)
                if table.schema != schema or number + stored.num_rows > end:
                    raise pa.ArrowInvalid("other columns or more rows than the file declares")
                if not keep_rows:
                    rows = np.arange(stored.num_rows, dtype=np.int64) + row_of(shard, number)
                    table = numbered(table, np.delete(rows, [index for index, _, _ in faults]))
                set_aside = tuple(
                    BadRow(row_of(shard, number + index), problem, raw)
                    for index, problem, raw in faults
                )
                number += stored.num_rows
                if set_aside:
                    yield Chunk(table.slice(0, 0), set_aside)
                for slice_ in cut(table):
                    yield Chunk(slice_)
        except NameTaken as error:
            raise ShardError(f"{where}: {error}") from None
        except StorageError:
            raise
        except UNREADABLE as error:
            if keep_rows:  # a table that we wrote
                raise ShardError(f"{where}: row group {group} is damaged: {error}") from None
            problem = f"rows {number} to {end - 1} (row group {group}) are damaged: {error}"
            bad = BadRow(row_of(shard, number), problem, b"", num_rows=end - number)
            none = numbered(schema.empty_table(), np.zeros(0, dtype=np.int64))
            yield Chunk(none, (bad,))
        number = end
    if number == 0:
        empty = schema.empty_table()
        yield Chunk(empty if keep_rows else numbered(empty, np.zeros(0, dtype=np.int64)))


def _check_parquet(parquet: pq.ParquetFile, where: str, *, keep_rows: bool) -> None:
    """Warn that a pool's own column called `row` is replaced by row identities."""
    if not keep_rows and ROW in parquet.schema_arrow.names and not _is_ours(parquet):
        log.warning(
            "%s: the column %r is replaced by the pool's own numbers of rows; rename it to keep it",
            where,
            ROW,
        )


def _is_ours(parquet: pq.ParquetFile) -> bool:
    """Whether a file was written by a run, whose rows are identities: shard << 32 | number."""
    field = parquet.schema_arrow.field(ROW)
    return parquet.schema_arrow.names[0] == ROW and bool(pa.types.is_int64(field.type))


def _group_tables(parquet: pq.ParquetFile, group: int) -> Iterator[pa.Table]:
    """The rows of one row group as stored, some at a time. ArrowInvalid for a bomb."""
    columns = [
        parquet.metadata.row_group(group).column(n) for n in range(parquet.metadata.num_columns)
    ]
    plain = sum(column.total_uncompressed_size for column in columns)
    stored = sum(column.total_compressed_size for column in columns)
    if plain > FREE_BYTES and plain > MAX_EXPANSION * stored:
        raise pa.ArrowInvalid(f"{stored} bytes expand to {plain} (a decompression bomb?)")
    # Long documents are read a few at a time, so a row group of gigabytes is never in memory.
    row_bytes = max(1, plain // max(1, parquet.metadata.row_group(group).num_rows))
    batch_rows = min(16 * MAX_BATCH_ROWS, max(1, 16 * MAX_BATCH_BYTES // row_bytes))
    # Of a column of few different values that says little: a long one may be in every row.
    repeats = any(column.has_dictionary_page for column in columns)
    step = min(batch_rows, REPEATED_ROWS) if repeats else batch_rows
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in parquet.iter_batches(batch_size=step, row_groups=[group]):
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + plain_size(batch)
        if rows >= batch_rows or size >= MOST_BYTES:
            table = pa.Table.from_batches(waiting).combine_chunks()
            yield table.slice(0, batch_rows)
            waiting = table.slice(batch_rows).to_batches()
            rows = max(0, rows - batch_rows)
            size = sum(map(plain_size, waiting))
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _without_bad_texts(
    stored: pa.Table, *, allowed: bool
) -> tuple[pa.Table, list[tuple[int, str, bytes]]]:
    """The rows whose texts are UTF-8, normalised, and index, fault and bytes of the others.

    ArrowInvalid for other damage, and for bad texts where none are allowed.
    """
    try:
        stored.validate(full=True)
        return normal_table(stored), []
    except pa.ArrowInvalid:
        faults = _bad_texts(stored) if allowed else {}
        if not faults:
            raise
    good = np.delete(np.arange(stored.num_rows), list(faults))
    kept = stored.take(pa.array(good))
    kept.validate(full=True)
    return normal_table(kept), [(index, *fault) for index, fault in sorted(faults.items())]


def _bad_texts(stored: pa.Table) -> dict[int, tuple[str, bytes]]:
    """Rows with a string, or a known column's bytes, that are not UTF-8: fault and bytes."""
    faults: dict[int, tuple[str, bytes]] = {}
    for field, column in zip(stored.schema, stored.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            binary = pa.large_binary() if pa.types.is_large_string(field.type) else pa.binary()
            values = [value for chunk in column.chunks for value in chunk.view(binary).to_pylist()]
        elif field.name in KNOWN and is_binary(field.type):
            values = column.to_pylist()
        else:
            continue
        for index, value in enumerate(values):
            try:
                _ = value is None or value.decode()
            except UnicodeDecodeError as error:
                fault = f"the column {field.name!r} is not UTF-8 at byte {error.start}"
                faults.setdefault(index, (fault, value[:1000]))
    return faults


def parquet_file(file: BinaryIO, where: str) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
        normal_schema(parquet.schema_arrow)
    except NameTaken as error:
        raise ShardError(f"{where}: {error}") from None
    except StorageError:
        raise
    except UNREADABLE as error:
        raise ShardError(f"{where} is not a parquet file: {error}") from None
    groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    if min(groups, default=0) < 0 or sum(groups) >= 1 << ROW_BITS:
        raise ShardError(
            f"{where} is not a sound parquet file: its row groups have {groups[:9]} rows"
        )
    return parquet
