"""Single questions of a submission, as the check wrote them and a person or a program reads them.

A log becomes one file of blocks that are ready to show: each block is zlib over the JSON of
`BLOCK_ROWS` questions with long texts cut, and an index at the end says where blocks begin and
which answers are wrong. A page reads the index and the blocks it shows, nothing else.

    block ... block | index (zlib of JSON) | length of the index, 4 bytes little endian | b"LBQ1"
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field

from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.logs import BATCH_ROWS, open_parquet
from pipelines.records import Frozen
from pipelines.storage.base import Store as Files

SKIPPED = ("shots", "losses", "contexts")
LONG = 2000  # characters of a text that are shown
MANY = 200  # members of a list that are shown
BLOCK_ROWS = 50
BLOCK_BYTES = 8 << 20  # of one block unpacked: 50 rows with some texts of LONG letters
MAX_TAIL = 64 << 20  # of one index unpacked
MAGIC = b"LBQ1"


class QuestionPage(Frozen):
    """Some questions of one task, answered by the model of one seed."""

    submission: str
    task: str
    seed: int
    seeds: tuple[int, ...]
    total: int
    right: int | None
    offset: int
    columns: tuple[str, ...]
    questions: tuple[dict[str, Any], ...]


class Index(Frozen):
    """What is at the end of a file of questions."""

    total: int
    right: int | None
    columns: tuple[str, ...]
    ends: tuple[int, ...] = Field(description="where each block ends")
    wrong: str = Field(description="one bit for each question, base64; empty without answers")


# ---- writing, in the check


def write_questions(files: Files, name: str, bundle: Bundle, seed: int, task: str) -> None:
    """Write the questions of one task from its log, in small batches."""
    columns: list[str] = []
    wrong: list[bool] = []
    ends: list[int] = []
    total = 0
    waiting: list[bytes] = []
    with files.create(name) as target:
        for part in bundle.parts(seed, task):
            file = open_parquet(bundle, part)
            columns = [column for column in file.schema_arrow.names if column not in SKIPPED]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                table = pa.Table.from_batches([batch])
                if "correct" in columns:
                    wrong += [not right for right in table["correct"].to_pylist()]
                waiting += [orjson.dumps(row) for row in _plain(table)]
                total += len(batch)
                while len(waiting) >= BLOCK_ROWS:
                    _write_block(target, waiting[:BLOCK_ROWS], ends)
                    waiting = waiting[BLOCK_ROWS:]
        if waiting:
            _write_block(target, waiting, ends)
        bits = np.packbits(np.array(wrong, dtype=bool)).tobytes() if wrong else b""
        index = Index(
            total=total,
            right=total - sum(wrong) if "correct" in columns else None,
            columns=tuple(columns),
            ends=tuple(ends),
            wrong=base64.b64encode(bits).decode(),
        )
        tail = zlib.compress(index.model_dump_json().encode())
        target.write(tail)
        target.write(len(tail).to_bytes(4, "little") + MAGIC)


def _write_block(target: Any, rows: list[bytes], ends: list[int]) -> None:
    target.write(zlib.compress(b"[" + b",".join(rows) + b"]", 6))
    ends.append(target.tell())


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: _short(value) for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONG else value[:LONG] + "..."
    if isinstance(value, bytes):
        return value[:100].hex()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, list):
        return [_short(item) for item in value[:MANY]]
    if isinstance(value, dict):
        kept = {
            name: item for name, item in value.items() if name not in ("losses", "greedy", "ids")
        }
        return {name: _short(item) for name, item in kept.items()}
    return value


# ---- reading, for a page


class Part(Frozen):
    """Some questions of one file, and how many there are."""

    index: Index
    total: int = Field(description="of those that are shown: all, or the wrong ones")
    questions: tuple[dict[str, Any], ...]


def read_questions(files: Files, name: str, *, wrong: bool, limit: int, offset: int) -> Part:
    """Some questions of a file; of the wrong ones with `wrong`."""
    with files.open(name) as file:
        index = _index(file)
        numbers: npt.NDArray[np.int64] = np.arange(index.total)
        if wrong and index.right is not None:
            bits = np.frombuffer(base64.b64decode(index.wrong), np.uint8)
            numbers = np.flatnonzero(np.unpackbits(bits)[: index.total])
        shown = numbers[offset : offset + limit].tolist()
        needed = sorted({number // BLOCK_ROWS for number in shown})
        blocks = {number: _block(file, index, number) for number in needed}
    rows = tuple(blocks[number // BLOCK_ROWS][number % BLOCK_ROWS] for number in shown)
    return Part(index=index, total=len(numbers), questions=rows)


def _index(file: Any) -> Index:
    file.seek(-8, 2)
    end = file.tell()
    tail = file.read(8)
    if tail[4:] != MAGIC:
        raise ValueError("a file of questions that the check did not write")
    length = int.from_bytes(tail[:4], "little")
    file.seek(end - length)
    return Index.model_validate_json(zlib.decompressobj().decompress(file.read(length), MAX_TAIL))


def _block(file: Any, index: Index, number: int) -> list[dict[str, Any]]:
    start = index.ends[number - 1] if number else 0
    file.seek(start)
    data = file.read(index.ends[number] - start)
    rows: list[dict[str, Any]] = orjson.loads(zlib.decompressobj().decompress(data, BLOCK_BYTES))
    return rows
