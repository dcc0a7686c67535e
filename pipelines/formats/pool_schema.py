"""One schema for all shards of a pool: types are widened where that is exact, else refused.

Only the schema is read: the footer of a parquet file, the head of an Arrow file (for a shard of a
mixture, those of its source). JSON lines, WARC and plain files have the same string columns in
every shard. The cost is bounded by the number of shards, not of rows, and several are read in
parallel. Where a number is only exact in the wider type if it is small enough (64-bit integers
as doubles), the statistics of the footers decide before the run, and the cast itself while rows
are read.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.formats.column_types import NoCommonType, common_type, fits, needs_values
from pipelines.formats.readers import columns_of
from pipelines.formats.shards import ShardError, format_of
from pipelines.records import Frozen
from pipelines.schema import EXTRA, ROW, STRING, TEXT
from pipelines.storage.base import StorageError, Store

MAX_READERS = 32  # footers read in parallel: from a bucket each takes two requests of some 30 ms
LOCAL_READERS = 4  # a disk has little latency, and parsing holds the interpreter lock


WITH_TYPES = ("parquet", "arrow", "mix")


class Columns(Frozen):
    """The columns that every shard of a pool is read with, serialised for workers."""

    schema_base64: str

    @classmethod
    def of(cls, schema: pa.Schema) -> Columns:
        return cls(schema_base64=base64.b64encode(schema.serialize().to_pybytes()).decode("ascii"))

    @property
    def schema(self) -> pa.Schema:
        return _decoded(self.schema_base64)


@lru_cache(maxsize=8)
def _decoded(schema_base64: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema_base64)))


class PoolSchema(Frozen):
    """The reconciled columns of the shards of a pool."""

    columns: Columns  # of shards in typed formats
    names: Columns  # these, and the columns of shards in untyped formats
    example: str  # the first shard that can be read
    same: bool  # every shard has exactly these columns: nothing to convert

    @property
    def schema(self) -> pa.Schema:
        return self.names.schema


def pool_schema(store: Store, names: Sequence[str]) -> PoolSchema:
    """The columns of all shards, in order of first occurrence.

    A shard that cannot be read is left to the run, which reports or excludes it. ShardError names
    the column, both types and both shards when no type represents the values of both exactly, and
    the first shard when none can be read.
    """
    read = _read(store, names)
    if not read.readable:
        raise read.first_error or ShardError(f"{store.uri} has no shards")
    kept = pa.schema([(ROW, pa.int64()), *([(TEXT, STRING)] if read.beside else [])])
    first_of = dict.fromkeys(kept.names, read.readable[0])
    for schema, shards in read.schemas.items():
        for column in schema:
            if column.name not in first_of:
                first_of[column.name] = shards[0]
                kept = kept.append(column)
                continue
            position = kept.names.index(column.name)
            type_ = _together(store, column, kept.field(position).type, first_of, shards[0])
            kept = kept.set(position, pa.field(column.name, type_))
    for column in kept:
        if column.name in read.nested and not pa.types.is_null(column.type):
            shard, type_ = read.nested[column.name]
            _refuse(store, column.name, (type_, shard), (column.type, first_of[column.name]))
        _check_values(store, column, read.schemas)
    beside = [column for column in read.beside.values() if column.name not in kept.names]
    return PoolSchema(
        columns=Columns.of(kept),
        names=Columns.of(pa.schema([*kept, *beside])),
        example=read.readable[0],
        same=len(read.schemas) + bool(read.beside) == 1,
    )


def has_types(name: str) -> bool:
    """Whether a shard's format has typed columns; other formats have values as in JSON."""
    return format_of(name) in WITH_TYPES


@dataclass
class _Read:
    """The columns of the shards, as read."""

    schemas: dict[pa.Schema, list[str]] = field(
        default_factory=dict
    )  # shards by schema, typed formats
    nested: dict[str, tuple[str, pa.DataType]] = field(
        default_factory=dict
    )  # first shard and type, by name
    beside: dict[str, pa.Field] = field(default_factory=dict)  # columns of untyped formats
    readable: list[str] = field(default_factory=list)
    first_error: ShardError | None = None


def _read(store: Store, names: Sequence[str]) -> _Read:
    def columns(name: str) -> tuple[pa.Schema, dict[str, pa.DataType]] | ShardError:
        try:
            return columns_of(store, name)
        except ShardError as error:
            return error

    read = _Read()
    for name, known in zip(names, each_of(store, columns, names), strict=True):
        if isinstance(known, ShardError):
            read.first_error = read.first_error or known
            continue
        schema, nested = known
        read.readable.append(name)
        if not has_types(name):
            read.beside |= {column.name: column for column in schema}
            continue
        bare = pa.schema([(column.name, column.type) for column in schema])
        read.schemas.setdefault(bare, []).append(name)
        for column, type_ in nested.items():
            read.nested.setdefault(column, (name, type_))
    return read


