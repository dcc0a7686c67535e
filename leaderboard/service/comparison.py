"""Methods scale by scale: one line each, and how far the scales agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from leaderboard import rules
from leaderboard.board.boards import MAX_LIMIT, Library, View
from leaderboard.board.intervals import kendall, kendall_interval
from leaderboard.board.plots import Point, lines, scatter
from leaderboard.board.ranking import by_metric
from leaderboard.database.states import Board
from leaderboard.submissions.results import Figure, Row
from pipelines.errors import RuleError
from pipelines.installed import packages
from pipelines.records import Frozen

SHOWN = 12  # lines of the plot across scales; more colors are hard to distinguish
FEW = 3  # an interval of tau from three methods or fewer spans nearly -1 to 1

Draws = npt.NDArray[np.float32]


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
    """The methods with runs at several scales, sorted by number of scales, then by score."""

    tracks: list[str]
    track: str
    metric: str
    metrics: list[str]  # that rows of at least two scales have, the headline first
    scales: list[str]
    methods: list[tuple[str, list[float | None]]]

    @property
    def shown(self) -> list[tuple[str, list[float | None]]]:
        return self.methods[:SHOWN]

    def plot(self) -> str:
        """One line for each of the first methods."""
        axis = self.metric.replace("_", " ")
        having = [
            at
            for at in range(len(self.scales))
            if any(values[at] is not None for _, values in self.shown)
        ]
        series = [(name, [values[at] for at in having]) for name, values in self.shown]
        steps = [self.scales[at] for at in having]
        return lines(series, steps=steps, axis=axis, title=f"{axis} across scales")


def scale_lines(
    library: Library, benchmark: str, *, track: str = "", metric: str = ""
) -> ScaleLines:
    """The lines of a benchmark, without the statistics that `across_scales` adds.

    Each scale uses its largest group of comparable rows, and each method its best row. KeyError
    for an unknown benchmark, track or metric.
    """
    boards = boards_of(library, benchmark)
    if not boards and benchmark not in packages():
        raise KeyError(f"there is no benchmark {benchmark}")
    if track and track not in [board.track for board in boards]:
        raise KeyError(f"benchmark {benchmark} has no track {track} with rows")
    tracks = sorted({board.track for board in boards}, key=lambda t: (t != "filtering", t))
    chosen = track or (tracks[0] if tracks else "")
    order = scale_order(benchmark)
    scales = sorted(
        (board.scale for board in boards if board.track == chosen),
        key=lambda name: (order.get(name, 1000), name),
    )
    best: dict[str, dict[str, dict[str, Figure]]] = {}  # by figure, method and scale
    headlines: dict[str, None] = {}
    for scale in scales:
        page = library.page(benchmark, scale, chosen, View(limit=MAX_LIMIT))
        for row in page.rows:
            headlines[row.headline.metric] = None
            for figure, value in row.figures.items():
                best.setdefault(figure, {}).setdefault(row.method, {}).setdefault(scale, value)
    if metric and metric not in best:
        raise KeyError(f"no row of {benchmark} has a metric {metric!r}")
    number = {
        figure: sum(len(at) > 1 for at in methods_.values()) for figure, methods_ in best.items()
    }
    name = metric or max(headlines, key=lambda headline: number[headline], default="")
    metrics = [figure for figure in {**headlines, **best} if number.get(figure) or figure == name]
    by_method = best.get(name, {})
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
    return ScaleLines(tracks, chosen, name, metrics, scales, methods)


def across_scales(library: Library, benchmark: str, *, track: str = "", metric: str = "") -> Any:
    """The page of scales: the lines, how far the scales agree, and score against compute."""
    across = scale_lines(library, benchmark, track=track, metric=metric)
    name = across.metric
    costly: list[Row] = []
    for board in boards_of(library, benchmark):
        page = library.page(benchmark, board.scale, board.track, View(limit=MAX_LIMIT))
        costly += [by_metric(row, name) for row in page.rows if row.flops and name in row.figures]
    return {
        "track": across.track,
        "tracks": across.tracks,
        "metric": name,
        "metrics": across.metrics,
        "scales": across.scales,
        "methods": across.methods,
        "shown": len(across.shown),
        "plot": across.plot(),
        "agreement": agreements(across.scales, across.methods),
        "compute": _compute(costly, name),
        "costly": sorted(costly, key=lambda row: (row.flops or 0.0, row.method)),
    }


def boards_of(library: Library, benchmark: str) -> list[Board]:
    """The boards of a benchmark that have rows."""
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


def scale_order(benchmark: str) -> dict[str, int]:
    """The place of each scale in the rule book; empty where that is not installed."""
    try:
        return {scale.name: n for n, scale in enumerate(rules.load_benchmark(benchmark).scales)}
    except RuleError:
        return {}
