"""Column names and types: what a pool of documents or of image-text samples looks like as a table.

Text columns are Arrow `large_string` (64-bit offsets) everywhere, so a kernel knows one layout.
Fields that have no column of their own (nested ones, names that differ from row to row) travel as
one JSON object per row in the column `extra` and come back as fields in JSON lines.
"""

from __future__ import annotations

import pyarrow as pa

ROW = "row"  # shard number << 32 | row number in the shard: the pool's order and the only identity
TEXT = "text"
URL = "url"
EXTRA = "extra"
PARENT = "parent_row"  # set by a splitter: the row that this row was a part of

STRING = pa.large_string()

KNOWN: dict[str, pa.DataType] = {
    TEXT: STRING,
    URL: STRING,
    "id": STRING,
    "source": STRING,
    "language": STRING,
    "date": STRING,
    EXTRA: STRING,
}
"""Fields of JSON lines that become columns. All are strings; other fields go to `extra`."""

ROW_BITS = 32  # of a row's identity for its number in the shard; the shard's number is above
ROW_MASK = (1 << ROW_BITS) - 1


def row_of(shard: int, number: int) -> int:
    """The identity of row `number` (counted from 0, broken rows too) of shard `shard`."""
    return shard << ROW_BITS | number


def shard_of(row: int) -> int:
    return row >> ROW_BITS


def number_of(row: int) -> int:
    return row & ROW_MASK


def normal_type(type_: pa.DataType) -> pa.DataType:
    """The type a column of this type is held as: no dictionaries, every string a large_string.

    Run-end encoded columns are held as their values, intervals as text, and extension types as what
    they store (`bool8` as booleans), but for `uuid`, which other programs read back.
    """
    if pa.types.is_dictionary(type_) and not is_nested(type_.value_type):
        return normal_type(type_.value_type)
    if pa.types.is_run_end_encoded(type_):
        return normal_type(type_.value_type)
    if isinstance(type_, pa.BaseExtensionType) and type_ != pa.uuid():
        return pa.bool_() if type_ == pa.bool8() else normal_type(type_.storage_type)
    if pa.types.is_string(type_) or pa.types.is_string_view(type_) or pa.types.is_interval(type_):
        return STRING
    return type_


def is_nested(type_: pa.DataType) -> bool:
    """Whether values are lists, structs, maps or unions; encodings of flat values are not."""
    return bool(pa.types.is_nested(type_)) and not pa.types.is_run_end_encoded(type_)
