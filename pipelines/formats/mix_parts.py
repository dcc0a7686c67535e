"""Split a dataset into several sources by the values of a column, or by intervals of a number.

A part is named by its value, or by its interval (`below 0.2`, `0.2 to 0.6`, `from 0.6`); rows
without a value are the part `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.batch import Batch
from pipelines.errors import DataError
from pipelines.extra_fields import canonical
from pipelines.records import File, Frozen
from pipelines.schema import EXTRA
from pipelines.storage.open import open_store

NONE = "none"
MOST_PARTS = 1000  # a column with more values is an id or a URL rather than a category
TOKEN_COLUMN = "num_tokens"


class By(Frozen):
    """What distinguishes the parts: a column, and for numbers the edges between its intervals."""

    column: str = Field(min_length=1)
    edges: tuple[float, ...] = ()

    def labels(self) -> list[str] | None:
        """The names of intervals in ascending order; None where values name the parts."""
        if not self.edges:
            return None
        names = [f"{edge:g}" for edge in self.edges]
        inner = [f"{low} to {high}" for low, high in pairwise(names)]
        return [f"below {names[0]}", *inner, f"from {names[-1]}"]

    def of(self, table: pa.Table, *, where: str) -> pa.Array:
        """The part of each row, by a column or a field of `extra`.

        DataError for a column that is missing or of another type.
        """
        try:
            column = Batch(table).column(self.column)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if pa.types.is_null(column.type):
            return pa.array([NONE] * len(column), pa.large_string())
        labels = self.labels()
        if labels is None:
            if pa.types.is_nested(column.type):
                raise DataError(
                    f"{where}: {self.column!r} holds {column.type}, expected single values"
                )
            values = column.dictionary_encode()
            names = [canonical(value) for value in values.dictionary.to_pylist()]
            named = pa.array([*names, NONE], pa.large_string())
            return named.take(pc.fill_null(values.indices, len(names)))
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise DataError(f"{where}: {self.column!r} holds {column.type}: leave out edges")
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        number = np.searchsorted(np.array(self.edges), values, side="right")
        number[np.isnan(values)] = len(labels)
        return pa.array([*labels, NONE], pa.large_string()).take(pa.array(number))


class PartSize(Frozen):
    """The size of a part, in one file or a whole dataset."""

    rows: int
    amount: int  # tokens if `of_tokens`, else bytes of text
    of_tokens: bool


class CountTask(Frozen):
    """Count the parts of one file of a dataset."""

    uri: str
    file: File
    by: By


def count_parts(task: CountTask) -> dict[str, PartSize]:
    """The size of each part of a file. DataError for more than `MOST_PARTS` parts."""
    where = f"{task.uri}/{task.file.name}"
    sizes: dict[str, npt.NDArray[np.int64]] = {}
    parquet = pq.ParquetFile(pa.BufferReader(open_store(task.uri).read_bytes(task.file.name)))
    there = parquet.schema_arrow.names
    has_tokens = TOKEN_COLUMN in there
    size_column = TOKEN_COLUMN if has_tokens else "text"
    columns = [n for n in (task.by.column, EXTRA, size_column) if n in there]
    for batch in parquet.iter_batches(columns=columns):
        table = pa.Table.from_batches([batch])
        parts = task.by.of(table, where=where).dictionary_encode()
        code = parts.indices.to_numpy()
        amounts = table[size_column] if has_tokens else pc.binary_length(table[size_column])
        amount = pc.fill_null(amounts, 0).to_numpy()
        for number, name in enumerate(parts.dictionary.to_pylist()):
            own = code == number
            size = np.array([own.sum(), amount[own].sum()], np.int64)
            sizes[name] = sizes.get(name, np.zeros(2, np.int64)) + size
    if len(sizes) > MOST_PARTS:
        raise DataError(
            f"{where}: {task.by.column!r} has {len(sizes):,} values, more than {MOST_PARTS:,}: "
            "give edges for numbers, or take a column of fewer values"
        )
    return {
        name: PartSize(rows=int(rows), amount=int(amount), of_tokens=has_tokens)
        for name, (rows, amount) in sizes.items()
    }


def added(files: Sequence[dict[str, PartSize]]) -> dict[str, PartSize]:
    """The sizes of parts added up over files, sorted by name."""
    out: dict[str, PartSize] = {}
    for file in files:
        for name, size in file.items():
            before = out.get(name)
            if before is None:
                out[name] = size
                continue
            if before.of_tokens != size.of_tokens:
                raise DataError(
                    f"the part {name!r} has {TOKEN_COLUMN!r} in some files only: curate the "
                    "dataset again with token_count"
                )
            out[name] = PartSize(
                rows=before.rows + size.rows,
                amount=before.amount + size.amount,
                of_tokens=size.of_tokens,
            )
    return dict(sorted(out.items()))
