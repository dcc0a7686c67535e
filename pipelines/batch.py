"""A slice of a table, and what several operators need to know about it computed once.

A `view` is what a pure function makes of one column (words, lines, hashes): operators ask for it by
naming the function, and the batch keeps it for as long as that column is unchanged. Dropping rows
keeps views, writing a column drops the views of that column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import extra_fields, kernels
from pipelines.errors import DataError
from pipelines.schema import EXTRA, KNOWN, ROW, STRING, TEXT

MAX_BATCH_ROWS = 1000  # enough that a step's fixed cost is small, few enough for one bad row
MAX_BATCH_BYTES = 4 << 20  # views of a batch take several times its text
FALLS_BACK = frozenset(KNOWN) - {TEXT, EXTRA}  # columns of strings that a pool may hold as numbers


class View(Protocol):
    """Something with one entry a row, of which rows can be taken."""

    def take(self, indices: npt.NDArray[np.int64]) -> View: ...


V = TypeVar("V")
ViewFunction = Callable[[pa.Array], V]


class Amount(NamedTuple):
    """How much there is. Words are runs of bytes between ASCII white space."""

    rows: int
    bytes: int
    words: int


class Batch:
    """Rows of a table with their views. Never changed: `keep` and `write` return new ones."""

    def __init__(
        self, table: pa.Table, *, views: Mapping[tuple[object, str], View] | None = None
    ) -> None:
        self._table = table
        self._amount: Amount | None = None
        self._views: dict[tuple[object, str], View] = dict(views or {})

    @property
    def table(self) -> pa.Table:
        """The rows. An operator that would set it fails where it tries."""
        return self._table

    @property
    def num_rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The identity of each row."""
        return self.column(ROW).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    @property
    def text(self) -> pa.Array:
        return self.column(TEXT)

    def amount(self) -> Amount:
        """Rows, and the bytes and words of their texts (0 without a text), counted once."""
        if self._amount is None:
            chunks = self.table.column(TEXT).chunks if self.has(TEXT) else []
            self._amount = Amount(
                self.num_rows,
                sum(text_bytes(chunk) for chunk in chunks),
                sum(kernels.counting.words(chunk) for chunk in chunks),
            )
        return self._amount

    def has(self, name: str) -> bool:
        return name in self.table.column_names

    def column(self, name: str) -> pa.Array:
        """One column as one contiguous array; where there is none, the field inside `extra`.

        A known column that is null in a row gives the value that `extra` holds for that row: ids
        that are numbers are there. ValueError names the columns there are, or the types of a field
        that is a number in one row and a string in another.
        """
        if name not in self.table.column_names:
            if self.has(EXTRA):
                return self.view(partial(extra_fields.lifted, name=name), EXTRA).values
            raise ValueError(
                f"there is no column {name!r}; the columns here are "
                f"{', '.join(self.table.column_names)}"
            )
        array = self._whole(name)
        if name in FALLS_BACK and array.null_count and self.has(EXTRA):
            return extra_fields.filled(array, self.column(EXTRA), name)
        return array

    def _whole(self, name: str) -> pa.Array:
        chunked = self.table.column(name)
        if chunked.num_chunks == 1:
            return chunked.chunk(0)
        return pa.concat_arrays(chunked.chunks) if chunked.num_chunks else _empty(chunked.type)

    def strings(self, name: str) -> pa.Array:
        """A column as strings, whatever its values are: numbers by their digits, lists as JSON.

        For fields that are names (url, source), which a pool may hold as anything. ValueError as
        for `column`.
        """
        there = self.has(name)
        if not there and not self.has(EXTRA):
            return self.column(name)  # which names the columns there are
        array = self._whole(name) if there else pa.nulls(self.num_rows, STRING)
        if not pa.types.is_large_string(array.type):
            array = extra_fields.as_strings(array.to_pylist())
        if array.null_count and self.has(EXTRA) and (not there or name in FALLS_BACK):
            inside = self.view(partial(extra_fields.texts, name=name), EXTRA).values
            array = pc.coalesce(array, inside)
        return array

    def column_or_null(self, name: str) -> pa.Array:
        """As `column`; nulls where a shard of the pool has no such column."""
        if name not in self.table.column_names and not self.has(EXTRA):
            return pa.nulls(self.num_rows)
        return self.column(name)

    def view(self, function: ViewFunction[V], column: str = TEXT) -> V:
        """`function(column)`, computed once until the column is written."""
        key = (function, column)
        if key not in self._views:
            self._views[key] = function(self.column(column))  # type: ignore[assignment]
        return self._views[key]  # type: ignore[return-value]

    def keep(self, mask: npt.NDArray[np.bool_]) -> Batch:
        """The rows where `mask` is true, with the views that were already computed."""
        indices = np.flatnonzero(mask)
        views = {key: view.take(indices) for key, view in self._views.items()}
        return Batch(self.table.filter(pa.array(mask)), views=views)

    def write(self, columns: Mapping[str, pa.Array]) -> Batch:
        """The batch with these columns set; their views are dropped."""
        table = self.table
        for name, values in columns.items():
            if len(values) != table.num_rows:
                raise ValueError(
                    f"column {name!r} was written with {len(values)} values for "
                    f"{table.num_rows} rows"
                )
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, values)
            else:
                table = table.append_column(name, values)
        moved = [name for name in columns if name not in (TEXT, EXTRA, ROW)]
        if moved and self.has(EXTRA) and EXTRA not in columns:
            # A field has one home: what a step wrote replaces what came with the document.
            before = self.column(EXTRA)
            after_ = extra_fields.without(before, moved)
            if after_ is not before:
                table = table.set_column(table.column_names.index(EXTRA), EXTRA, after_)
                columns = {**columns, EXTRA: after_}
        views = {key: view for key, view in self._views.items() if key[1] not in columns}
        after = Batch(table, views=views)
        after._amount = None if TEXT in columns else self._amount
        return after

    def drop(self, names: tuple[str, ...]) -> Batch:
        """The batch without these columns."""
        present = [name for name in names if self.has(name)]
        views = {key: view for key, view in self._views.items() if key[1] not in present}
        return Batch(self.table.drop_columns(present) if present else self.table, views=views)

    def slice(self, start: int, length: int) -> Batch:
        """Rows start .. start+length, without views."""
        return Batch(self.table.slice(start, length))


