"""One row for one result, and a word for rows that share a name.

A result may be printed in a paper (a reference) and listed in a table that was imported. The row
with more behind it stays, and names the other. Rows of one name, as of a table that lists a run
twice, get a word by which a reader can tell which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leaderboard.submissions.results import Row
from pipelines.execution.progress import short

PRINTED = 6e-4  # two figures of one result, when one of them is printed with three digits
SHARED = 2  # figures that must agree where the names do not

WORDS: tuple[Callable[[Row], str], ...] = (
    lambda row: row.team,
    lambda row: row.kind if row.kind != "submission" else "",
    lambda row: f"{short(row.params)} parameters" if row.params else "",
    lambda row: f"{short(row.budget.seen)} {row.budget.unit} seen" if row.budget.seen else "",
    lambda row: f"dataset {short(row.dataset.size)}" if row.dataset.size else "",
    lambda row: row.date,
    lambda row: row.submission_id[:8],
)
"""Fields that may distinguish rows of one name, the most telling first; the last always does."""


def one_row_a_result(rows: Sequence[Row]) -> list[Row]:
    """The rows of one group, each result once, names that come twice with a word."""
    return _with_words(_merged(rows))


def _merged(rows: Sequence[Row]) -> list[Row]:
    imported = [row for row in rows if row.kind == "imported"]
    imported.sort(key=lambda row: (-len(row.tasks), row.date, row.submission_id))
    merged: dict[str, list[str]] = {}
    away: set[str] = set()
    for row in rows:
        if row.kind == "reference":
            same = next((other for other in imported if _same(other, row)), None)
            if same is not None:
                merged.setdefault(same.submission_id, []).append(row.submission_id)
                away.add(row.submission_id)
    return [
        row.model_copy(update={"same_result": tuple(merged[row.submission_id])})
        if row.submission_id in merged
        else row
        for row in rows
        if row.submission_id not in away
    ]


def _same(row: Row, other: Row) -> bool:
    """Whether a printed row and an imported one are one result."""
    names = [name for name in row.figures if name in other.figures]
    values = [(row.figures[name].value, other.figures[name].value) for name in names]
    close = sum(abs(a - b) < PRINTED for a, b in values)
    needed = 1 if row.method.casefold() == other.method.casefold() else SHARED
    return close == len(values) and close >= needed


def _with_words(rows: Sequence[Row]) -> list[Row]:
    names: dict[str, list[Row]] = {}
    for row in rows:
        names.setdefault(row.method.casefold(), []).append(row)
    words: dict[str, str] = {}
    for same_name in names.values():
        if len(same_name) > 1:
            words |= _words(same_name)
    return [
        row.model_copy(update={"word": words[row.submission_id]})
        if row.submission_id in words
        else row
        for row in rows
    ]


def _words(rows: Sequence[Row]) -> dict[str, str]:
    """For rows of one name: the first thing that all differ in, else as many as it takes."""
    for word in WORDS:
        said = [word(row) for row in rows]
        if "" not in said and len(set(said)) == len(rows):
            return dict(zip((row.submission_id for row in rows), said, strict=True))
    parts: list[list[str]] = [[] for _ in rows]
    for word in WORDS:
        said = [word(row) for row in rows]
        if len(set(said)) > 1:
            for own, text in zip(parts, said, strict=True):
                own += [text] if text else []
        whole = [", ".join(own) for own in parts]
        if len(set(whole)) == len(rows):
            break
    return dict(zip((row.submission_id for row in rows), whole, strict=True))
