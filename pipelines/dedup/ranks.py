"""Who stays in a group of duplicates: values of a column as bytes that sort as they do.

The bytes are those of the value, not of its type: a shard may hold a number as an integer and
another as a double, or times in other units, and the order is the same.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch

RANK_BYTES = 32  # fixed, so that ranks are compared as bytes; one byte says whether it is null
MAX_STRING_BYTES = RANK_BYTES - 1  # one byte of a rank says whether it is null
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SIGN = np.uint64(1 << 63)
Keep = Literal["max", "min"]
Order = Literal["value", "md5"]


def rank_kind(batch: Batch, keep_by: str | None, order: Order = "value") -> str | None:
    """What the values are compared as; None without a column or without a value."""
    if keep_by is None:
        return None
    type_ = batch.column_or_null(keep_by).type
    if pa.types.is_null(type_):
        return None
    if order == "md5":
        return "MD5"
    if pa.types.is_large_string(type_):
        return "strings"
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        return "dates"
    if pa.types.is_temporal(type_):
        return "times"
    return "numbers"


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
    values = batch.column_or_null(keep_by)
    there = values.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_null(values.type):
        sortable = np.zeros((batch.num_rows, 8), np.uint8)
    elif order == "md5":
        sortable = _digests(values)
    elif pa.types.is_large_string(values.type):
        sortable = _strings(values, keep_by)
    elif pa.types.is_floating(values.type):
        floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False) + 0.0
        there &= ~np.isnan(floats)
        sortable = _pairs(_double_bits(floats), np.zeros(len(floats), np.int64))
    else:
        sortable = _whole(values, keep_by)
    if keep == "max":
        sortable = ~sortable
    out = np.zeros((batch.num_rows, RANK_BYTES), np.uint8)
    out[:, 1 : 1 + sortable.shape[1]] = sortable
    out[~there] = 0
    out[~there, 0] = 1
    return out.reshape(-1).view(f"S{RANK_BYTES}")


def _double_bits(floats: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Bits that sort as the doubles do."""
    bits = floats.view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(negative, ~bits, bits | SIGN)


def _pairs(high: npt.NDArray[np.uint64], low: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """16 bytes a value: `high`, and among equal ones `low`."""
    columns = np.stack([high, low.view(np.uint64) ^ SIGN], axis=1)
    return columns.astype(">u8").view(np.uint8).reshape(-1, 16)


def _integers(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Integers beside doubles: the nearest double, then how far the integer is from it.

    Rounding keeps the order, so of two integers with one nearest double the distance decides, and a
    double has distance 0.
    """
    nearest = values.astype(np.float64)
    top = float(np.iinfo(values.dtype).max)  # rounds up to a power of two, which is out of range
    inside = np.where(nearest >= top, 0.0, nearest).astype(values.dtype)
    away = (values - inside).astype(np.int64)  # wraps around, and is right, where both are unsigned
    at_top = nearest >= top
    if at_top.any():
        away[at_top] = [int(value) - int(top) for value in values[at_top].tolist()]
    return _pairs(_double_bits(nearest), away)


def _decimals(values: pa.Array, name: str) -> npt.NDArray[np.uint8]:
    """The nearest double, then the distance in units of the last digit, rounded down.

    Two decimals of one column differ by a unit at least, so rounding keeps their order.
    """
    unit = Fraction(10) ** values.type.scale
    nearest, away = np.zeros(len(values)), np.zeros(len(values), np.int64)
    for row, value in enumerate(values.to_pylist()):
        if value is None:
            continue
        nearest[row] = float(value)
        distance = math.floor((Fraction(value) - Fraction(float(value))) * unit)
        if not -(2**63) <= distance < 2**63:
            raise ValueError(
                f"keep_by compares decimals of at most 35 digits, and {name!r} holds {value}: add "
                "a shorter column"
            )
        away[row] = distance
    return _pairs(_double_bits(nearest + 0.0), away)


def _whole(values: pa.Array, name: str) -> npt.NDArray[np.uint8]:
    type_ = values.type
    if pa.types.is_unsigned_integer(type_):
        unsigned = pc.fill_null(values.cast(pa.uint64()), 0).to_numpy(zero_copy_only=False)
        return _integers(unsigned)
    if pa.types.is_date(type_):
        values = values.cast(pa.timestamp("ms"))
    if pa.types.is_temporal(values.type):
        unit = UNITS[values.type.unit]
        width = pa.int32() if values.type.bit_width == 32 else pa.int64()
        counts = pc.fill_null(values.cast(width).cast(pa.int64()), 0)
        seconds, rest = np.divmod(counts.to_numpy(zero_copy_only=False), unit)
        return _pairs(seconds.view(np.uint64) ^ SIGN, rest * (10**9 // unit))
    if pa.types.is_boolean(type_):
        values = values.cast(pa.int8())
    elif pa.types.is_decimal(type_):
        return _decimals(values, name)
    elif not pa.types.is_integer(type_):
        raise ValueError(
            f"keep_by needs numbers, times or strings; {name!r} holds {type_}: name another column"
        )
    return _integers(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))


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
    digests = [hashlib.md5(str(v).encode("utf-8")).digest() for v in values.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
