"""Fields of a page by name: a column of that name, else an entry of the JSON object in `extra`.

Readers make columns of the few fields they know and leave the others in `extra`; steps add columns
for plain values and entries of `extra` for nested ones. An operator that is given a field's name
finds it in either place, and the column comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from pipelines.batch import Batch
from pipelines.schema import EXTRA, STRING

MISSING = object()
"""What `values_of` gives for a row without the field; null in a column counts as missing."""


class _Objects:
    """The parsed `extra` of each row, as a view. Not to be changed."""

    def __init__(self, values: list[dict[str, Any]]) -> None:
        self.values = values

    def take(self, indices: npt.NDArray[np.int64]) -> _Objects:
        return _Objects([self.values[index] for index in indices.tolist()])


def _parsed(extra: pa.Array) -> _Objects:
    return _Objects([orjson.loads(value) if value else {} for value in extra.to_pylist()])


def extras(batch: Batch) -> list[dict[str, Any]]:
    """The fields in `extra`, a dictionary per row (do not change it)."""
    if not batch.has(EXTRA):
        return [{}] * batch.num_rows
    return batch.view(_parsed, EXTRA).values


def values_of(batch: Batch, name: str) -> list[Any]:
    """The field of each row; MISSING where a row has none."""
    if batch.has(name) and name != EXTRA:
        column = batch.column(name)
        if not column.null_count:
            return column.to_pylist()  # type: ignore[no-any-return]
        inside = [fields.get(name, MISSING) for fields in extras(batch)]
        values = column.to_pylist()
        return [i if v is None else v for v, i in zip(values, inside, strict=True)]
    return [fields.get(name, MISSING) for fields in extras(batch)]


def needed(batch: Batch, name: str, *, why: str) -> list[Any]:
    """The field of each row. ValueError when a row has none: `why` says who needs it."""
    values = values_of(batch, name)
    if any(value is MISSING for value in values):
        there = [n for n in batch.table.column_names if n != EXTRA]
        inside = sorted({key for fields in extras(batch) for key in fields})
        raise ValueError(
            f"a row has no field {name!r}, which {why} needs; fields here: {', '.join(there)}"
            f"{'; in extra: ' + ', '.join(inside) if inside else ''}"
        )
    return values


def absent(batch: Batch, name: str, *, overwrite: bool) -> None:
    """ValueError when a row has the field already and it may not be overwritten."""
    if not overwrite and any(value is not MISSING for value in values_of(batch, name)):
        raise ValueError(f"the field {name!r} exists already; set overwrite: true to replace it")


def with_entries(batch: Batch, entries: Sequence[Mapping[str, Any]]) -> pa.Array:
    """The column `extra` with these entries set; an entry MISSING is removed."""
    rows = []
    for fields, entry in zip(extras(batch), entries, strict=True):
        merged = {**fields, **entry}
        merged = {key: value for key, value in merged.items() if value is not MISSING}
        rows.append(orjson.dumps(merged).decode() if merged else None)
    return pa.array(rows, type=STRING)


def pages(batch: Batch) -> list[dict[str, Any]]:
    """Rows as dictionaries of all their fields, those of `extra` among them; no nulls."""
    names = [name for name in batch.table.column_names if name not in (EXTRA, "row")]
    columns = [batch.column(name).to_pylist() for name in names]
    rows = []
    for position, fields in enumerate(extras(batch)):
        row = {
            name: values[position]
            for name, values in zip(names, columns, strict=True)
            if values[position] is not None
        }
        rows.append({**fields, **row})
    return rows
