"""The rows of a parquet file, row group by row group; damaged groups become bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, cut
from pipelines.formats.arrow_tables import NameTaken, normal_schema, normal_table
from pipelines.formats.chunks import UNREADABLE, BadRow, Chunk, numbered
from pipelines.formats.inflate import FREE_BYTES, MAX_EXPANSION
from pipelines.formats.shards import ShardError, log
from pipelines.schema import (
    ROW,
    ROW_BITS,
    row_of,
)
from pipelines.storage.base import StorageError


def read_parquet(file: BinaryIO, *, shard: int, where: str, keep_rows: bool) -> Iterator[Chunk]:
    """Row group by row group; of a damaged one, the rows that cannot be had are one BadRow."""
    parquet = parquet_file(file, where)
    _check_parquet(parquet, where, keep_rows=keep_rows)
    schema = normal_table(parquet.schema_arrow.empty_table()).schema
    number = 0
    for group in range(parquet.num_row_groups):
        end = number + parquet.metadata.row_group(group).num_rows
        try:
            for table in _group_tables(parquet, group):
                if table.schema != schema or number + table.num_rows > end:
                    raise pa.ArrowInvalid("other columns or more rows than the file declares")
                if not keep_rows:
                    rows = np.arange(table.num_rows, dtype=np.int64) + row_of(shard, number)
                    table = numbered(table, rows)
                number += table.num_rows
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
    """Say that a column of the pool's own called `row` is replaced by the identity of rows."""
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
    """The rows of one row group, checked: text is UTF-8, which everything behind relies on."""
    columns = [
        parquet.metadata.row_group(group).column(n) for n in range(parquet.metadata.num_columns)
    ]
    plain = sum(column.total_uncompressed_size for column in columns)
    stored = sum(column.total_compressed_size for column in columns)
    if plain > FREE_BYTES and plain > MAX_EXPANSION * stored:
        raise pa.ArrowInvalid(f"{stored} bytes expand to {plain} (a decompression bomb?)")
    # Long documents come a few at a time: a row group of gigabytes is not held whole.
    row_bytes = max(1, plain // max(1, parquet.metadata.row_group(group).num_rows))
    batch_rows = min(16 * MAX_BATCH_ROWS, max(1, 16 * MAX_BATCH_BYTES // row_bytes))
    for batch in parquet.iter_batches(batch_size=batch_rows, row_groups=[group]):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)
        yield normal_table(table)


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
