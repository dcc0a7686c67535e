"""Who stays in a group of duplicates: values of a column as bytes that sort as they do."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch

RANK_BYTES = 32
MAX_STRING_BYTES = RANK_BYTES - 1
Keep = Literal["max", "min"]
Order = Literal["value", "md5"]


def ranks(
    batch: Batch, keep_by: str | None, keep: Keep, order: Order = "value"
) -> npt.NDArray[Any]:
    """A rank per row, lowest first: uint8 zeros without a column, else 32 bytes.

    Integers, floats, booleans, dates and times sort by value, strings by their UTF-8 bytes (so ISO
    8601 dates by time). Rows without a value (null, NaN) come last. ValueError for other types, and
    for strings of more than 31 bytes.
    """
    if keep_by is None:
        return np.zeros(batch.num_rows, np.uint8)
    values = batch.column(keep_by)
    there = values.is_valid().to_numpy(zero_copy_only=False)
    if order == "md5":
        sortable = _digests(values)
    elif pa.types.is_large_string(values.type):
        sortable = _strings(values, keep_by)
    elif pa.types.is_floating(values.type):
        floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        there &= ~np.isnan(floats)
        bits = floats.view(np.uint64)
        negative = (bits >> np.uint64(63)).astype(bool)
        sortable = _numbers(np.where(negative, ~bits, bits | np.uint64(1 << 63)))
    else:
        sortable = _numbers(_integers(values, keep_by))
    if keep == "max":
        sortable = ~sortable
    out = np.zeros((batch.num_rows, RANK_BYTES), np.uint8)
    out[:, 1 : 1 + sortable.shape[1]] = sortable
    out[~there] = 0
    out[~there, 0] = 1
    return out.reshape(-1).view(f"S{RANK_BYTES}")


def _numbers(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    return values.astype(">u8").view(np.uint8).reshape(-1, 8)


def _integers(values: pa.Array, name: str) -> npt.NDArray[np.uint64]:
    type_ = values.type
    if pa.types.is_unsigned_integer(type_):
        return pc.fill_null(values.cast(pa.uint64()), 0).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if pa.types.is_date(type_):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_temporal(values.type) or pa.types.is_integer(type_):
        values = values.cast(pa.int64())
    elif pa.types.is_boolean(type_):
        values = values.cast(pa.int8()).cast(pa.int64())
    else:
        raise ValueError(
            f"keep_by needs numbers, times or strings; {name!r} holds {type_}: name another column"
        )
    signed = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
    return signed.view(np.uint64) ^ np.uint64(1 << 63)  # type: ignore[no-any-return]


def _strings(values: pa.Array, name: str) -> npt.NDArray[np.uint8]:
    longest = pc.max(pc.binary_length(values)).as_py() or 0
    if longest > MAX_STRING_BYTES:
        raise ValueError(
            f"keep_by compares strings of at most {MAX_STRING_BYTES} bytes, and {name!r} holds one "
            f"of {longest}; add a shorter column, or use keep_order: md5"
        )
    encoded = [(value or "").encode() for value in values.to_pylist()]
    fixed = np.array(encoded, dtype=f"S{MAX_STRING_BYTES}")
    return fixed.view(np.uint8).reshape(-1, MAX_STRING_BYTES)


def _digests(values: pa.Array) -> npt.NDArray[np.uint8]:
    digests = [hashlib.md5(str(value).encode("utf-8")).digest() for value in values.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
