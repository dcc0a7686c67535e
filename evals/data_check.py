"""Check a task's data for errors and oddities before hours are spent on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from evals.items import Item, TaskData
from evals.kinds import read_data
from evals.pins import pin_of
from evals.tasks import Task
from pipelines.errors import DataError
from pipelines.records import Frozen, canonical_json


class Finding(Frozen):
    """An error or oddity in a data file."""

    task: str
    level: Literal["error", "warning", "note"]
    message: str


def check_data(task: Task, folder: Path | str) -> list[Finding]:
    """The errors and oddities in the data of one task; empty when there are none."""
    try:
        data = read_data(task, folder)
    except DataError as error:
        return [Finding(task=task.name, level="error", message=str(error))]
    findings = []
    if not data.verified:
        findings.append(Finding(task=task.name, level="warning", message=_unverified(task, data)))
    findings += [Finding(task=task.name, level="note", message=m) for m in _oddities(data.items)]
    empty = data.empty_classes()
    if empty:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        message = f"{len(empty)} classes have no image and are left out of means: {shown}"
        findings.append(Finding(task=task.name, level="note", message=message))
    return findings


def _unverified(task: Task, data: TaskData) -> str:
    if task.sha256 is None and pin_of(task.name) is None and not task.built:
        return (
            f"not pinned: its identity is {data.identity[:16]}, none is recorded; scores rank only "
            "next to scores on data of the same identity"
        )
    expected = f"not the recorded {task.sha256[:16]}" if task.sha256 else "not the recorded data"
    return f"unverified: the sha256 is {data.sha256[:16]}, {expected}; scores cannot rank"


def _oddities(items: Sequence[Item]) -> Iterable[str]:
    repeated = [item.row for item in items if len(set(item.options)) < len(item.options)]
    if repeated:
        yield f"{len(repeated)} rows have duplicated options (first: row {repeated[0]})"
    golds = {item.gold for item in items}
    if len(items) > 1 and len(golds) == 1 and None not in golds:
        yield f"the right answer is option {golds.pop()} in every row: a model that ties wins"
    seen: dict[bytes, int] = {}
    copies = 0
    for item in items:
        key = canonical_json([item.context, item.contexts, item.options, item.answer])
        copies += key in seen
        seen[key] = item.row
    if copies:
        yield f"{copies} rows repeat an earlier row"
