"""Scores beside the headline: a column for each task, or for each category, with its heat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from leaderboard.submissions.results import Row, TaskValue
from pipelines.records import Frozen

STEPS = 5  # shades of a column, from its worst value to its best


class Cell(Frozen):
    """A value and its shade: 0 the worst of its column, 4 the best, None if all are equal."""

    value: float
    shade: int | None = None


def task_columns(
    rows: Sequence[Row], columns: Literal["", "categories", "tasks"]
) -> tuple[list[str], dict[str, dict[str, Cell]]]:
    """The columns' names in order, and the cells by submission and name.

    A category is the mean of its tasks, each centered by what guessing scores where that is known:
    0 is guessing, 1 is perfect. Tasks in other units than accuracies are left out of it.
    """
    if not columns:
        return [], {}
    values = {row.submission_id: _values(row, by_category=columns == "categories") for row in rows}
    names = list(dict.fromkeys(name for own in values.values() for name in own))
    higher = {task.task: task.higher_is_better for row in rows for task in row.tasks}
    cells: dict[str, dict[str, Cell]] = {id_: {} for id_ in values}
    for name in names:
        column = [own[name] for own in values.values() if name in own]
        low, high = min(column), max(column)
        for id_, own in values.items():
            if name in own:
                shade = _shade(own[name], low, high, higher_is_better=higher.get(name, True))
                cells[id_][name] = Cell(value=own[name], shade=shade)
    return names, cells


def _values(row: Row, *, by_category: bool) -> dict[str, float]:
    if not by_category:
        return {task.task: task.value for task in row.tasks}
    parts = category_parts(row.tasks)
    return {name: sum(map(centered, own)) / len(own) for name, own in parts.items()}


def category_parts(tasks: Sequence[TaskValue]) -> dict[str, list[TaskValue]]:
    """The tasks of each category whose unit is that of an accuracy."""
    parts: dict[str, list[TaskValue]] = {}
    for task in tasks:
        if task.higher_is_better and 0 <= task.value <= 1:
            parts.setdefault(task.category or "other", []).append(task)
    return parts


def centered(task: TaskValue) -> float:
    """A score where 0 is guessing and 1 is perfect."""
    guess = task.random_baseline or 0.0
    return (task.value - guess) / (1 - guess) if guess < 1 else task.value


def _shade(value: float, low: float, high: float, *, higher_is_better: bool) -> int | None:
    if high <= low:
        return None
    share = (value - low) / (high - low)
    share = share if higher_is_better else 1 - share
    return min(int(share * STEPS), STEPS - 1)
