"""Single answers of a submission: written by the check, read by pages and the API.

A log becomes one file of rows ready to show (see `row_blocks`), with long texts cut. Its index has
the columns that answers are chosen by: right or wrong, how good, which category.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from leaderboard.service.question_texts import QuestionText
from leaderboard.service.row_blocks import Index, Numbers, RowReader, RowWriter, packed
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.logs import batch_rows, open_parquet
from pipelines.records import Frozen
from pipelines.storage.base import Store as Files

SKIPPED = ("shots", "losses", "contexts", "image", "nearest")
LONG = 2000  # characters of a text that are shown: about a page of print
MOST_ROWS = 1024  # of a log as Python objects at a time
MANY = 200  # members of a list that are shown; with `LONG` at most 400 KB
MOST_CATEGORIES = 255  # each is one byte a question; the last is all others
Shown = Literal["", "wrong", "right"]


class QuestionPage(Frozen):
    """Some questions of one task, answered by the model of one seed, and by a rival's."""

    submission: str
    task: str
    seed: int
    seeds: tuple[int, ...]
    total: int
    right: int | None
    offset: int
    columns: tuple[str, ...]
    questions: tuple[dict[str, Any], ...]
    show: Shown = ""
    category: str = ""
    categories: tuple[str, ...] = ()
    texts: tuple[QuestionText | None, ...] = Field((), description="of each question shown")
    no_texts: str = Field("", description="why there are no texts")
    classes: tuple[str, ...] = Field((), description="names of the classes, by index")
    rival: str = ""
    rival_seed: int | None = None
    rival_answers: tuple[dict[str, Any], ...] = ()
    num_apart: int = Field(0, description="questions where the two differ; they come first")


# ---- writing, in the check


def write_questions(files: Files, name: str, bundle: Bundle, seed: int, task: str) -> None:
    """Write the answers of one task from its log, in small batches."""
    columns: list[str] = []
    wrong: list[bool] = []
    values: list[float] = []
    rows: list[int] = []
    categories: dict[str, int] = {}
    codes: list[int] = []
    with files.create(name) as target:
        writer = RowWriter(target)
        for part in bundle.parts(seed, task):
            file = open_parquet(bundle, part)
            columns = [column for column in file.schema_arrow.names if column not in SKIPPED]
            size = min(batch_rows(file), MOST_ROWS)
            for batch in file.iter_batches(size, columns=columns, use_threads=False):
                table = pa.Table.from_batches([batch])
                if "correct" in columns:
                    wrong += [not right for right in table["correct"].to_pylist()]
                values += _values(table)
                rows += table["row"].to_pylist()
                for row in _plain(table):
                    writer.add(row)
                    codes.append(_code(categories, row.get("category")))
        in_order = rows == list(range(len(rows)))
        writer.finish(
            right=writer.total - sum(wrong) if "correct" in columns else None,
            columns=tuple(columns),
            wrong=packed(np.packbits(np.array(wrong, bool))) if wrong else "",
            values=packed(np.array(values, "<f4")) if values else "",
            numbers="" if in_order else packed(np.array(rows, "<i4")),
            categories=tuple(categories) if len(categories) > 1 else (),
            category=packed(np.array(codes, np.uint8)) if len(categories) > 1 else "",
        )


def _values(table: pa.Table) -> list[float]:
    """The quality of each answer, higher is better; empty when the log has no such column."""
    names = table.column_names
    if "nats" in names:
        sizes = table["num_bytes" if "num_bytes" in names else "num_tokens"].to_numpy()
        better: npt.NDArray[Any] = -table["nats"].to_numpy() / np.maximum(sizes, 1)
        return better.tolist()
    for name in ("credit", "correct", "jaccard"):
        if name in names:
            return [float(value or 0) for value in table[name].to_pylist()]
    return []


def _code(categories: dict[str, int], name: object) -> int:
    label = str(name)[:100] if name is not None else "none"
    if label not in categories and len(categories) >= MOST_CATEGORIES:
        label = "others"
    return min(categories.setdefault(label, len(categories)), MOST_CATEGORIES)


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


class Answers(Frozen):
    """Some answers of one file, and the number of answers that match."""

    index: Index
    total: int = Field(description="number of answers chosen")
    questions: tuple[dict[str, Any], ...]
    rival_answers: tuple[dict[str, Any], ...] = ()
    num_apart: int = 0


def read_questions(
    files: Files,
    name: str,
    *,
    show: Shown = "",
    category: str = "",
    rival: str = "",
    limit: int,
    offset: int,
) -> Answers:
    """Some answers of a file: the wrong or right ones, those of a category.

    With the file of a `rival`, also its answers to the same questions; the questions on which the
    two differ most come first. KeyError for an unknown category.
    """
    with files.open(name) as file:
        reader = RowReader(file)
        chosen = _chosen(reader.index, show, category)
        if not rival:
            shown = chosen[offset : offset + limit].tolist()
            rows = tuple(reader.rows(shown))
            return Answers(index=reader.index, total=len(chosen), questions=rows)
        with files.open(rival) as rival_file:
            other = RowReader(rival_file)
            chosen, theirs, num_apart = _where_apart(reader.index, other.index, chosen)
            part = slice(offset, offset + limit)
            return Answers(
                index=reader.index,
                total=len(chosen),
                questions=tuple(reader.rows(chosen[part].tolist())),
                rival_answers=tuple(other.rows(theirs[part].tolist())),
                num_apart=num_apart,
            )


def _chosen(index: Index, show: Shown, category: str) -> Numbers:
    kept = np.ones(index.total, bool)
    wrong = index.wrong_rows()
    if show and wrong is not None:
        kept &= wrong if show == "wrong" else ~wrong
    if category:
        kept &= index.of_category(category)
    return np.flatnonzero(kept)


def _where_apart(first: Index, second: Index, chosen: Numbers) -> tuple[Numbers, Numbers, int]:
    """Positions in both files of the questions that both have, those that differ most first."""
    numbers, others = first.row_numbers()[chosen], second.row_numbers()
    order = np.argsort(others, kind="stable")
    at = np.searchsorted(others[order], numbers)
    both = at < len(others)
    both[both] = others[order][at[both]] == numbers[both]
    mine, theirs = chosen[both], order[at[both]]
    a, b = first.row_values(), second.row_values()
    if a is None or b is None:
        return mine, theirs, 0
    apart = np.abs(a[mine] - b[theirs])
    first_apart = np.argsort(-apart, kind="stable")
    return mine[first_apart], theirs[first_apart], int((apart > 0).sum())


def numbers_of(questions: Sequence[dict[str, Any]]) -> list[int]:
    """The question number of each answer."""
    return [int(question.get("row", 0)) for question in questions]
