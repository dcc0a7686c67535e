"""JSON objects to rows and back: known string fields are columns, all others are in `extra`.

Values of a document are never changed: integers that JSON readers round are refused, naming the
field, Arrow values that JSON cannot express are written as text (times as ISO 8601, decimals as
digits, bytes as base64), and a column that a step computed overrides a field of the document.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.schema import EXTRA, KNOWN, ROW, STRING, TEXT

MIN_INT, MAX_INT = -(1 << 63), (1 << 64) - 1  # integers that orjson reads without rounding
CONSTANT = re.compile(rb"\b(NaN|Infinity)\b")
ROUNDED = 2.0**63  # orjson makes a float of an integer beyond 64 bits: none is smaller
DAYS = {32: "D", 64: "ms"}  # the units of Arrow's two types of date, by their width
YEARS = ("0001-01-02", "9999-12-31")  # a day inside Python's range, so that any zone offset fits
COLUMNS = tuple(name for name in KNOWN if name != EXTRA)


def parse_row(line: bytes) -> tuple[dict[str, Any], str | None]:
    """The object of a line, or what is wrong with it."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        value, problem = _as_python_writes(line)
        if value is None:
            return {}, problem or f"not JSON: {error}"
    if not isinstance(value, dict):
        return {}, f"expected a JSON object, found {type(value).__name__}"
    text = value.get(TEXT)
    if TEXT in value and not isinstance(text, str | None):
        return {}, f"the field 'text' is {type(text).__name__}, expected a string"
    if (name := _rounded(line, value)) is not None:
        return {}, f"the field {name!r} holds an integer beyond 64 bits; write it as a string"
    return value, None


