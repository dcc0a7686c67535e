"""The plots of pages, from rows: scores over size and compute, forests, bars of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leaderboard.board.crossing import Point as Budget
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.describe import metric_name
from leaderboard.board.plots import Point, bars, forest, forest_rows, lines, scatter
from leaderboard.service.evidence import Curve
from leaderboard.submissions.results import Row
from leaderboard.web.links import Links
from pipelines.records import Frozen

MAX_PLOTTED = 200  # points: more cannot be distinguished


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


def point_of(row: Row, size: float, link: Links) -> Point:
    return Point(
        label=f"{row.method} ({row.word})" if row.word else row.method,
        size=size,
        value=row.headline.value,
        error=1.96 * row.headline.stderr if row.headline.stderr is not None else 0.0,
        rank=row.rank,
        address=link.submission(row.submission_id),
    )


SPREAD = 1.05  # between the ends of an axis: one recipe counts its tokens a little differently


def against(rows: Sequence[Row], sizes: Sequence[float | None], axis: str, link: Links) -> str:
    """Score against something, with the Pareto front; empty where all have nearly one size."""
    pairs = list(zip(rows[:MAX_PLOTTED], sizes, strict=False))
    points = [point_of(row, size, link) for row, size in pairs if size]
    known = [point.size for point in points]
    if not known or max(known) < SPREAD * min(known):
        return ""
    axes = (axis, metric_name(rows[0]))
    return scatter(points, axes=axes, higher_is_better=rows[0].headline.higher_is_better)


def size_plot(rows: Sequence[Row], link: Links) -> str:
    """Score against dataset size; empty when no size is known."""
    sizes = [row.dataset.size for row in rows]
    return against(rows, sizes, f"dataset, {rows[0].dataset.unit}", link)


class Plot(Frozen):
    """A plot of a board, and the numbers it shows."""

    title: str
    svg: str
    caption: str
    name: str = ""
    numbers: tuple[tuple[Row, str], ...] = ()


MOST_FOREST = 40  # rows of a forest plot: about 800 pixels
PERCENT = 100.0


def plots_of(rows: Sequence[Row], link: Links) -> list[Plot]:
    """All plots over sizes that the rows differ in, best row first."""
    first = rows[0]
    plots = []
    if first.headline.stderr is not None:
        best = [point_of(row, 1.0, link) for row in rows[:MOST_FOREST]]
        caption = f"The best {len(best)} rows with 95% intervals; the line is where the best is."
        plots.append(
            Plot(
                title="Scores",
                svg=forest_rows(best, axis=metric_name(first)),
                caption=f"{caption} Whether two differ is decided by the paired interval.",
            )
        )
    kept = [row.kept_fraction * PERCENT if row.kept_fraction else None for row in rows]
    kinds: list[tuple[str, str, list[float | None], str]] = [
        ("Score against dataset size", "less data", [row.dataset.size for row in rows], "Size"),
        ("Score against what is kept", "fewer rows kept", kept, "Rows kept, %"),
        ("Score against what was seen", "less seen", [r.budget.seen for r in rows], "Seen"),
        ("Score against compute", "less compute", [row.flops for row in rows], "FLOPs"),
    ]
    kinds += _cost_kinds(rows)
    for title, less, sizes, name in kinds:
        axis = f"{name.lower()}, {first.budget.unit}" if name == "Seen" else _axis(name, first)
        svg = against(rows, sizes, axis, link)
        if svg:
            pairs = list(zip(rows, sizes, strict=True))
            unknown = sum(not size for _, size in pairs)
            caption = f"The line joins rows that none beats with {less}."
            if unknown:
                caption += f" Not known of {unknown} rows, which are not drawn."
            plots.append(
                Plot(
                    title=title,
                    svg=svg,
                    caption=caption,
                    name=name,
                    numbers=tuple((r, f"{size:.3g}" if size else "unknown") for r, size in pairs),
                )
            )
    return plots


def _cost_kinds(rows: Sequence[Row]) -> list[tuple[str, str, list[float | None], str]]:
    """Score over what it cost, as the records say: a cost that is not known is not 0."""
    costs = [row.costs for row in rows]
    return [
        (
            "Score against the cost of curation",
            "less processor time (as the records say; no check can know it)",
            [cost.curation_cpu_seconds for cost in costs],
            "Curation, CPU seconds",
        ),
        (
            "Score against the GPU time of curation",
            "less GPU time (as the records say; no check can know it)",
            [cost.curation_gpu_seconds for cost in costs],
            "Curation, seconds times GPUs",
        ),
        (
            "Score against the time of training",
            "less training (as the records say; no check can know it)",
            [cost.training_seconds for cost in costs],
            "Training, seconds times processes",
        ),
        (
            "Score against the bytes of the dataset",
            "fewer bytes",
            [cost.dataset_bytes for cost in costs],
            "Dataset, bytes",
        ),
    ]


def _axis(name: str, row: Row) -> str:
    axes = {"Size": f"dataset, {row.dataset.unit}", "FLOPs": "training, FLOPs"}
    return axes.get(name, name[0].lower() + name[1:])


def over_scales(rows: Sequence[Row]) -> Markup:
    """The best headline of one method at each scale; empty with fewer than two scales."""
    metric = rows[0].headline.metric
    best: dict[str, float] = {}
    for row in rows:
        if row.track == rows[0].track and metric in row.figures:
            values = [row.figures[metric].value, best.get(row.scale, row.figures[metric].value)]
            best[row.scale] = max(values) if row.headline.higher_is_better else min(values)
    axis = metric.replace("_", " ")
    title = f"{axis} across scales"
    return lines([(rows[0].method, list(best.values()))], steps=list(best), axis=axis, title=title)


def training_curve(row: Row, curves: Sequence[Curve]) -> dict[str, Any] | None:
    """The headline over training steps: a plot, and its numbers by step; None for none.

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
