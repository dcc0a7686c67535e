"""Shards to tables: JSON lines, parquet, Arrow, WARC and plain files; broken rows are set aside.

Every row gets its identity here (`row`), UTF-8 is validated here, and a record that cannot be read
becomes a `BadRow` with its bytes instead of stopping or vanishing. A page of a WARC file that gives
no text (another status, no HTML, ...) is a `Refused` row with the reason.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS, cut
from pipelines.errors import DataError
from pipelines.formats.arrow_tables import NameTaken, check_names, normal_table, open_batches
from pipelines.formats.dolma import ATTRIBUTES, Attributes, documents_only
from pipelines.formats.inflate import FREE_BYTES, MAX_EXPANSION
from pipelines.formats.json_rows import extra_of, jsonl_schema, parse_row, table_of
from pipelines.formats.lines import numbered_lines
from pipelines.formats.plain_files import Value, csv_values, json_values, text_values
from pipelines.schema import (
    EXTRA,
    KNOWN,
    ROW,
    ROW_BITS,
    STRING,
    number_of,
    row_of,
)
from pipelines.storage.base import Entry, StorageError, Store

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
    ".json.gz": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".jsonl.zstd": "jsonl",
    ".jsonl.xz": "jsonl",
    ".jsonl.bz2": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".wet": "warc",
    ".wet.gz": "warc",
    ".mix.json": "mix",
    **dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "csv"),
    ".json": "json",
    ".txt": "text",
}
PLAIN: dict[str, Callable[[BinaryIO, str], Iterator[Value]]] = {
    "csv": csv_values,
    "json": json_values,
    "text": text_values,
}
"""Formats of files that are shards only where a folder has none of another format."""
ABOUT = ("dataset_info.json", "dataset_dict.json", "state.json")  # as `save_to_disk` leaves them


log = logging.getLogger(__name__)


class ShardError(DataError):
    """A shard that cannot be read; the message names the shard and what to do."""


@dataclass(frozen=True)
class BadRow:
    """A record that could not be read: where it was, why, and its bytes."""

    row: int
    error: str
    raw: bytes
    num_rows: int = 1  # more where only a whole group of rows can be recognised as damaged


@dataclass(frozen=True)
class Refused:
    """A page that was read and gave no text: where it was and why."""

    row: int
    reason: str
    url: str | None


@dataclass(frozen=True)
class Chunk:
    """Some rows of a shard, in order, and what was found between them and is not a row."""

    table: pa.Table
    bad: tuple[BadRow, ...] = ()
    refused: tuple[Refused, ...] = ()


def format_of(name: str) -> str | None:
    """The format by the suffix, as `jsonl` or `parquet`; None for a file that is not a shard."""
    lower = name.lower()
    for suffix, format_ in SUFFIXES.items():
        if lower.endswith(suffix):
            return format_
    return None


def shards_of(store: Store) -> list[Entry]:
    """The shards below a store, sorted by name: the order that shard numbers count.

    Left out, and reported, are files of no known format, hidden ones, those in folders whose name
    begins with `.` or `_` (as Spark leaves them), and the files of runs that lie in the folder;
    Dolma's attributes come with their documents. ShardError when no shard is left.
    """
    entries = list(store.list())
    runs = {e.name.removesuffix("run.json") for e in entries if e.name.endswith("run.json")}
    runs = {prefix for prefix in runs if not prefix or prefix.endswith("/")}
    kept: list[Entry] = []
    left_out: dict[str, list[str]] = {}
    for entry in entries:
        if why := _left_out(entry.name, runs):
            left_out.setdefault(why, []).append(entry.name)
        else:
            kept.append(entry)
    if any(format_of(entry.name) not in PLAIN for entry in kept):
        beside = [entry.name for entry in kept if format_of(entry.name) in PLAIN]
        kept = [entry for entry in kept if format_of(entry.name) not in PLAIN]
        if beside:
            left_out["plain files beside shards of another format"] = beside
    shards = documents_only(kept)
    for why, names in left_out.items():
        log.warning("%s: %d files are left out (%s): %s", store.uri, len(names), why, _some(names))
    if not shards:
        raise ShardError(_nothing_in(store, left_out))
    return shards


UNKNOWN = "not a format of shards"


def _left_out(name: str, runs: set[str]) -> str | None:
    """Why a file of a folder is not a shard of the pool."""
    if any(name.startswith(run) for run in runs):
        return "part of a run"
    *folders, leaf = name.split("/")
    if leaf.startswith(".") or any(folder.startswith((".", "_")) for folder in folders):
        return "hidden, or of a job that did not end"
    if (format_of(name) is None and not name.startswith(ATTRIBUTES)) or leaf in ABOUT:
        return UNKNOWN
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _nothing_in(store: Store, left_out: Mapping[str, list[str]]) -> str:
    path = store.local_path("")
    if path is not None and path.is_file():
        return f"{store.uri} is a file; give the folder that holds it"
    if path is not None and not path.exists():
        return f"there is no folder {store.uri}"
    other = left_out.get(UNKNOWN, [])
    here = f" (here are {_some(other)})" if other else ""
    return (
        f"there are no shards below {store.uri}{here}; expected files ending in "
        f"{', '.join(SUFFIXES)}; write other formats as JSON lines, one object with `text` a line"
    )


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
    folders = hive_columns(name)
    if folders and not keep_rows:
        for chunk in _read(store, name, format_, shard=shard, keep_rows=False):
            yield replace(chunk, table=_with_folders(chunk.table, folders))
        return
    yield from _read(store, name, format_, shard=shard, keep_rows=keep_rows)


HIVE = re.compile(r"([A-Za-z_]\w*)=([^/]+)/")


def hive_columns(name: str) -> dict[str, str]:
    """What the folders of a shard say of its rows, as `lang=en/` does (Hive, Spark)."""
    return {key: unquote(value) for key, value in HIVE.findall(name)}


def _with_folders(table: pa.Table, folders: Mapping[str, str]) -> pa.Table:
    """The table with a column for each folder that says something the rows do not."""
    for key, value in folders.items():
        if key not in (*table.column_names, ROW):
            column = pa.repeat(pa.scalar(value, type=STRING), table.num_rows)
            table = table.append_column(key, column)
        elif key in KNOWN and table.column(key).null_count == table.num_rows:
            column = pa.repeat(pa.scalar(value, type=STRING), table.num_rows)
            table = table.set_column(table.column_names.index(key), key, column)
    return table


def _read(store: Store, name: str, format_: str, *, shard: int, keep_rows: bool) -> Iterator[Chunk]:
    with store.open(name) as file:
        if format_ == "parquet":
            where = f"{store.uri}/{name}"
            yield from _read_parquet(file, shard=shard, where=where, keep_rows=keep_rows)
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
    rows = _Rows()
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
    rows = _Rows()
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
            for slice_ in cut(_numbered(normal_table(table), rows)):
                yield Chunk(slice_)
        if number == 0:
            empty = normal_table(batches.schema.empty_table())
            yield Chunk(_numbered(empty, np.zeros(0, dtype=np.int64)))
    except StorageError:
        raise
    except UNREADABLE as error:
        raise ShardError(f"{where}: {error}") from None


class _Rows:
    """Rows that wait to become a table."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._extras: list[str | None] = []
        self._numbers: list[int] = []
        self._size = 0

    def add(self, row: dict[str, Any], number: int, size: int) -> str | None:
        """Take a row; what is wrong with it, if anything is."""
        extra, problem = extra_of(row)
        if problem is None:
            self.rows.append(row)
            self._extras.append(extra)
            self._numbers.append(number)
            self._size += size
        return problem

    def is_full(self) -> bool:
        return len(self.rows) >= MAX_BATCH_ROWS or self._size >= MAX_BATCH_BYTES

    def table(self) -> pa.Table:
        """The rows so far; it holds none after."""
        table = table_of(self.rows, self._extras, self._numbers)
        self.rows, self._extras, self._numbers, self._size = [], [], [], 0
        return table


