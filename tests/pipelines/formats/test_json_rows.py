"""Values of Arrow as JSON."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipelines.formats.arrow_tables import normal_table
from pipelines.formats.json_rows import to_json_rows

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([1_500_000], pa.duration("us")), 1.5),
        (pa.array([1_500_000_000], pa.duration("ns")), 1.5),
        (pa.array([3_723_000_000_001], pa.time64("ns")), "01:02:03.000000001"),
        (pa.array([0.5], pa.float16()), 0.5),
        (pa.array([(1 << 64) - 1], pa.uint64()), (1 << 64) - 1),
        (pa.array([b"\xff"], pa.binary(1)), "/w=="),
        (pa.array([b"\xff"]).dictionary_encode(), "/w=="),
        (pa.array([[1, 2]], pa.large_list(pa.int8())), [1, 2]),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), [1.0, 2.0]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), {"k": 1}),
        (pa.array([[(7, "x")]], pa.map_(pa.int8(), pa.string())), [[7, "x"]]),
        (pa.array([[{"d": Decimal("1.20"), "b": b"\xff"}]]), [{"d": "1.20", "b": "/w=="}]),
        (pa.array([{"x": INFINITE, "y": 1.5}]), {"x": None, "y": 1.5}),
        (
            pa.array([datetime.datetime(2024, 1, 1)], pa.timestamp("ns", "UTC")),
            "2024-01-01T00:00:00.000000000Z",
        ),
    ],
)
def test_a_value_of_each_type_is_written_as_documented(values: pa.Array, said: Any) -> None:
    table = normal_table(pa.table({"text": ["a"], "v": values}))
    (line,) = to_json_rows(table)
    assert orjson.loads(line) == {"text": "a", "v": said}
