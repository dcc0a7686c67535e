"""The tables of a CommonPool: parquet files of pairs, and .npz files of features next to them.

A parquet file `NAME.parquet` has a row per pair; `NAME.npz` has arrays (rows, dim) in the same
order: b32_img, b32_txt, l14_img, l14_txt. Only the columns that are asked for are read, and the
features row by row, so a file of any size takes little memory. (Gadre et al. 2023; the published
layout)
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.errors import PipelineError, PoolError
from pipelines.formats.arrow_tables import normal_table
from pipelines.formats.column_types import NoCommonType, common_type
from pipelines.formats.pool import LISTED, Pool, open_pool
from pipelines.formats.pool_schema import each_of
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_lists import uid_of
from pipelines.image_text.scores import INDEX, PREFIX
from pipelines.operators import Fold, Operator, Splitter
from pipelines.pipeline import Pipeline
from pipelines.records import File, Frozen, PoolRecord, sha256_file
from pipelines.schema import EXTRA, ROW, STRING, normal_type, row_of, shard_of
from pipelines.storage.base import StorageError, Store, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

UID = "uid"
URL, TEXT, SHA256 = "url", "text", "sha256"
TEXTS = (UID, URL, TEXT, SHA256)
"""The columns of a table of pairs that are text, whoever wrote it."""
FEATURES = ("b32_img", "b32_txt", "l14_img", "l14_txt")
DAMAGED = (pa.ArrowException, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What the libraries raise for bytes that are not a parquet or .npz file, or only nearly so."""
BATCH_ROWS = 64 << 10  # of a table at a time
READ_BYTES = 1 << 20  # read ahead of a column: whole chunks would be all of a table in memory
FEATURE_BATCH_ROWS = 8 << 10  # 12 MB of 768 numbers of 16 bits

METADATA, SHARDS = "metadata", "shards"  # the folders of a whole pool: its tables, its tars


class Index(Frozen):
    """Where the scores of a pool are: the file of each table, by the table's sha256."""

    id: str = Field(description="hash of what was asked for: tables, tars, scorer")
    scorer: str
    files: dict[str, File]


def read_index(assets: Assets, name: str) -> tuple[Index, Path]:
    """The index of scores of this name, and the folder that it is in."""
    path = assets.path(f"{name}/{INDEX}")
    try:
        return Index.model_validate_json(path.read_bytes()), path.parent
    except ValidationError:
        raise PipelineError(f"{path} is not an index of scores; score the pool again") from None


def write_index(store: Store, index: Index) -> File:
    """Write the index of a folder of scores."""
    content = orjson.dumps(index.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    return write_bytes(store, INDEX, content)


def score_files(assets: Assets, columns: Sequence[str], sha256: str) -> dict[str, Path]:
    """The files of the score columns among `columns` for the table with this sha256, checked."""
    files = {}
    for column in columns:
        if not column.startswith(PREFIX):
            continue
        index, folder = read_index(assets, column.removeprefix(PREFIX))
        file = index.files[sha256]
        path = folder / file.name
        if not path.is_file() or sha256_file(path) != file.sha256:
            raise PipelineError(
                f"{path} is not the file that {folder}/{INDEX} names; copy the whole folder of "
                "scores, or score the pool again"
            )
        files[column] = path
    return files


def open_pairs(uri: str) -> Pool:
    """The tables of a pool of pairs: those in `metadata/` where the folder is a whole pool.

    A folder of tables alone, whoever made it, is a pool too. PoolError for one without tables.
    """
    store = open_store(uri)
    if store.exists(RECORD):
        pool = open_pool(uri)
        tables = tuple(shard for shard in pool.shards if _is_table(shard.name))
        if not tables:
            raise PoolError(f"{uri} is not a pool of pairs: its record names no parquet files")
        return replace(pool, shards=tables)
    if any(_is_table(entry.name) for entry in store.list(f"{METADATA}/")):
        return open_pool(f"{uri.rstrip('/')}/{METADATA}")
    return open_pool(uri)


def tables_of(record: PoolRecord) -> tuple[File, ...]:
    """The files of a pool's record that are its tables, in the order of shards.

    The record of a folder without one of its own lists nothing but its shards.
    """
    if record.work.variant == LISTED:
        return tuple(record.outputs)
    return tuple(file for file in record.outputs if _is_table(file.name))


def _is_table(name: str) -> bool:
    """Whether a pool's file is a table of pairs; those next to the tars describe the download."""
    return name.endswith(".parquet") and not name.startswith(f"{SHARDS}/")


def table_columns(store: Store, name: str) -> list[str]:
    """The columns of a parquet file. ShardError when it is none."""
    with store.open(name) as file:
        try:
            return list(pq.read_schema(file).names)
        except DAMAGED as error:
            raise ShardError(f"{store.uri}/{name} is not a parquet file: {error}") from None


def check_pairs(schema: pa.Schema, where: str) -> None:
    """ShardError for a table of pairs with a column twice, or a text column of another type.

    Bytes are read as UTF-8: old Spark and Impala write text so. Numbers are refused, since a uid is
    a hash of the text as it was written.
    """
    for name in TEXTS:
        places = schema.get_all_field_indices(name)
        if len(places) > 1:
            raise ShardError(f"{where} has {len(places)} columns {name!r}; rename or drop one")
        if places and not _is_text(schema.field(places[0]).type):
            raise ShardError(
                f"{where}: the column {name!r} holds {schema.field(places[0]).type}, expected text"
            )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in (*texts, *binary, pa.types.is_null))