def _read_warc(file: BinaryIO, *, shard: int, where: str) -> Iterator[Chunk]:
    """Pages as documents: the main content of HTML responses, the text of WET conversions.

    Columns as of JSON lines: `id` is WARC-Record-ID, `date` WARC-Date, the other WARC headers are
    `metadata` in `extra`. Row numbers count pages, those without text too.
    """
    from pipelines.formats.warc import ExtractOptions, documents

    rows = _Rows()
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


UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What pyarrow raises at damaged files. A StorageError among them is not the file's fault."""


def _read_parquet(file: BinaryIO, *, shard: int, where: str, keep_rows: bool) -> Iterator[Chunk]:
    """Row group by row group; of a damaged one, the rows that cannot be had are one BadRow."""
    parquet = _parquet_file(file, where)
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
                    table = _numbered(table, rows)
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
            none = _numbered(schema.empty_table(), np.zeros(0, dtype=np.int64))
            yield Chunk(none, (bad,))
        number = end
    if number == 0:
        empty = schema.empty_table()
        yield Chunk(empty if keep_rows else _numbered(empty, np.zeros(0, dtype=np.int64)))


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


def _parquet_file(file: BinaryIO, where: str) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
        check_names(parquet.schema_arrow)
        normal_table(parquet.schema_arrow.empty_table())
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


def fields_of(store: Store, name: str) -> set[str]:
    """The fields inside `extra` that the first rows of a shard have; none of one that is broken."""
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
    plain = _plain_schema(store, name)
    return _with_folders(plain.empty_table(), hive_columns(name)).schema


def _plain_schema(store: Store, name: str) -> pa.Schema:
    if format_of(name) == "mix":
        chunk = next(_read_mix(store.read_bytes(name), shard=0, where=f"{store.uri}/{name}"), None)
        if chunk is not None:
            return chunk.table.schema
    if format_of(name) == "parquet":
        with store.open(name) as file:
            schema = _parquet_file(file, f"{store.uri}/{name}").schema_arrow
        return _numbered(normal_table(schema.empty_table()), np.zeros(0, dtype=np.int64)).schema
    if format_of(name) == "arrow":
        with store.open(name) as file:
            try:
                schema = open_batches(file).schema
            except UNREADABLE as error:
                raise ShardError(f"{store.uri}/{name} is not an Arrow file: {error}") from None
        return _numbered(normal_table(schema.empty_table()), np.zeros(0, dtype=np.int64)).schema
    return jsonl_schema()
