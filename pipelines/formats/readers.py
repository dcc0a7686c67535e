"""Shards to tables: JSON lines (plain, gzip, zstd), parquet and WARC, broken rows set aside.

Every row gets its identity here (`row`), UTF-8 is validated here, and a record that cannot be read
becomes a `BadRow` with its bytes instead of stopping or vanishing. A page of a WARC file that gives
no text (another status, no HTML, ...) is a `Refused` row with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, cut
from pipelines.errors import DataError
from pipelines.formats.dolma import Attributes, documents_only
from pipelines.formats.inflate import FREE_BYTES, MAX_EXPANSION
from pipelines.formats.lines import _parse, numbered_lines
from pipelines.schema import (
    EXTRA,
    KNOWN,
    ROW,
    ROW_BITS,
    STRING,
    is_nested,
    normal_type,
    number_of,
    row_of,
)
from pipelines.storage.base import Entry, StorageError, Store

SUFFIXES = {
    ".jsonl": "jsonl",
    ".json.gz": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".jsonl.zstd": "jsonl",
    ".parquet": "parquet",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".wet": "warc",
    ".wet.gz": "warc",
    ".mix.json": "mix",
}


class ShardError(DataError):
    """A shard that cannot be read; the message names the shard and what to do."""


@dataclass(frozen=True)
class BadRow:
    """A record that could not be read: where it was, why, and its bytes."""

    row: int
    error: str
    raw: bytes
    num_rows: int = 1  # more where only a whole group of rows can be told to be damaged


@dataclass(frozen=True)
class Refused:
    """A page that was read and gave no text: where it was and why."""

    row: int
    reason: str
    url: str | None


@dataclass(frozen=True)
class Chunk:
    """Some rows of a shard, in order, and what was found between them and is no row."""

    table: pa.Table
    bad: tuple[BadRow, ...] = ()
    refused: tuple[Refused, ...] = ()


def format_of(name: str) -> str | None:
    """`jsonl`, `parquet` or `warc` by the file's suffix, None for a file that is no shard."""
    lower = name.lower()
    for suffix, format_ in SUFFIXES.items():
        if lower.endswith(suffix):
            return format_
    return None


def shards_of(store: Store) -> list[Entry]:
    """The shards below a store, sorted by name: the order that shard numbers count.

    Hidden files, files of no known format, and Dolma's attribute files are left out. ShardError
    when none is left.
    """
    shards = documents_only(
        [
            entry
            for entry in store.list()
            if format_of(entry.name) and not any(p.startswith(".") for p in entry.name.split("/"))
        ]
    )
    if not shards:
        raise ShardError(
            f"there are no shards below {store.uri}; expected files ending in {', '.join(SUFFIXES)}"
        )
    return shards


def read_shard(store: Store, name: str, *, shard: int, keep_rows: bool = False) -> Iterator[Chunk]:
    """The rows of one shard in slices of at most 1,000 rows or about 4 MB.

    `keep_rows` takes the identities that a parquet file's own `row` column holds (tables between
    passes) in place of numbering the rows.

    Raises ShardError, naming shard and cause, when the file as a whole cannot be read. For a
    compressed file that is cut short, every record that is complete comes out first and the rest
    is one BadRow.
    """
    format_ = format_of(name)
    if format_ is None:
        raise ShardError(f"{store.uri}/{name}: unknown format; expected {', '.join(SUFFIXES)}")
    with store.open(name) as file:
        if format_ == "parquet":
            where = f"{store.uri}/{name}"
            yield from _read_parquet(file, shard=shard, where=where, keep_rows=keep_rows)
        elif format_ == "mix":
            yield from _read_mix(file.read(), shard=shard, where=f"{store.uri}/{name}")
        elif format_ == "warc":
            yield from _read_warc(file, shard=shard, where=f"{store.uri}/{name}")
        else:
            with Attributes(store, name) as attributes:
                yield from _read_jsonl(file, shard=shard, name=name, attributes=attributes)


def read_whole(store: Store, name: str, *, shard: int) -> Iterator[pa.Table]:
    """The rows of a shard that must have no broken record: ShardError names the first."""
    for chunk in read_shard(store, name, shard=shard):
        for bad in chunk.bad:
            raise ShardError(
                f"{store.uri}/{name}, record {number_of(bad.row) + 1}: {bad.error}; repair it"
            )
        yield chunk.table


