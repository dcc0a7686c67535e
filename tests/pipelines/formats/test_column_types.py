"""The type that holds the values of two types exactly, or none."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from pipelines.formats.column_types import NoCommonType, common_type, fits, needs_values

WIDENED = [
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int32(), pa.int64()),
    (pa.uint64(), pa.int64(), pa.int64()),
    (pa.float16(), pa.float64(), pa.float64()),
    (pa.int16(), pa.float32(), pa.float32()),
    (pa.int32(), pa.float32(), pa.float64()),
    (pa.int64(), pa.float64(), pa.float64()),
    (pa.null(), pa.date32(), pa.date32()),
    (pa.date32(), pa.date64(), pa.date64()),
    (pa.date32(), pa.timestamp("s"), pa.timestamp("s")),
    (pa.date64(), pa.timestamp("s"), pa.timestamp("ms")),
    (pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("ns")),
    (pa.timestamp("us", "UTC"), pa.timestamp("s", "Asia/Tokyo"), pa.timestamp("us", "UTC")),
    (pa.time32("s"), pa.time64("us"), pa.time64("us")),
    (pa.duration("s"), pa.duration("ms"), pa.duration("ms")),
    (pa.binary(3), pa.binary(), pa.large_binary()),
    (pa.decimal128(4, 1), pa.decimal128(5, 3), pa.decimal128(6, 3)),
    (pa.decimal128(4, 1), pa.int8(), pa.decimal128(4, 1)),
    (pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal256(48, 10)),
]


@pytest.mark.parametrize(("first", "second", "both"), WIDENED)
def test_widens_in_either_order(first: pa.DataType, second: pa.DataType, both: pa.DataType) -> None:
    assert common_type(first, second) == both
    back = common_type(second, first)
    if pa.types.is_timestamp(both) and both.tz is not None:
        assert (back.unit, back.tz) == (both.unit, second.tz)  # every shard keeps its own zone
    else:
        assert back == both


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.large_string(), pa.int64()),
        (pa.large_string(), pa.large_binary()),
        (pa.bool_(), pa.int8()),
        (pa.decimal128(4, 1), pa.float64()),
        (pa.decimal256(76, 0), pa.decimal128(38, 10)),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.date32(), pa.timestamp("us", "UTC")),
        (pa.time32("s"), pa.duration("s")),
        (pa.date32(), pa.large_string()),
    ],
)
def test_keeps_apart_what_is_not_one_kind_of_value(first: pa.DataType, second: pa.DataType) -> None:
    with pytest.raises(NoCommonType):
        common_type(first, second)
    with pytest.raises(NoCommonType):
        common_type(second, first)


@pytest.mark.parametrize(
    ("value", "target", "exact"),
    [
        (1 << 53, pa.float64(), True),
        ((1 << 53) + 1, pa.float64(), False),
        (1 << 60, pa.float64(), False),  # itself a double, but not those between
        ((1 << 63) - 1, pa.int64(), True),
        (1 << 63, pa.int64(), False),
        (datetime.datetime(9999, 1, 1), pa.timestamp("ns"), False),
        (datetime.date(1677, 1, 1), pa.timestamp("ns"), False),
        (datetime.date(2024, 2, 29), pa.timestamp("ns"), True),
    ],
)
def test_values_decide_where_types_do_not(value: object, target: pa.DataType, exact: bool) -> None:
    assert fits(value, target) == exact


def test_values_are_asked_for_only_where_they_decide() -> None:
    assert needs_values(pa.int64(), pa.float64())
    assert not needs_values(pa.int32(), pa.float64())
    assert needs_values(pa.uint64(), pa.int64())
    assert not needs_values(pa.uint32(), pa.int64())
    assert needs_values(pa.date32(), pa.timestamp("ns"))
    assert not needs_values(pa.date32(), pa.timestamp("us"))
