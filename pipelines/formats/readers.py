"""Read shards as tables: JSON lines, parquet, Arrow, WARC and plain files; bad rows are reported.

Every row gets its identity here (`row`), UTF-8 is validated here, and a record that cannot be read
becomes a `BadRow` with its bytes instead of stopping the run or vanishing. A page of a WARC file
without text (another status, no HTML, ...) is a `Refused` row with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from pipelines.batch import cut
from pipelines.errors import DataError
from pipelines.formats.arrow_tables import (
    NameTaken,
    check_names,
    empty_table,
    normal_schema,
    normal_table,
    open_batches,
)
from pipelines.formats.chunks import UNREADABLE, BadRow, Chunk, Refused, Rows, numbered
from pipelines.formats.dolma import Attributes
from pipelines.formats.json_rows import jsonl_schema, parse_row
from pipelines.formats.lines import numbered_lines
from pipelines.formats.parquet_rows import parquet_file, read_parquet
from pipelines.formats.plain_files import Value
from pipelines.formats.shards import (
    PLAIN,
    SUFFIXES,
    ShardError,
    format_of,
    hive_columns,
    with_folders,
)
from pipelines.schema import (
    EXTRA,
    ROW,
    number_of,
    row_of,
)
from pipelines.storage.base import StorageError, Store


def read_shard(store: Store, name: str, *, shard: int, keep_rows: bool = False) -> Iterator[Chunk]:
    """The rows of one shard in slices of at most 1,000 rows or about 4 MB.

    `keep_rows` uses the identities in a parquet file's own `row` column (tables between passes)
    instead of numbering the rows.

    Raises ShardError, naming shard and cause, when the file as a whole cannot be read. For a
    truncated compressed file, every complete record is yielded first and the rest is one BadRow.
    """
    format_ = format_of(name)
    if format_ is None:
        raise ShardError(f"{store.uri}/{name}: unknown format; expected {', '.join(SUFFIXES)}")
    folders = hive_columns(name)
    if folders and not keep_rows:
        for chunk in _read(store, name, format_, shard=shard, keep_rows=False):
            yield replace(chunk, table=with_folders(chunk.table, folders))
        return
    yield from _read(store, name, format_, shard=shard, keep_rows=keep_rows)


def _read(store: Store, name: str, format_: str, *, shard: int, keep_rows: bool) -> Iterator[Chunk]:
    with store.open(name) as file:
        if format_ == "parquet":
            where = f"{store.uri}/{name}"
            yield from read_parquet(file, shard=shard, where=where, keep_rows=keep_rows)
        elif format_ == "mix":
            yield from _read_mix(file.read(), shard=shard, where=f"{store.uri}/{name}")
        elif format_ == "arrow":
            yield from _read_arrow(file, shard=shard, where=f"{store.uri}/{name}")
        elif format_ in PLAIN:
            yield from _read_plain(
                PLAIN[format_](file, name), shard=shard, where=f"{store.uri}/{name}"
            )
        elif format_ == "warc":
            yield from _read_warc(file, shard=shard, where=f"{store.uri}/{name}")
        else:
            with Attributes(store, name) as attributes:
                yield from _read_jsonl(file, shard=shard, name=name, attributes=attributes)


def read_whole(store: Store, name: str, *, shard: int) -> Iterator[pa.Table]:
    """The tables of a shard without bad records; ShardError names the first bad one."""
    for chunk in read_shard(store, name, shard=shard):
        for bad in chunk.bad:
            raise ShardError(
                f"{store.uri}/{name}, record {number_of(bad.row) + 1}: {bad.error}; repair it"
            )
        yield chunk.table


def _read_jsonl(
    file: BinaryIO, *, shard: int, name: str, attributes: Attributes
) -> Iterator[Chunk]:
    rows = Rows()
    bad: list[BadRow] = []
    for number, line, error in numbered_lines(file, name):
        if error is not None:
            bad.append(BadRow(row_of(shard, number), error, line))
            continue
        if not line.strip():
            continue
        value, problem = parse_row(line)
        problem = problem or attributes.add(value)
        problem = problem or rows.add(value, row_of(shard, number), len(line))
        if problem is not None:
            bad.append(BadRow(row_of(shard, number), problem, line))
            continue
        if rows.is_full():
            yield Chunk(rows.table(), tuple(bad))
            bad = []
    if rows.rows or bad:
        yield Chunk(rows.table(), tuple(bad))


def _read_plain(values: Iterator[Value], *, shard: int, where: str) -> Iterator[Chunk]:
    rows = Rows()
    bad: list[BadRow] = []
    try:
        for number, value, problem, raw in values:
            row = row_of(shard, number)
            problem = problem or rows.add(value, row, len(raw) or len(str(value)))
            if problem is not None:
                bad.append(BadRow(row, problem, raw))
            if rows.is_full():
                yield Chunk(rows.table(), tuple(bad))
                bad = []
    except StorageError:
        raise
    except DataError as error:
        raise ShardError(f"{where}: {error}") from None
    if rows.rows or bad:
        yield Chunk(rows.table(), tuple(bad))


def _read_arrow(file: BinaryIO, *, shard: int, where: str) -> Iterator[Chunk]:
    """The batches of an Arrow stream or file, as `datasets` saves them."""
    number = 0
    try:
        batches = open_batches(file)
        check_names(batches.schema)
        for batch in batches:
            table = pa.Table.from_batches([batch], schema=batches.schema)
            table.validate(full=True)
            rows = np.arange(table.num_rows, dtype=np.int64) + row_of(shard, number)
            number += table.num_rows
            for slice_ in cut(numbered(normal_table(table), rows)):
                yield Chunk(slice_)
        if number == 0:
            empty = empty_table(batches.schema)
            yield Chunk(numbered(empty, np.zeros(0, dtype=np.int64)))
    except StorageError:
        raise
    except UNREADABLE as error:
        raise ShardError(f"{where}: {error}") from None


def _read_warc(file: BinaryIO, *, shard: int, where: str) -> Iterator[Chunk]:
    """Pages as documents: the main content of HTML responses, the text of WET conversions.

    The columns of JSON lines: `id` is WARC-Record-ID, `date` WARC-Date, the other WARC headers
    are `metadata` in `extra`. Row numbers count all pages, including those without text.
    """
    from pipelines.formats.warc import ExtractOptions, documents

    rows = Rows()
    refused: list[Refused] = []
    bad: list[BadRow] = []
    try:
        for number, page in enumerate(documents(file, options=ExtractOptions())):
            row = row_of(shard, number)
            if page.reason == "broken_record":
                error = f"the file breaks off at byte {page.offset}: {page.detail}"
                bad.append(BadRow(row, error, b""))
            elif page.text is None:
                refused.append(Refused(row, str(page.reason), page.url))
            else:
                value = {
                    "text": page.text,
                    "url": page.url,
                    "id": _header(page.headers, "warc-record-id"),
                    "date": _header(page.headers, "warc-date"),
                    "metadata": page.headers,
                }
                problem = rows.add(value, row, len(page.text))
                assert problem is None, problem  # headers are strings
            if rows.is_full():
                yield Chunk(rows.table(), tuple(bad), tuple(refused))
                refused, bad = [], []
    except ValueError as error:
        raise ShardError(f"{where}: {error}") from None
    if rows.rows or bad or refused:
        yield Chunk(rows.table(), tuple(bad), tuple(refused))


def _header(headers: dict[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)


def _read_mix(data: bytes, *, shard: int, where: str) -> Iterator[Chunk]:
    """The rows that a shard of a mixture takes from its source."""
    from pipelines.formats.mix import mixed_tables, read_mix_shard

    number = 0
    try:
        for table in mixed_tables(read_mix_shard(data, where=where)):
            rows = np.arange(number, number + table.num_rows, dtype=np.int64) + row_of(shard, 0)
            number += table.num_rows
            for slice_ in cut(numbered(normal_table(table), rows)):
                yield Chunk(slice_)
    except (ValueError, FileNotFoundError) as error:
        raise ShardError(f"{where}: {error}") from None


def fields_of(store: Store, name: str) -> set[str]:
    """The fields inside `extra` in the first rows of a shard; empty if it cannot be read."""
    try:
        chunk = next(read_shard(store, name, shard=0), None)
    except ShardError:
        return set()
    if chunk is None or EXTRA not in chunk.table.column_names:
        return set()
    rows = chunk.table.column(EXTRA).drop_null().to_pylist()
    return {field for row in rows for field in orjson.loads(row)}


def schema_of(store: Store, name: str) -> pa.Schema:
    """The columns of a shard, without reading its rows where the format allows it."""
    return columns_of(store, name)[0]


def columns_of(store: Store, name: str) -> tuple[pa.Schema, dict[str, pa.DataType]]:
    """The columns of a shard, and its nested ones with their types, which go into `extra`."""
    schema, nested = _plain_columns(store, name)
    folders = hive_columns(name)
    return (with_folders(schema.empty_table(), folders).schema if folders else schema), nested


def _plain_columns(store: Store, name: str) -> tuple[pa.Schema, dict[str, pa.DataType]]:
    where, format_ = f"{store.uri}/{name}", format_of(name)
    if format_ == "mix":
        chunk = next(_read_mix(store.read_bytes(name), shard=0, where=where), None)
        return (jsonl_schema() if chunk is None else chunk.table.schema), {}
    if format_ not in ("parquet", "arrow"):
        return jsonl_schema(), {}
    with store.open(name) as file:
        if format_ == "parquet":
            schema = parquet_file(file, where).schema_arrow
            nested = normal_schema(schema)[1]
        else:
            try:
                schema = open_batches(file).schema
                nested = normal_schema(schema)[1]
            except StorageError:
                raise
            except NameTaken as error:
                raise ShardError(f"{where}: {error}") from None
            except UNREADABLE as error:
                raise ShardError(f"{where} is not an Arrow file: {error}") from None
    return _with_row(normal_schema(schema)[0]), nested


def _with_row(schema: pa.Schema) -> pa.Schema:
    others = [field for field in schema if field.name != ROW]
    return pa.schema([pa.field(ROW, pa.int64()), *others], metadata=schema.metadata)