def text_column(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """A column of text, bytes or nothing as large strings. ShardError for another type or bytes."""
    if not _is_text(column.type):
        raise ShardError(f"{where}: the column {name!r} holds {column.type}, expected text")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return column.cast(STRING)
    except pa.ArrowInvalid:
        raise ShardError(f"{where}: the column {name!r} holds bytes that are not UTF-8") from None


def with_uids(uids: pa.Array | None, urls: pa.Array, texts: pa.Array) -> pa.Array:
    """The uids of pairs: as the table has them, and where it has none, of address and caption."""
    if uids is not None and not uids.null_count:
        return uids
    own = [None] * len(urls) if uids is None else uids.to_pylist()
    pairs = zip(own, urls.to_pylist(), texts.to_pylist(), strict=True)
    filled = [uid_of(url, text) if uid is None else uid for uid, url, text in pairs]
    return pa.array(filled, STRING)


def read_uids(store: Store, name: str) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
    """The uid of every pair of a table, batch by batch, and its row in the file.

    A pair without one gets that of its address and caption, where the table has both columns.
    """
    there = table_columns(store, name)
    makes = URL in there and TEXT in there
    columns = [column for column in (UID, URL, TEXT) if column in there] if makes else [UID]
    if UID in columns and not _may_be_null(store, name):
        columns = [UID]
    for batch in read_table(store, name, columns):
        own = batch.column(UID) if UID in columns else None
        if len(columns) == 1:
            yield batch.column(UID), batch.rows
        else:
            yield with_uids(own, batch.column(URL), batch.column(TEXT)), batch.rows


def _may_be_null(store: Store, name: str) -> bool:
    """Whether the uids of a table may have nulls, by the statistics in its footer."""
    with store.open(name) as file:
        footer = pq.ParquetFile(file).metadata
    for group in range(footer.num_row_groups):
        columns = [footer.row_group(group).column(n) for n in range(footer.num_columns)]
        uid = next((column for column in columns if column.path_in_schema == UID), None)
        if uid is None:  # of a nested type, which whoever reads it refuses
            return True
        statistics = uid.statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return True
    return False


def check_columns(store: Store, name: str, columns: Sequence[str]) -> None:
    """PipelineError when a column that a step reads is in neither the table nor the features."""
    there = table_columns(store, name)
    for column in columns:
        if column not in there and not _is_beside(column):
            raise PipelineError(
                f"{store.uri}/{name} has no column {column!r}, which the pipeline reads; it has "
                f"{', '.join(there)}; features beside it are {', '.join(FEATURES)}"
            )


def check_tables(pool: Pool, columns: Sequence[str]) -> None:
    """`check_columns` of every table. ShardError where two hold a column as other kinds of value.

    A table that cannot be read is left to the run. Texts may be bytes in some and strings in
    others (`check_pairs`); numbers of several widths are compared by their values.
    """
    store = open_store(pool.uri)

    def read(name: str) -> pa.Schema | None:
        try:
            with store.open(name) as file:
                return pq.ParquetFile(file).schema_arrow
        except StorageError:
            raise
        except DAMAGED:
            return None

    names = [shard.name for shard in pool.shards]
    check_columns(store, names[0], columns)
    first: dict[str, tuple[pa.DataType, str]] = {}
    for name, schema in zip(names, each_of(store, read, names), strict=True):
        if schema is None:
            continue
        for column in columns:
            if column not in schema.names:
                if not _is_beside(column):
                    check_columns(store, name, columns)
                continue
            if column in TEXTS:
                continue
            type_ = normal_type(schema.field(column).type)
            before, other = first.setdefault(column, (type_, name))
            try:
                common_type(before, type_)
            except NoCommonType as error:
                raise ShardError(
                    f"{store.uri}: the column {column!r} holds {before} in {other} and {type_} in "
                    f"{name}{error}: make it one type in all tables, or drop it"
                ) from None


def _is_beside(column: str) -> bool:
    """Whether a column is that of another file: features, scores, the number of the row."""
    return column in FEATURES or column.startswith(PREFIX) or column == ROW


def rows_with(
    store: Store, names: Sequence[str], column: str, value: object
) -> Iterator[tuple[int, str | None]]:
    """The rows of these tables with this value of uid, url or row, with their URLs.

    Reads that column of every table, or of the one that has the row.
    """
    for number, table in enumerate(names):
        if column == ROW and number != shard_of(int(str(value))):
            continue
        columns = [name for name in (UID, URL) if name in table_columns(store, table)]
        if column not in (*columns, ROW):
            continue
        for batch in read_table(store, table, columns, first_row=row_of(number, 0)):
            match = pc.equal(batch.column(column), value).fill_null(False)
            for row in np.flatnonzero(match).tolist():
                url = batch.column(URL)[row].as_py() if batch.has(URL) else None
                yield int(batch.rows[row]), url


def pair_columns(operator: Operator) -> list[str]:
    """The columns of pairs that an operator looks at; pairs have no `extra` to look into."""
    named = [name for name in operator.optional_reads() if name not in operator.writes()]
    return [name for name in (*operator.reads(), *named) if name != EXTRA]


def check_pipeline(pipeline: Pipeline, pool: Pool) -> None:
    """PipelineError for steps that cannot run over pairs, and for columns that are not there."""
    columns = {UID}
    written: set[str] = set()
    for step in pipeline.steps:
        if isinstance(step.operator, Splitter | Fold):
            raise PipelineError(
                f"{pipeline.name}: {step.label} is a {step.operator.kind}; a list of uids can be "
                "made by filters, modifiers, selections and deduplication"
            )
        columns |= set(pair_columns(step.operator)) - written
        written |= set(step.operator.writes())
    check_tables(pool, sorted(columns))
    for column in sorted(columns):
        if column.startswith(PREFIX):
            name = column.removeprefix(PREFIX)
            index, folder = read_index(pipeline.assets, name)
            missing = [shard.name for shard in pool.shards if shard.sha256 not in index.files]
            if missing:
                raise PipelineError(
                    f"{pipeline.name}: the scores {name!r} in {folder} were made for another pool "
                    f"(they have none for {missing[0]}); score the pool with: "
                    f"--name {name}"
                )


def read_table(
    store: Store,
    name: str,
    columns: Sequence[str],
    *,
    scores: Mapping[str, Path] | None = None,
    first_row: int = 0,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[Batch]:
    """Batches with these columns and `row`: the place in the file, counted from `first_row`.

    At least one batch.

    `scores` are files with a column for this very table, by what the column is called. ShardError
    names a file that is damaged, or features or scores that are missing or of other length.
    """
    where = f"{store.uri}/{name}"
    scores = scores or {}
    features = [column for column in columns if column in FEATURES]
    plain = [c for c in columns if c not in features and c not in scores and c != ROW]
    with store.open(name) as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=READ_BYTES)
            rows = parquet.metadata.num_rows
        except DAMAGED as error:
            raise ShardError(f"{where} is not a parquet file: {error}") from None
        check_pairs(parquet.schema_arrow, where)
        readers: list[_Features | _Scores] = [_Features(store, name, key, rows) for key in features]
        readers += [_Scores(key, scores[key], rows) for key in columns if key in scores]
        size = min(FEATURE_BATCH_ROWS, batch_rows) if features else batch_rows
        first = 0
        try:
            for part in _tables(parquet, plain, size, where):
                table = part.add_column(
                    0,
                    ROW,
                    pa.array(np.arange(part.num_rows, dtype=np.int64) + (first_row + first)),
                )
                for reader in readers:
                    table = table.append_column(reader.key, reader.take(part.num_rows))
                first += part.num_rows
                yield Batch(table)
        finally:
            for reader in readers:
                reader.close()
        if first == 0:
            empty = {ROW: pa.array([], pa.int64())}
            fields = {name: parquet.schema_arrow.field(name).type for name in plain}
            lists = {reader.key: reader.type for reader in readers}
            fields |= {n: STRING for n in fields if n in TEXTS}
            empty |= {n: pa.array([], t) for n, t in {**fields, **lists}.items()}
            yield Batch(normal_table(pa.table(empty)))


def _tables(
    parquet: pq.ParquetFile, columns: Sequence[str], size: int, where: str
) -> Iterator[pa.Table]:
    if not columns:
        left = parquet.metadata.num_rows
        while left:
            yield pa.table({"": pa.nulls(min(size, left))})
            left -= min(size, left)
        return
    batches = parquet.iter_batches(batch_size=size, columns=list(columns))
    number = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            table = pa.Table.from_batches([batch])
            table.validate(full=True)
        except DAMAGED as error:
            raise ShardError(f"{where}: rows from {number} on are damaged: {error}") from None
        number += table.num_rows
        for column in TEXTS:
            index = table.schema.get_field_index(column)
            if index >= 0 and table.schema.field(index).type != STRING:
                texts = text_column(table.column(index), column, where)
                table = table.set_column(index, column, texts)
        yield normal_table(table)


@dataclass
class _Member:
    """An open array of an .npz file, at its next row."""

    archive: zipfile.ZipFile
    file: IO[bytes]
    dtype: np.dtype[Any]
    dim: int


class _Features:
    """One array of the .npz next to a parquet file, read from front to back."""

    def __init__(self, store: Store, table: str, key: str, rows: int) -> None:
        self.key = key
        name = table.removesuffix(".parquet") + ".npz"
        self._where = f"{store.uri}/{name}, array {key}"
        if not store.exists(name):
            raise ShardError(
                f"{store.uri}/{name} is missing: a step reads {key!r}; fetch the features too"
            )
        self._file = store.open(name)
        try:
            self._member = self._open(rows)
        except DAMAGED as error:
            self._file.close()
            raise ShardError(f"{self._where}: {error}") from None
        except KeyError:
            self._file.close()
            raise ShardError(f"{self._where}: there is no such array in the file") from None

    @property
    def type(self) -> pa.DataType:
        return pa.list_(pa.from_numpy_dtype(self._member.dtype.newbyteorder("=")), self._member.dim)

    def _open(self, rows: int) -> _Member:
        archive = zipfile.ZipFile(self._file)
        file = archive.open(f"{self.key}.npy")
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"npy format {version} is not read here")
        shape, fortran, dtype = read(file)
        if len(shape) != 2 or 0 in shape[1:] or dtype.kind != "f":
            raise ValueError(f"expected floats of shape (rows, dim), found {dtype} {shape}")
        if fortran:
            raise ValueError("stored by columns; save numpy.ascontiguousarray(array)")
        if shape[0] != rows:
            raise ValueError(f"{shape[0]} rows, but the table next to it has {rows}")
        return _Member(archive, file, dtype, int(shape[1]))

    def take(self, rows: int) -> pa.Array:
        """The next rows as an array of fixed-size lists."""
        member = self._member
        size = rows * member.dim * member.dtype.itemsize
        try:
            data = member.file.read(size)
        except DAMAGED as error:
            raise ShardError(f"{self._where}: damaged: {error}") from None
        if len(data) != size:
            raise ShardError(f"{self._where}: the file ends early")
        flat: npt.NDArray[Any] = np.frombuffer(data, member.dtype)
        if not flat.dtype.isnative:  # written on a big-endian machine
            flat = flat.astype(flat.dtype.newbyteorder("="))
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), member.dim)

    def close(self) -> None:
        self._member.file.close()
        self._member.archive.close()
        self._file.close()


class _Scores:
    """A column of scores next to a table, read from front to back."""

    type = pa.float64()

    def __init__(self, key: str, path: Path, rows: int) -> None:
        self.key = key
        try:
            self._column = pq.read_table(path).column("score").combine_chunks()
        except DAMAGED as error:
            raise ShardError(
                f"{path} holds no scores: {error}; score the pool again, or copy the whole "
                "folder of scores"
            ) from None
        except KeyError:
            raise ShardError(f"{path} has no column 'score'; score the pool again") from None
        if len(self._column) != rows:
            raise ShardError(
                f"{path} has {len(self._column)} rows, but the table has {rows}; score "
                "this pool again"
            )
        self._at = 0

    def take(self, rows: int) -> pa.Array:
        """The next rows."""
        self._at += rows
        return self._column.slice(self._at - rows, rows)

    def close(self) -> None:
        """Nothing is held open."""
