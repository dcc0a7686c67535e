"""Files of rows ready to show: written once by a check, read by pages one block at a time.

Each block is the JSON of `BLOCK_ROWS` rows, compressed with zlib. The index at the end has the end
of each block and the columns that rows are chosen by. A page reads the index and the blocks it
shows, nothing else.

    block ... block | index (zlib of JSON) | length of the index, 4 bytes little endian | b"LBQ1"
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field

from pipelines.records import Frozen
from pipelines.storage.base import Store as Files

BLOCK_ROWS = 50  # as many as a page of a board shows
BLOCK_BYTES = 8 << 20  # of one block unpacked: 50 rows with some texts of a few thousand letters
MAX_TAIL = 64 << 20  # of one index unpacked: five million rows of ten bytes each
MAGIC = b"LBQ1"
Numbers = npt.NDArray[np.int64]


class Index(Frozen):
    """The index at the end of a file of rows. Arrays are base64; empty when not known."""

    total: int
    right: int | None = None
    columns: tuple[str, ...] = ()
    ends: tuple[int, ...] = Field(description="where each block ends")
    wrong: str = Field("", description="one bit for each row; empty without right and wrong")
    values: str = Field(
        "", description="float32 for each row: quality of the answer, higher is better"
    )
    numbers: str = Field("", description="int32, the question of each row; empty: 0, 1, 2, ...")
    categories: tuple[str, ...] = Field((), description="names of the categories, by index")
    category: str = Field("", description="uint8 for each row: index of its category")
    classes: tuple[str, ...] = Field((), description="names of the classes that rows give by index")

    def wrong_rows(self) -> npt.NDArray[np.bool_] | None:
        """Whether each row is a wrong answer."""
        if not self.wrong:
            return None
        bits = np.frombuffer(base64.b64decode(self.wrong), np.uint8)
        return np.unpackbits(bits)[: self.total].astype(bool)

    def row_values(self) -> npt.NDArray[np.float32] | None:
        """The quality of each answer, higher is better; None when not known."""
        return np.frombuffer(base64.b64decode(self.values), "<f4") if self.values else None

    def row_numbers(self) -> Numbers:
        """The question of each row."""
        if not self.numbers:
            return np.arange(self.total)
        return np.frombuffer(base64.b64decode(self.numbers), "<i4").astype(np.int64)

    def of_category(self, name: str) -> npt.NDArray[np.bool_]:
        """Whether each row is of a category. KeyError for an unknown one."""
        if name not in self.categories:
            raise KeyError(f"there is no category {name!r}; there are {list(self.categories)}")
        codes = np.frombuffer(base64.b64decode(self.category), np.uint8)
        return np.asarray(codes == self.categories.index(name))


def packed(values: npt.NDArray[Any]) -> str:
    """The bytes of an array in base64, as an index stores them."""
    return base64.b64encode(values.tobytes()).decode()


class RowWriter:
    """Writes rows to an open file."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._waiting: list[bytes] = []
        self._ends: list[int] = []
        self.total = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(orjson.dumps(row))
        self.total += 1
        if len(self._waiting) == BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._target.write(zlib.compress(b"[" + b",".join(self._waiting) + b"]", 6))
        self._ends.append(self._target.tell())
        self._waiting = []

    def finish(self, **chosen_by: Any) -> None:
        """Write the index; `chosen_by` are its fields other than `total` and `ends`."""
        if self._waiting:
            self._flush()
        index = Index(total=self.total, ends=tuple(self._ends), **chosen_by)
        tail = zlib.compress(index.model_dump_json(exclude_defaults=True).encode())
        self._target.write(tail)
        self._target.write(len(tail).to_bytes(4, "little") + MAGIC)


class RowReader:
    """Reads an open file of rows."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.index = _index(file)

    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at these positions."""
        needed = sorted({position // BLOCK_ROWS for position in positions})
        blocks = {number: self._block(number) for number in needed}
        return [blocks[at // BLOCK_ROWS][at % BLOCK_ROWS] for at in positions]

    def _block(self, number: int) -> list[dict[str, Any]]:
        start = self.index.ends[number - 1] if number else 0
        self._file.seek(start)
        data = self._file.read(self.index.ends[number] - start)
        rows: list[dict[str, Any]] = orjson.loads(
            zlib.decompressobj().decompress(data, BLOCK_BYTES)
        )
        return rows


def read_index(files: Files, name: str) -> Index:
    """The index of a file alone."""
    with files.open(name) as file:
        return _index(file)


def _index(file: Any) -> Index:
    file.seek(-8, 2)
    end = file.tell()
    tail = file.read(8)
    if tail[4:] != MAGIC:
        raise ValueError("not a file of rows that a check wrote: it does not end in LBQ1")
    length = int.from_bytes(tail[:4], "little")
    file.seek(end - length)
    return Index.model_validate_json(zlib.decompressobj().decompress(file.read(length), MAX_TAIL))