def _read_jsonl(
    file: BinaryIO, *, shard: int, name: str, attributes: Attributes
) -> Iterator[Chunk]:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    size = 0
    for number, line, error in numbered_lines(file, name):
        if error is not None:
            bad.append(BadRow(row_of(shard, number), error, line))
            continue
        if not line.strip():
            continue
        value, problem = _parse(line)
        problem = problem or attributes.add(value)
        if problem is not None:
            bad.append(BadRow(row_of(shard, number), problem, line))
            continue
        rows.append(value)
        numbers.append(row_of(shard, number))
        size += len(line)
        if len(rows) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
            yield Chunk(_table_of(rows, numbers), tuple(bad))
            rows, numbers, bad, size = [], [], [], 0
    if rows or bad:
        yield Chunk(_table_of(rows, numbers), tuple(bad))


def _read_warc(file: BinaryIO, *, shard: int, where: str) -> Iterator[Chunk]:
    """Pages as documents: the main content of HTML responses, the text of WET conversions.

    Columns as of JSON lines: `id` is WARC-Record-ID, `date` WARC-Date, the other WARC headers are
    `metadata` in `extra`. Row numbers count pages, those without text too.
    """
    from pipelines.formats.warc import ExtractOptions, documents

    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    refused: list[Refused] = []
    bad: list[BadRow] = []
    size = 0
    try:
        for number, page in enumerate(documents(file, options=ExtractOptions())):
            row = row_of(shard, number)
            if page.reason == "broken_record":
                error = f"the file breaks off at byte {page.offset}: {page.detail}"
                bad.append(BadRow(row, error, b""))
            elif page.text is None:
                refused.append(Refused(row, str(page.reason), page.url))
            else:
                numbers.append(row)
                rows.append(
                    {
                        "text": page.text,
                        "url": page.url,
                        "id": page.headers.get("WARC-Record-ID"),
                        "date": page.headers.get("WARC-Date"),
                        "metadata": page.headers,
                    }
                )
                size += len(page.text)
            if len(rows) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
                yield Chunk(_table_of(rows, numbers), tuple(bad), tuple(refused))
                rows, numbers, refused, bad, size = [], [], [], [], 0
    except ValueError as error:
        raise ShardError(f"{where}: {error}") from None
    if rows or bad or refused:
        yield Chunk(_table_of(rows, numbers), tuple(bad), tuple(refused))