def _empty(type_: pa.DataType) -> pa.Array:
    return pa.array([], type=type_)


def text_bytes(array: pa.Array) -> int:
    """UTF-8 bytes of all strings of a large_string array. TypeError for another type."""
    if not pa.types.is_large_string(array.type):
        raise DataError(
            f"the column 'text' holds {array.type}, expected text: name the column that holds it "
            "with --text-field"
        )
    if len(array) == 0 or array.buffers()[1] is None:
        return 0
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)
    return int(offsets[array.offset + len(array)] - offsets[array.offset])


def cut(table: pa.Table) -> list[pa.Table]:
    """Slices of at most MAX_BATCH_ROWS rows and about MAX_BATCH_BYTES of text, in order.

    The cut depends only on the rows, so the same shard is cut alike everywhere.
    """
    if table.num_rows == 0:
        return [table]
    starts = [0]
    sizes = _row_bytes(table)
    total = 0
    for number, size in enumerate(sizes.tolist()):
        full = total and (total + size > MAX_BATCH_BYTES or number - starts[-1] >= MAX_BATCH_ROWS)
        if full:
            starts.append(number)
            total = 0
        total += size
    ends = [*starts[1:], table.num_rows]
    return [table.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _row_bytes(table: pa.Table) -> npt.NDArray[np.int64]:
    sizes = np.ones(table.num_rows, dtype=np.int64)
    for name in table.column_names:
        if pa.types.is_large_string(table.schema.field(name).type):
            array = table.column(name).combine_chunks()
            array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
            offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)
            window = offsets[array.offset : array.offset + len(array) + 1]
            sizes += np.diff(window)
    return sizes
