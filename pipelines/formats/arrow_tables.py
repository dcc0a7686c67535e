"""Normalise Arrow tables for steps: one string type, no nested columns.

Nested columns are moved into the JSON of `extra`. Only that name is reserved: a column of a pool
called `extra` must contain JSON objects, as a run writes it.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from pipelines.formats.json_rows import as_json
from pipelines.schema import EXTRA, KNOWN, STRING, TEXT, is_nested, normal_type

ARROW_FILE = b"ARROW1"  # at the head of the file format; a stream has none


class NameTaken(ValueError):
    """A column whose name is reserved here, or that occurs twice."""


def check_names(schema: pa.Schema) -> None:
    """NameTaken for a name given twice, a union, an `extra` or `text` of another type."""
    for field in schema:
        if pa.types.is_union(field.type):
            raise NameTaken(f"the column {field.name!r} holds {field.type}: give it one type")
    twice = [name for name, number in Counter(schema.names).items() if number > 1]
    if twice:
        raise NameTaken(f"the column {twice[0]!r} is there twice; rename one")
    if EXTRA in schema.names:
        type_ = schema.field(EXTRA).type
        if normal_type(type_) != STRING and not pa.types.is_null(type_):
            raise NameTaken(f"the column {EXTRA!r} holds {type_}; {TAKEN}")
    if TEXT in schema.names:
        type_ = schema.field(TEXT).type
        if not (normal_type(type_) == STRING or is_binary(type_) or pa.types.is_null(type_)):
            raise NameTaken(
                f"the column {TEXT!r} holds {type_}, expected strings: rename the column, and name "
                "the one that holds the text with --text-field"
            )


TAKEN = "this name is that of the JSON objects of fields without a column: rename the column"


def normal_table(table: pa.Table) -> pa.Table:
    """All strings as large_string; nested columns moved into the JSON of `extra`.

    Known columns of bytes are read as UTF-8, and columns of nulls only as strings. ArrowInvalid
    for bytes that are not UTF-8, NameTaken for an `extra` that has no JSON objects.
    """
    for number, field in enumerate(table.schema):
        type_ = field.type
        if field.name in KNOWN and (is_binary(type_) or pa.types.is_null(type_)):
            table = table.set_column(number, field.name, table.column(number).cast(STRING))
        elif (target := normal_type(type_)) != type_:
            table = table.set_column(number, field.name, _held_as(table.column(number), target))
    if EXTRA in table.column_names:
        check_objects(table.column(EXTRA))
    nested = [f.name for f in table.schema if is_nested(f.type)]
    return _nested_to_extra(table, nested) if nested else table


def _held_as(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    """The values of a column in the type that `normal_type` names for it."""
    if pa.types.is_run_end_encoded(column.type):
        chunks = [pc.run_end_decode(chunk) for chunk in column.chunks]
        return _held_as(pa.chunked_array(chunks, type=column.type.value_type), target)
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        return _held_as(pa.chunked_array(chunks, type=column.type.storage_type), target)
    if pa.types.is_dictionary(column.type):
        # Values first: as strings of 32-bit places, the column might have more than 2 GB.
        chunks = [chunk.dictionary.cast(target).take(chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, type=target)
    if pa.types.is_interval(column.type):
        return pa.chunked_array([[as_json(value) for value in column.to_pylist()]], type=STRING)
    return column if column.type == target else column.cast(target)


def plain_size(batch: pa.RecordBatch) -> int:
    """The bytes of a batch when its dictionaries are replaced by their values."""
    size = 0
    for column in batch.columns:
        if isinstance(column, pa.DictionaryArray) and not is_nested(column.type.value_type):
            values = max(1, len(column.dictionary))
            size += column.dictionary.nbytes * len(column) // values
        else:
            size += column.nbytes
    return size


@lru_cache(maxsize=64)
def normal_schema(schema: pa.Schema) -> tuple[pa.Schema, dict[str, pa.DataType]]:
    """The columns that `normal_table` makes, and the nested ones with their types.

    NameTaken as `check_names`. Cached, since the shards of a pool mostly share one schema.
    """
    check_names(schema)
    kinds = {field.name: normal_type(field.type) for field in schema}
    nested = {name: type_ for name, type_ in kinds.items() if is_nested(type_)}
    return empty_table(schema).schema, nested


def empty_table(schema: pa.Schema) -> pa.Table:
    """The columns that `normal_table` makes, without rows; Arrow makes none of tensors."""
    return normal_table(pa.schema([_without_tensor(field) for field in schema]).empty_table())


def _without_tensor(field: pa.Field) -> pa.Field:
    target = normal_type(field.type)
    is_extension = isinstance(field.type, pa.BaseExtensionType)
    return field.with_type(target) if is_extension and target != field.type else field


def is_binary(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )


def check_objects(extra: pa.ChunkedArray) -> None:
    """NameTaken for text that cannot be JSON objects."""
    objects = pc.and_(pc.starts_with(extra, "{"), pc.ends_with(extra, "}"))
    if pc.any(pc.invert(objects)).as_py():  # None without rows; null rows are ignored
        raise NameTaken(f"the column {EXTRA!r} holds text that is not a JSON object; {TAKEN}")


def _nested_to_extra(table: pa.Table, nested: list[str]) -> pa.Table:
    maps = [name for name in nested if pa.types.is_map(table.schema.field(name).type)]
    values = table.select(nested).to_pylist()
    for row in values:
        for name in maps:
            row[name] = _object(row[name])
    known = table.column(EXTRA).to_pylist() if EXTRA in table.column_names else [None] * len(values)
    merged = []
    for old, row in zip(known, values, strict=True):
        before = orjson.loads(old) if old else {}
        merged.append(orjson.dumps({**before, **row}, default=as_json).decode())
    table = table.drop_columns([name for name in [*nested, EXTRA] if name in table.column_names])
    return table.append_column(EXTRA, pa.array(merged, type=STRING))


def _object(pairs: Any) -> Any:
    """An Arrow map, a list of pairs in Python, as a dict if its keys are distinct strings."""
    if pairs is None or not all(isinstance(key, str) for key, _ in pairs):
        return pairs
    values = dict(pairs)
    return values if len(values) == len(pairs) else pairs


def open_batches(file: BinaryIO) -> pa.RecordBatchReader:
    """The record batches of an Arrow file, in the stream or the file format."""
    magic = file.read(len(ARROW_FILE))
    file.seek(0)
    if magic != ARROW_FILE:
        return pa.ipc.open_stream(file)
    opened = pa.ipc.open_file(file)
    batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
    return pa.RecordBatchReader.from_batches(opened.schema, batches)