def _as_python_writes(line: bytes) -> tuple[Any, str | None]:
    """The value of a line with NaN or a byte order mark; or None, and what is wrong.

    Python's json and pandas write NaN for a missing number: it becomes null. JSON cannot express
    Infinity, so it is refused with a message instead of being lost.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    if CONSTANT.search(line) is None:
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(line), None
        return None, None
    try:
        value = json.loads(line, parse_constant=_constant, parse_float=_finite)
        return orjson.loads(orjson.dumps(value)), None  # as strict with strings as other lines are
    except OverflowError as error:
        return None, f"it holds {error}, which JSON has no form for; write a number or null"
    except (ValueError, TypeError, RecursionError):
        return None, None


def _constant(name: str) -> None:
    if name != "NaN":
        raise OverflowError(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise OverflowError(digits)
    return value


def _rounded(line: bytes, value: dict[str, Any]) -> str | None:
    """The first field with an integer that does not fit into 64 bits; `value` is the line's.

    Only a line with a large float is read again: looking for digits in every line would be more
    than half of the work of reading it.
    """
    large = [name for name, field in value.items() if any(map(_is_large, _scalars(field)))]
    if not large:
        return None
    try:
        written = json.loads(line)
    except RecursionError:
        return large[0]  # nested too deep to tell an integer from a float
    except ValueError:
        return None
    return next((name for name in large if any(map(_is_too_long, _scalars(written[name])))), None)


def _scalars(field: Any) -> Iterator[Any]:
    """All numbers, texts and constants of a value, at any depth."""
    todo = [field]
    while todo:
        value = todo.pop()
        kind = type(value)
        if kind is dict:
            todo.extend(value.values())
        elif kind is list:
            todo.extend(value)
        else:
            yield value


def _is_large(value: Any) -> bool:
    return type(value) is float and not -ROUNDED < value < ROUNDED


def _is_too_long(value: Any) -> bool:
    return isinstance(value, int) and not MIN_INT <= value <= MAX_INT


def extra_of(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """The JSON of the fields without a column (None without any), and what is wrong, or None."""
    rest = {
        name: value
        for name, value in row.items()
        if name not in COLUMNS or not isinstance(value, str | None)
    }
    if not rest:
        return None, None
    try:
        return orjson.dumps(rest).decode(), None
    except (TypeError, ValueError) as error:  # JSONEncodeError is a TypeError
        return None, f"a field cannot be written as JSON again: {error} (nested too deeply?)"


def table_of(
    rows: Sequence[dict[str, Any]], extras: Sequence[str | None], numbers: Sequence[int]
) -> pa.Table:
    """Known string fields as columns; everything else is in `extras`, one JSON object per row."""
    arrays = {ROW: pa.array(numbers, type=pa.int64())}
    for name in COLUMNS:
        values = [row.get(name) for row in rows]
        strings = [value if isinstance(value, str) else None for value in values]
        arrays[name] = pa.array(strings, type=STRING)
    arrays[EXTRA] = pa.array(extras, type=STRING)
    return pa.table({name: arrays[name] for name in (ROW, *KNOWN)})


def jsonl_schema() -> pa.Schema:
    """The columns that every shard of JSON lines, and every WARC file, has."""
    return pa.schema([(ROW, pa.int64()), *KNOWN.items()])


def to_json_rows(table: pa.Table) -> Iterable[bytes]:
    """Rows as JSON lines: fields of `extra` are merged in, `row` and nulls are left out.

    Where a name is both a column and in `extra`, the column's value is written.
    """
    for row in _plain_times(table).to_pylist():
        extra = row.pop(EXTRA, None)
        row.pop(ROW, None)
        value = {name: field for name, field in row.items() if field is not None}
        if extra:
            value |= {k: v for k, v in orjson.loads(extra).items() if k not in value}
        yield orjson.dumps(value, default=as_json) + b"\n"


def _plain_times(table: pa.Table) -> pa.Table:
    """Nanosecond times as ISO 8601 text and durations as seconds, like those of coarser units.

    Python's own times have microseconds and the years 1 to 9999: others become text, too. Times
    in a zone that this machine does not know are written in UTC.
    """
    for number, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz and not _is_zone(field.type.tz):
            utc = pa.timestamp(field.type.unit, "UTC")
            table = table.set_column(number, field.name, table.column(number).cast(utc))
            field = table.schema.field(number)
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            text = pc.replace_substring(table.column(number).cast(pa.string()), " ", "T")
            table = table.set_column(number, field.name, text)
        elif pa.types.is_time64(field.type) and field.type.unit == "ns":
            table = table.set_column(number, field.name, table.column(number).cast(pa.string()))
        elif pa.types.is_duration(field.type) and field.type.unit == "ns":
            seconds = pc.divide(
                table.column(number).cast(pa.int64()).cast(pa.float64(), False), 1e9
            )
            table = table.set_column(number, field.name, seconds)
        elif (text := _beyond_python(table.column(number))) is not None:
            table = table.set_column(number, field.name, text)
    return table


def _is_zone(name: str) -> bool:
    """Whether a zone is an offset, or one that the system's tables name."""
    return name[:1] in ("+", "-") or name in _zones()


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _beyond_python(column: pa.ChunkedArray) -> pa.Array | None:
    """Dates and timestamps as text (ISO 8601, in UTC) if some are outside the years 1 to 9999."""
    if pa.types.is_timestamp(column.type):
        unit, end = column.type.unit, "Z" if column.type.tz else ""
    elif pa.types.is_date(column.type):
        unit, end = DAYS[column.type.bit_width], ""
    else:
        return None
    counts = column.cast(pa.int32() if unit == "D" else pa.int64()).cast(pa.int64())
    times = counts.drop_null().to_numpy().astype(f"M8[{unit}]")
    least, greatest = np.array(YEARS, dtype="M8[D]")
    if not len(times) or (times.min() >= least and times.max() < greatest):
        return None
    texts = np.datetime_as_string(times, unit="D" if pa.types.is_date(column.type) else unit)
    values = iter(texts.tolist())
    return pa.array([None if count is None else next(values) + end for count in counts.to_pylist()])


def as_json(value: Any) -> Any:
    """What JSON cannot express: bytes as base64, decimals as digits, durations as seconds.

    Intervals of months, days and nanoseconds, which no number of seconds is, as ISO 8601.
    """
    if value is None:
        return None
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{Decimal(value.nanoseconds).scaleb(-9):f}S"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
