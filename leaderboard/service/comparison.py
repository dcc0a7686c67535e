"""Rows side by side: task by task, and scale by scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from leaderboard import rules
from leaderboard.board.boards import MAX_LIMIT, Library, View
from leaderboard.board.intervals import interval, kendall, kendall_interval
from leaderboard.board.plots import Point, lines, scatter
from leaderboard.board.ranking import by_metric, compare, seed_spread
from leaderboard.database.states import Board
from leaderboard.service.evidence import read_draws
from leaderboard.service.service import Service
from leaderboard.submissions.results import Difference, Figure, Row, TaskValue
from pipelines.errors import RuleError
from pipelines.installed import packages
from pipelines.records import Frozen

SHOWN = 12  # lines of the plot across scales
FEW = 3  # methods below which an interval says nothing

Draws = npt.NDArray[np.float32]


class Cell(Frozen):
    """A value, and how much better it is than the first submission's."""

    value: float | None
    apart: Difference | None = None
    detectable: float | None = None  # by the questions or runs at hand, with 80% power


class Line(Frozen):
    """One figure of several submissions."""

    name: str
    whole: bool
    unpaired: bool
    cells: tuple[Cell, ...]


def compare_tasks(service: Service, rows: Sequence[Row]) -> list[Line]:
    """Every figure and every task of two to four rows, each with its distance to the first."""
    paired = [task_draws(service, row.submission_id) for row in rows]
    unpaired = any(not rows_paired for rows_paired in paired)
    lines = []
    for name in rows[0].figures:
        if all(name in row.figures for row in rows):
            draws = [service.library.resamples(row, name) for row in rows]
            cells = [Cell(value=rows[0].figures[name].value)]
            for row, values in zip(rows[1:], draws[1:], strict=True):
                apart = compare(rows[0], row, name, draws[0], values, seed_spread(rows, name))
                cells.append(_cell(row.figures[name].value, _better(apart)))
            lines.append(Line(name=name, whole=True, unpaired=unpaired, cells=tuple(cells)))
    first = {task.task: task for task in rows[0].tasks}
    others = [{task.task: task for task in row.tasks} for row in rows[1:]]
    for name, task in first.items():
        cells = [Cell(value=task.value)]
        for other, drawn in zip(others, paired[1:], strict=True):
            two = other.get(name)
            apart = _task(task, two, paired[0].get(name), drawn.get(name))
            cells.append(_cell(two.value if two else None, apart))
        lines.append(Line(name=name, whole=False, unpaired=unpaired, cells=tuple(cells)))
    return lines


# An interval of 95% reaches 1.96 errors; 2.80 errors are seen with 80% power.
REACH_TO_DETECTABLE = 2.8015852 / 1.9599640


def _cell(value: float | None, apart: Difference | None) -> Cell:
    seen = None if apart is None else (apart.high - apart.low) / 2 * REACH_TO_DETECTABLE
    return Cell(value=value, apart=apart, detectable=seen)


def _better(behind: Difference | None) -> Difference | None:
    if behind is None:
        return None
    return Difference(value=-behind.value, low=-behind.high, high=-behind.low)


def _task(
    first: TaskValue, two: TaskValue | None, a: Draws | None, b: Draws | None
) -> Difference | None:
    """How much better `two` is; paired over questions, where both have them. Seeds are left out."""
    if two is None:
        return None
    if a is not None and b is not None:
        variance = float(np.var(b.astype(np.float64) - a, ddof=1))
    elif first.stderr is not None and two.stderr is not None:
        variance = first.stderr**2 + two.stderr**2
    else:
        return None
    sign = 1.0 if first.higher_is_better else -1.0
    value = sign * (two.value - first.value)
    low, high = interval(value, 0.0, 0, variance)
    return Difference(value=value, low=low, high=high)


def task_draws(service: Service, id: str) -> Mapping[str, Draws]:
    """Each task on the resamples of its questions, as the check wrote them."""
    return read_draws(service.files, service.store.get(id))


# ---- scales


class Agreement(Frozen):
    """How far the orders at two scales agree."""

    a: str
    b: str
    number: int
    tau: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ScaleLines:
    """The methods of a benchmark with runs at several scales: most scales first, then the best."""

    tracks: list[str]
    track: str
    metric: str
    scales: list[str]
    methods: list[tuple[str, list[float | None]]]

    @property
    def shown(self) -> list[tuple[str, list[float | None]]]:
        return self.methods[:SHOWN]

    def plot(self) -> str:
        """One line for each of the first methods."""
        axis = self.metric.replace("_", " ")
        return lines(self.shown, steps=self.scales, axis=axis, title=f"{axis} across scales")


