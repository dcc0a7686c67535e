"""Chunks of a shard as its reader yields them, with the records that gave no row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.batch import MAX_BATCH_BYTES, MAX_BATCH_ROWS
from pipelines.formats.json_rows import extra_of, table_of
from pipelines.schema import (
    ROW,
)


@dataclass(frozen=True)
class BadRow:
    """A record that could not be read: where it was, why, and its bytes."""

    row: int
    error: str
    raw: bytes
    num_rows: int = 1  # more where only a whole group of rows can be recognised as damaged


@dataclass(frozen=True)
class Refused:
    """A page that was read and gave no text: where it was and why."""

    row: int
    reason: str
    url: str | None


@dataclass(frozen=True)
class Chunk:
    """Some rows of a shard, in order, and the bad and refused records between them."""

    table: pa.Table
    bad: tuple[BadRow, ...] = ()
    refused: tuple[Refused, ...] = ()


class Rows:
    """Collects rows until they become a table."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._extras: list[str | None] = []
        self._numbers: list[int] = []
        self._size = 0

    def add(self, row: dict[str, Any], number: int, size: int) -> str | None:
        """Add a row of `size` bytes; returns what is wrong with it, or None."""
        extra, problem = extra_of(row)
        if problem is None:
            self.rows.append(row)
            self._extras.append(extra)
            self._numbers.append(number)
            self._size += size
        return problem

    def is_full(self) -> bool:
        return len(self.rows) >= MAX_BATCH_ROWS or self._size >= MAX_BATCH_BYTES

    def table(self) -> pa.Table:
        """The rows so far as a table; the collection is empty afterwards."""
        table = table_of(self.rows, self._extras, self._numbers)
        self.rows, self._extras, self._numbers, self._size = [], [], [], 0
        return table


UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)
"""What pyarrow raises for damaged files; a StorageError among these is not the file's fault."""


def numbered(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The table with `row` as its first column."""
    if ROW in table.column_names:
        table = table.drop_columns([ROW])
    return table.add_column(0, ROW, pa.array(rows))
