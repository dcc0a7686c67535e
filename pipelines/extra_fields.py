"""The fields inside `extra`, one JSON object a row, as columns: lifted, filled in, taken out.

A field has one home in a run. What a reader has no column for is in `extra`; a step that reads such
a field gets it as a column of the type that the values have, and a step that writes it makes a
column, and the entry of `extra` goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.schema import STRING

MAX_UINT64 = (1 << 64) - 1
MAX_EXACT = 1 << 53  # integers up to here are doubles without rounding


class Lifted:
    """A field of `extra` as a column, as a view."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values

    def take(self, indices: npt.NDArray[np.int64]) -> Lifted:
        return Lifted(self.values.take(pa.array(indices)))


def lifted(extra: pa.Array, *, name: str) -> Lifted:
    """The field `name` of each row, null where a row has none."""
    return Lifted(typed(_values(extra, name), name))


def filled(column: pa.Array, extra: pa.Array, name: str) -> pa.Array:
    """The column, with the values of `extra` where it is null; as strings where it has strings."""
    inside = _values(extra, name)
    if all(value is None for value in inside):
        return column
    own = column.to_pylist()
    if column.null_count == len(column):
        return typed(inside, name)
    pairs = zip(own, inside, strict=True)
    values = [
        str(inner) if value is None and inner is not None else value for value, inner in pairs
    ]
    return pa.array(values, type=STRING)


def texts(extra: pa.Array, *, name: str) -> Lifted:
    """The field `name` of each row as a string, null where a row has none."""
    return Lifted(as_strings(_values(extra, name)))


def as_strings(values: Sequence[Any]) -> pa.Array:
    """Values of any types as strings: numbers by their digits, lists and objects as JSON."""
    return pa.array([None if value is None else _text_of(value) for value in values], STRING)


def _text_of(value: Any) -> str:
    if isinstance(value, bool | list | dict):
        return orjson.dumps(value, default=str).decode()
    return canonical(value)


def _values(extra: pa.Array, name: str) -> list[Any]:
    """The field of each row. Only rows whose JSON names it are parsed."""
    mark = orjson.dumps(name).decode()
    named = pc.fill_null(pc.match_substring(extra, mark), False)
    if not pc.any(named).as_py():
        return [None] * len(extra)
    return [
        orjson.loads(text).get(name) if there else None
        for text, there in zip(extra.to_pylist(), named.to_pylist(), strict=True)
    ]


def typed(values: Sequence[Any], name: str) -> pa.Array:
    """Values of JSON as an array of one type: strings, booleans, integers or doubles.

    Integers mixed with fractions become doubles where that is exact. ValueError for a mixture of
    other types, and for lists and objects.
    """
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {"string"}:
        return pa.array(values, type=STRING)
    if kinds == {"boolean"}:
        return pa.array(values, type=pa.bool_())
    if kinds == {"integer"}:
        large = any(value is not None and value > np.iinfo(np.int64).max for value in values)
        return pa.array(values, type=pa.uint64() if large else pa.int64())
    if kinds <= {"integer", "fraction"}:
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_EXACT and int(float(value)) != value:
                raise ValueError(
                    f"the field {name!r} is {value} in one row and a fraction in another"
                )
        return pa.array([None if v is None else float(v) for v in values], type=pa.float64())
    if len(kinds) == 1:
        raise ValueError(
            f"the field {name!r} holds {kinds.pop()}s, which are not values to compare"
        )
    raise ValueError(
        f"the field {name!r} is of several types ({', '.join(sorted(kinds))}); make them one"
    )


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "fraction"
    return "string" if isinstance(value, str) else "list" if isinstance(value, list) else "object"


def without(extra: pa.Array, names: Sequence[str]) -> pa.Array:
    """`extra` without these fields; the same array where no row has one."""
    named = np.zeros(len(extra), dtype=bool)
    for name in names:
        mark = orjson.dumps(name).decode()
        hits = pc.fill_null(pc.match_substring(extra, mark), False)
        named |= hits.to_numpy(zero_copy_only=False)
    if not named.any():
        return extra
    values = extra.to_pylist()
    changed = False
    for row in np.flatnonzero(named).tolist():
        fields = orjson.loads(values[row])
        kept = {name: value for name, value in fields.items() if name not in names}
        if len(kept) < len(fields):
            changed = True
            values[row] = orjson.dumps(kept).decode() if kept else None
    return pa.array(values, type=STRING) if changed else extra


def canonical(value: Any) -> str:
    """A value as text that is equal for equal numbers, whatever type a shard holds them in."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        whole = value == value.to_integral_value()
        return str(int(value)) if whole else f"{value.normalize():f}"
    return str(value)
