"""The plots of pages, from rows: scores over size and compute, forests, bars of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leaderboard.board.crossing import Point as Budget
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.describe import metric_name
from leaderboard.board.plots import Point, bars, forest, scatter
from leaderboard.service.evidence import Curve
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


def training_curve(row: Row, curves: Sequence[Curve]) -> dict[str, Any] | None:
    """The headline over the steps of training: a plot, and its numbers by step; None for none.

    The last point of each seed is the row's own score, computed from its questions.
    """
    finals = {seed.seed: seed.value for seed in row.seeds}
    own = [curve for curve in curves if curve.points and curve.seed in finals]
    if not own:
        return None
    last = 1.96 * (row.figures[row.headline.metric].item_error or 0.0)
    points: dict[str, list[Budget]] = {}
    errors: dict[str, list[float]] = {}
    table: dict[int, dict[int, float]] = {}
    for curve in own:
        steps = [*curve.points, (curve.steps, finals[curve.seed], None)]
        name = f"seed {curve.seed}"
        points[name] = [Budget(budget=max(s, 1), scores=(value,)) for s, value, _ in steps]
        errors[name] = [1.96 * (error or 0.0) for _, _, error in curve.points] + [last]
        for step, value, _ in steps:
            table.setdefault(step, {})[curve.seed] = value
    title = f"{metric_name(row)} at checkpoints of training"
    plot = crossing_plot(points, errors, (), metric=row.headline.metric, unit="steps", title=title)
    return {"plot": Markup(plot), "seeds": [c.seed for c in own], "steps": sorted(table.items())}


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
