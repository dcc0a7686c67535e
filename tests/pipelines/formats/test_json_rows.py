"""Values of Arrow as JSON."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipelines.formats.arrow_tables import normal_table
from pipelines.formats.json_rows import parse_row, to_json_rows

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
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())), [["k", 1], ["k", 2]]),
        (pa.array([-(1 << 62)], pa.timestamp("us")), "-144169-06-28T09:59:32.612096"),
        (pa.array([1 << 40], pa.timestamp("s", "UTC")), "36812-02-20T00:36:16Z"),
        (pa.array([-1_000_000], pa.date32()), "-768-02-04"),
        (pa.array([0], pa.timestamp("s", "Mars/Phobos")), "1970-01-01T00:00:00+00:00"),
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


def test_nan_is_null_and_a_mark_is_no_part_of_a_row() -> None:
    assert parse_row(b'{"x": NaN, "y": [1.5, NaN]}') == ({"x": None, "y": [1.5, None]}, None)
    assert parse_row(b'\xef\xbb\xbf{"x": 1}') == ({"x": 1}, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"x": -Infinity}', "it holds -Infinity, which JSON has no form for"),
        (b'{"x": NaN, "y": 1e400}', "it holds 1e400"),
        (b'{"x": NaN, "y": "\\ud800"}', "not JSON"),
        (b'{"x": NaN NaN}', "not JSON"),
        (b'{"x": NaN, "y": 123456789012345678901}', "not JSON"),
    ],
)
def test_what_json_cannot_hold_is_refused_beside_nan_too(line: bytes, problem: str) -> None:
    row, said = parse_row(line)
    assert row == {}
    assert said is not None
    assert said.startswith(problem)


def test_of_a_key_that_comes_twice_the_last_value_counts() -> None:
    """As in every reader of JSON; RFC 8259 leaves it open."""
    assert parse_row(b'{"text": "a", "n": 1, "text": "b", "n": 2}') == ({"text": "b", "n": 2}, None)


@pytest.mark.parametrize("depth", [1, 900, 1010])
def test_an_integer_beyond_64_bits_is_refused_at_any_depth(depth: int) -> None:
    line = b'{"text": "a", "n": %s18446744073709551616%s}' % (b"[" * depth, b"]" * depth)
    row, problem = parse_row(line)
    assert row == {}
    assert problem is not None
    assert "'n' holds an integer beyond 64 bits" in problem


def test_large_floats_and_digits_in_texts_stay() -> None:
    line = b'{"text": "18446744073709551616", "x": 1e300, "n": 18446744073709551615}'
    row, problem = parse_row(line)
    assert problem is None
    assert row == {"text": "18446744073709551616", "x": 1e300, "n": 18446744073709551615}


def test_a_line_is_read_at_nearly_the_speed_of_the_json_reader() -> None:
    """Looking for digits in the whole line once took 25 times as long as reading it."""
    line = orjson.dumps({"text": "some words of a page " * 50_000, "url": "u", "n": 1})

    def seconds(read: Callable[[bytes], object]) -> float:
        best = math.inf
        for _ in range(5):
            started = time.process_time()
            for _ in range(20):
                read(line)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(parse_row) < 4 * seconds(orjson.loads)