def scale_lines(
    library: Library, benchmark: str, *, track: str = "", metric: str = ""
) -> ScaleLines:
    """The lines of a benchmark, without what the page of scales computes from them.

    At each scale the largest group of comparable rows counts, and of a method its best row.
    """
    boards = _boards_of(library, benchmark)
    if not boards and benchmark not in packages():
        raise KeyError(f"there is no benchmark {benchmark}")
    if track and track not in [board.track for board in boards]:
        raise KeyError(f"benchmark {benchmark} has no track {track} with rows")
    tracks = sorted({board.track for board in boards}, key=lambda t: (t != "filtering", t))
    chosen = track or (tracks[0] if tracks else "")
    order = _scale_order(benchmark)
    scales = sorted(
        (board.scale for board in boards if board.track == chosen),
        key=lambda name: (order.get(name, 1000), name),
    )
    by_method: dict[str, dict[str, Figure]] = {}
    name = metric
    for scale in scales:
        page = library.page(benchmark, scale, chosen, View(limit=MAX_LIMIT))
        for row in page.rows:
            name = name or row.headline.metric
            if name in row.figures:
                by_method.setdefault(row.method, {}).setdefault(scale, row.figures[name])
    several = {m: figures for m, figures in by_method.items() if len(figures) > 1}
    higher = next((f.higher_is_better for v in several.values() for f in v.values()), True)
    ranked = sorted(
        several.items(),
        key=lambda item: (
            -len(item[1]),
            (-1 if higher else 1) * next(iter(item[1].values())).value,
        ),
    )
    methods = [
        (method, [figures[scale].value if scale in figures else None for scale in scales])
        for method, figures in ranked
    ]
    return ScaleLines(tracks, chosen, name, scales, methods)


def across_scales(library: Library, benchmark: str, *, track: str = "", metric: str = "") -> Any:
    """The page of scales: the lines, how far the scales agree, and score against compute."""
    across = scale_lines(library, benchmark, track=track, metric=metric)
    name = across.metric
    costly: list[Row] = []
    for board in _boards_of(library, benchmark):
        page = library.page(benchmark, board.scale, board.track, View(limit=MAX_LIMIT))
        costly += [by_metric(row, name) for row in page.rows if row.flops and name in row.figures]
    return {
        "track": across.track,
        "tracks": across.tracks,
        "metric": name,
        "scales": across.scales,
        "methods": across.methods,
        "shown": len(across.shown),
        "plot": across.plot(),
        "agreement": agreements(across.scales, across.methods),
        "compute": _compute(costly, name),
        "costly": sorted(costly, key=lambda row: (row.flops or 0.0, row.method)),
    }


def _boards_of(library: Library, benchmark: str) -> list[Board]:
    return [board for board in library.boards() if board.benchmark == benchmark]


def _compute(rows: Sequence[Row], name: str) -> str:
    """Score against training compute over all scales, with the Pareto front."""
    if len(rows) < 2:
        return ""
    sign = -1 if rows[0].headline.higher_is_better else 1
    best = sorted(rows, key=lambda row: sign * row.headline.value)
    points = [
        Point(label=row.method, size=row.flops or 1, value=row.headline.value, error=0, rank=rank)
        for rank, row in enumerate(best, start=1)
    ]
    axes = ("training, FLOPs", name.replace("_", " "))
    return scatter(points, axes=axes, higher_is_better=rows[0].headline.higher_is_better)


def agreements(
    scales: Sequence[str], methods: Sequence[tuple[str, Sequence[float | None]]]
) -> list[Agreement]:
    """Kendall's tau-b for every two scales that share methods."""
    agreed = []
    for i, j in combinations(range(len(scales)), 2):
        pairs = [(v[i], v[j]) for _, v in methods if v[i] is not None and v[j] is not None]
        if len(pairs) < 2:
            continue
        a, b = [x for x, _ in pairs if x is not None], [y for _, y in pairs if y is not None]
        tau = kendall(a, b)
        low, high = kendall_interval(a, b) if len(pairs) > FEW else (math.nan, math.nan)
        agreed.append(
            Agreement(
                a=scales[i],
                b=scales[j],
                number=len(pairs),
                tau=_known(tau),
                low=_known(low),
                high=_known(high),
            )
        )
    return agreed


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _scale_order(benchmark: str) -> dict[str, int]:
    try:
        return {scale.name: n for n, scale in enumerate(rules.load_benchmark(benchmark).scales)}
    except RuleError:
        return {}
