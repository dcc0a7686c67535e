"""The plots of pages, from rows: scores over size and compute, forests, bars of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from leaderboard.board.describe import (
    metric_name,
)
from leaderboard.board.plots import Point, bars, forest, scatter
from leaderboard.submissions.results import Row

MAX_PLOTTED = 200


def forests(rows: Sequence[Row]) -> dict[str, str]:
    """The forest plot of a page, one small image for each row, on one axis."""
    ends = [
        row.headline.value + side * 1.96 * (row.headline.stderr or 0.0)
        for row in rows
        for side in (-1, 1)
    ]
    leader = next((row.headline.value for row in rows if row.rank == 1), None)
    span = (min(ends), max(ends))
    return {
        row.submission_id: forest(row.headline.value, row.headline.stderr, span, leader)
        for row in rows
    }


def point_of(row: Row, size: float) -> Point:
    return Point(
        label=row.method,
        size=size,
        value=row.headline.value,
        error=1.96 * row.headline.stderr if row.headline.stderr is not None else 0.0,
        rank=row.rank,
    )


def size_plot(rows: Sequence[Row]) -> str:
    """Score against dataset size, with the Pareto front; empty when no size is known."""
    points = [point_of(row, row.dataset.size) for row in rows[:MAX_PLOTTED] if row.dataset.size]
    if len({point.size for point in points}) < 2:
        return ""
    axes = (f"dataset, {rows[0].dataset.unit}", metric_name(rows[0]))
    return scatter(points, axes=axes, higher_is_better=rows[0].headline.higher_is_better)


def compute_plot(rows: Sequence[Row]) -> str:
    """Score against training FLOPs, with the Pareto front."""
    points = [point_of(row, row.flops) for row in rows[:MAX_PLOTTED] if row.flops]
    if len({point.size for point in points}) < 2:  # compute is frozen: one column of points
        return ""
    axes = ("training, FLOPs", metric_name(rows[0]))
    return scatter(points, axes=axes, higher_is_better=rows[0].headline.higher_is_better)


def task_bars(row: Row, rival: Row | None) -> list[dict[str, Any]]:
    """Every task with a bar from guessing to perfect, and the rival's next to it."""
    others = {task.task: task for task in rival.tasks} if rival is not None else {}
    task_rows = []
    for task in row.tasks:
        other = others.get(task.task)
        task_rows.append(
            {
                "task": task,
                "other": other,
                "bar": bars(
                    task.value,
                    other.value if other is not None else None,
                    task.random_baseline,
                    higher_is_better=task.higher_is_better,
                    stderr=task.stderr,
                ),
            }
        )
    return task_rows