def _table_of(rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> pa.Table:
    """Known string fields as columns, everything else as one JSON object a row."""
    columns: dict[str, list[Any]] = {name: [] for name in KNOWN}
    for row in rows:
        rest = {}
        for name, value in row.items():
            if name in KNOWN and name != EXTRA and isinstance(value, str | None):
                continue
            rest[name] = value
        for name in KNOWN:
            if name != EXTRA:
                value = row.get(name)
                columns[name].append(value if isinstance(value, str) else None)
        columns[EXTRA].append(orjson.dumps(rest).decode() if rest else None)
    arrays = {ROW: pa.array(numbers, type=pa.int64())}
    for name, values in columns.items():
        arrays[name] = pa.array(values, type=STRING)
    return pa.table(arrays)


def jsonl_schema() -> pa.Schema:
    """The columns that every shard of JSON lines, and every WARC file, has."""
    return pa.schema([(ROW, pa.int64()), *KNOWN.items()])


UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What pyarrow raises at damaged files. A StorageError among them is not the file's fault."""


def _read_parquet(file: BinaryIO, *, shard: int, where: str, keep_rows: bool) -> Iterator[Chunk]:
    """Row group by row group; of a damaged one, the rows that cannot be had are one BadRow."""
    parquet = _parquet_file(file, where)
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
                    table = _numbered(table, rows)
                number += table.num_rows
                for slice_ in cut(table):
                    yield Chunk(slice_)
        except StorageError:
            raise
        except UNREADABLE as error:
            if keep_rows:  # a table that we wrote
                raise ShardError(f"{where}: row group {group} is damaged: {error}") from None
            problem = f"rows {number} to {end - 1} (row group {group}) are damaged: {error}"
            bad = BadRow(row_of(shard, number), problem, b"", num_rows=end - number)
            none = _numbered(schema.empty_table(), np.zeros(0, dtype=np.int64))
            yield Chunk(none, (bad,))
        number = end
    if number == 0:
        empty = schema.empty_table()
        yield Chunk(empty if keep_rows else _numbered(empty, np.zeros(0, dtype=np.int64)))


def _group_tables(parquet: pq.ParquetFile, group: int) -> Iterator[pa.Table]:
    """The rows of one row group, checked: text is UTF-8, which everything behind relies on."""
    columns = [
        parquet.metadata.row_group(group).column(n) for n in range(parquet.metadata.num_columns)
    ]
    plain = sum(column.total_uncompressed_size for column in columns)
    stored = sum(column.total_compressed_size for column in columns)
    if plain > FREE_BYTES and plain > MAX_EXPANSION * stored:
        raise pa.ArrowInvalid(f"{stored} bytes expand to {plain} (a decompression bomb?)")
    for batch in parquet.iter_batches(batch_size=16 * MAX_BATCH_ROWS, row_groups=[group]):
        table = pa.Table.from_batches([batch])
        table.validate(full=True)
        yield normal_table(table)


def _parquet_file(file: BinaryIO, where: str) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
        normal_table(parquet.schema_arrow.empty_table())
    except StorageError:
        raise
    except UNREADABLE as error:
        raise ShardError(f"{where} is not a parquet file: {error}") from None
    groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    if min(groups, default=0) < 0 or sum(groups) >= 1 << ROW_BITS:
        raise ShardError(f"{where} is no sound parquet file: its row groups have {groups[:9]} rows")
    return parquet


def _read_mix(data: bytes, *, shard: int, where: str) -> Iterator[Chunk]:
    """The rows that a shard of a mixture takes from its source."""
    from pipelines.formats.mix import mixed_tables, read_mix_shard

    number = 0
    try:
        for table in mixed_tables(read_mix_shard(data, where=where)):
            rows = np.arange(number, number + table.num_rows, dtype=np.int64) + row_of(shard, 0)
            number += table.num_rows
            for slice_ in cut(_numbered(normal_table(table), rows)):
                yield Chunk(slice_)
    except (ValueError, FileNotFoundError) as error:
        raise ShardError(f"{where}: {error}") from None


def _numbered(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The table with `row` as its first column."""
    if ROW in table.column_names:
        table = table.drop_columns([ROW])
    return table.add_column(0, ROW, pa.array(rows))


def normal_table(table: pa.Table) -> pa.Table:
    """All strings as large_string; nested columns moved into the JSON of `extra`."""
    nested = [f.name for f in table.schema if is_nested(f.type)]
    if nested:
        table = _nested_to_extra(table, nested)
    for number, field in enumerate(table.schema):
        wanted = normal_type(field.type)
        if wanted != field.type:
            column = table.column(number).cast(wanted)
            table = table.set_column(number, field.name, column)
    return table


def _nested_to_extra(table: pa.Table, nested: list[str]) -> pa.Table:
    values = table.select(nested).to_pylist()
    known = table.column(EXTRA).to_pylist() if EXTRA in table.column_names else [None] * len(values)
    merged = [
        orjson.dumps({**(orjson.loads(old) if old else {}), **row}, default=str).decode()
        for old, row in zip(known, values, strict=True)
    ]
    table = table.drop_columns([name for name in [*nested, EXTRA] if name in table.column_names])
    return table.append_column(EXTRA, pa.array(merged, type=STRING))


def schema_of(store: Store, name: str) -> pa.Schema:
    """The columns of a shard, without reading its rows where the format allows it."""
    if format_of(name) == "mix":
        chunk = next(_read_mix(store.read_bytes(name), shard=0, where=f"{store.uri}/{name}"), None)
        if chunk is not None:
            return chunk.table.schema
    if format_of(name) == "parquet":
        with store.open(name) as file:
            schema = _parquet_file(file, f"{store.uri}/{name}").schema_arrow
        return _numbered(normal_table(schema.empty_table()), np.zeros(0, dtype=np.int64)).schema
    return jsonl_schema()


def to_json_rows(table: pa.Table) -> Iterable[bytes]:
    """Rows as JSON lines: the fields of `extra` come back, `row` and nulls are left out."""
    for row in table.to_pylist():
        extra = row.pop(EXTRA, None)
        row.pop(ROW, None)
        value = {name: field for name, field in row.items() if field is not None}
        if extra:
            value |= orjson.loads(extra)
        yield orjson.dumps(value) + b"\n"