def each_of(store: Store, function: Callable[[str], Any], names: Sequence[str]) -> Iterable[Any]:
    """`function` of every name, in order, called in parallel."""
    if len(names) == 1:
        return [function(names[0])]
    local = bool(names) and store.local_path(names[0]) is not None
    with ThreadPoolExecutor(LOCAL_READERS if local else MAX_READERS) as readers:
        return list(readers.map(function, names))


def _together(
    store: Store, field: pa.Field, before: pa.DataType, first_of: Mapping[str, str], shard: str
) -> pa.DataType:
    try:
        return common_type(before, field.type)
    except NoCommonType as error:
        first = (before, first_of[field.name])
        _refuse(store, field.name, first, (field.type, shard), why=str(error))


def _refuse(
    store: Store,
    column: str,
    first: tuple[pa.DataType, str],
    second: tuple[pa.DataType, str],
    *,
    why: str = "",
) -> NoReturn:
    raise ShardError(
        f"{store.uri}: the column {column!r} holds {first[0]} in {first[1]} and {second[0]} in "
        f"{second[1]}{why}: make it one type in all shards, or drop it"
    ) from None


def _check_values(
    store: Store, field: pa.Field, schemas: Mapping[pa.Schema, Sequence[str]]
) -> None:
    """ShardError when the footers show a value that the common type cannot represent."""
    named = [schema for schema in schemas if field.name in schema.names]
    others = [schema for schema in named if schema.field(field.name).type == field.type]
    for schema in named:
        type_, shards = schema.field(field.name).type, schemas[schema]
        if type_ == field.type or not needs_values(type_, field.type):
            continue
        bounds = each_of(store, lambda name: _bounds(store, name, field.name), shards)
        for name, values in zip(shards, bounds, strict=True):
            lost = next((value for value in values if not fits(value, field.type)), None)
            if lost is not None:
                beside = schemas[others[0]][0] if others else "other shards"
                why = f", which cannot hold {lost}"
                _refuse(store, field.name, (type_, name), (field.type, beside), why=why)


def _bounds(store: Store, name: str, column: str) -> list[Any]:
    """The smallest and the largest value of a column, where a parquet footer has them."""
    if format_of(name) != "parquet":
        return []
    try:
        with store.open(name) as file:
            footer = pq.ParquetFile(file).metadata
            values: list[Any] = []
            for group in range(footer.num_row_groups):
                row_group = footer.row_group(group)
                for number in range(footer.num_columns):
                    chunk = row_group.column(number)
                    known = chunk.statistics if chunk.path_in_schema == column else None
                    if known is not None and known.has_min_max:
                        values += [known.min, known.max]
            return values
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return []


def conformed(table: pa.Table, columns: Columns | None, *, name: str, where: str) -> pa.Table:
    """The rows of a shard with the types of the pool, and null columns for missing ones.

    Untyped formats such as JSON lines are unchanged: their columns are the same everywhere. In a
    table with `extra` a missing column may be a field there, so only `text` is added.
    ShardError for a value that the wider type cannot represent.
    """
    if columns is None or not has_types(name):
        return table
    where = f"{where}/{name}"
    may_be_inside = EXTRA in table.column_names
    for target in columns.schema:
        if target.name not in table.column_names:
            if may_be_inside and target.name != TEXT:
                continue
            table = table.append_column(target, pa.nulls(table.num_rows, target.type))
            continue
        position = table.column_names.index(target.name)
        values = table.column(position)
        if values.type == target.type:
            continue
        try:
            wider = values.cast(_own_zone(values.type, target.type))
        except pa.ArrowInvalid as error:
            raise ShardError(
                f"{where}: the column {target.name!r} holds {values.type} here, and {target.type} "
                f"in other shards does not hold all values ({error}): make it one type in all "
                "shards, or drop it"
            ) from None
        table = table.set_column(position, target.name, wider)
    ordered = [name for name in columns.schema.names if name in table.column_names]
    beside = [name for name in table.column_names if name not in ordered]
    return table.select([*ordered, *beside])


def _own_zone(type_: pa.DataType, target: pa.DataType) -> pa.DataType:
    """The pool's type, with the zone of the shard: times compare independently of zones."""
    if pa.types.is_timestamp(type_) and pa.types.is_timestamp(target):
        return pa.timestamp(target.unit, type_.tz)
    return target
