"""The narrowest Arrow type that represents the values of two types exactly.

Integers, floats, decimals, dates, times and durations are widened; strings, bytes, numbers and
timestamps are never mixed. Timestamps without a zone are never given one: it is not known.
"""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa

UNITS = ("s", "ms", "us", "ns")
DOUBLE_EXACT = 1 << 53  # integers up to here are doubles without rounding
INT64_MAX = (1 << 63) - 1
MAX_DECIMAL128, MAX_DECIMAL256 = 38, 76  # digits
NS_RANGE = (datetime.datetime(1677, 9, 22), datetime.datetime(2262, 4, 11))
"""The range of whole days that a 64-bit count of nanoseconds can represent."""


class NoCommonType(ValueError):
    """Two types without a common type; the message says why unless it is obvious."""


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """A type that represents the values of both. NoCommonType when there is none.

    Where that depends on the values (`needs_values`), the type that does if they are small.
    """
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    for kind, widen in (
        (pa.types.is_integer, _integers),
        (pa.types.is_floating, max_width),
        (_is_moment, _moments),
        (pa.types.is_time, _times),
        (pa.types.is_duration, _durations),
        (_is_bytes, _bytes),
    ):
        if kind(first) and kind(second):
            return widen(first, second)
    if _is_number(first) and _is_number(second):
        return _numbers(first, second)
    raise NoCommonType("")


def needs_values(type_: pa.DataType, target: pa.DataType) -> bool:
    """Whether only some values of a type are exact in the wider one."""
    if pa.types.is_integer(type_):
        if pa.types.is_floating(target):
            return bool(type_.bit_width > 32)
        return pa.types.is_uint64(type_) and pa.types.is_signed_integer(target)
    return _is_moment(type_) and pa.types.is_timestamp(target) and target.unit == "ns"


def fits(value: Any, target: pa.DataType) -> bool:
    """Whether the wider type represents this value exactly; True for kinds always exact."""
    if isinstance(value, int) and pa.types.is_floating(target):
        return abs(value) <= DOUBLE_EXACT
    if isinstance(value, int) and pa.types.is_signed_integer(target):
        return value <= INT64_MAX
    if isinstance(value, datetime.datetime):
        return NS_RANGE[0] <= value.replace(tzinfo=None) <= NS_RANGE[1]
    if isinstance(value, datetime.date):
        return NS_RANGE[0].date() <= value <= NS_RANGE[1].date()
    return True


def max_width(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    return first if first.bit_width >= second.bit_width else second


def _integers(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    signed = [pa.types.is_signed_integer(type_) for type_ in (first, second)]
    if signed[0] == signed[1]:
        return max_width(first, second)
    unsigned, other = (second, first) if signed[0] else (first, second)
    width = max(other.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32()}.get(width, pa.int64())


def _is_number(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(kind(type_) for kind in kinds)


def _numbers(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Numbers of several kinds: integers as doubles or decimals, decimals among themselves."""
    if pa.types.is_floating(first) or pa.types.is_floating(second):
        floating, other = (first, second) if pa.types.is_floating(first) else (second, first)
        if pa.types.is_decimal(other):
            raise NoCommonType(" (a decimal is rarely a binary fraction)")
        if other.bit_width <= 8 and floating.bit_width == 16:
            return floating
        return floating if other.bit_width <= 16 and floating.bit_width == 32 else pa.float64()
    whole = max(_digits(first)[0], _digits(second)[0])
    scale = max(_digits(first)[1], _digits(second)[1])
    if whole + scale <= MAX_DECIMAL128:
        return pa.decimal128(whole + scale, scale)
    if whole + scale <= MAX_DECIMAL256:
        return pa.decimal256(whole + scale, scale)
    raise NoCommonType(f" ({whole + scale} digits together)")


def _digits(type_: pa.DataType) -> tuple[int, int]:
    """Digits before and after the decimal point."""
    if pa.types.is_decimal(type_):
        return type_.precision - type_.scale, max(type_.scale, 0)
    return len(str((1 << type_.bit_width) - 1)), 0


def _is_moment(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def _moments(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """Dates and timestamps in the finer unit. Of two zones, each shard keeps its own."""
    zones = [type_.tz if pa.types.is_timestamp(type_) else None for type_ in (first, second)]
    if (zones[0] is None) != (zones[1] is None):
        raise NoCommonType(" (with a zone in one and without in the other)")
    if pa.types.is_date(first) and pa.types.is_date(second):
        return pa.date64()
    units = [_unit(type_) for type_ in (first, second)]
    return pa.timestamp(max(units, key=UNITS.index), zones[0])


def _unit(type_: pa.DataType) -> str:
    if pa.types.is_timestamp(type_):
        return str(type_.unit)
    return "s" if pa.types.is_date32(type_) else "ms"


def _times(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    unit = max(first.unit, second.unit, key=UNITS.index)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _durations(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    return pa.duration(max(first.unit, second.unit, key=UNITS.index))


def _is_bytes(type_: pa.DataType) -> bool:
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    return any(kind(type_) for kind in kinds)


def _bytes(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    return pa.large_binary()
