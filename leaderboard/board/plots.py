"""Plots as SVG text: they print, scale, need no script, and are read aloud by their title."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.templates import templates

STATIC = Path(__file__).parents[1] / "web" / "static"  # the style sheet that colours the plots
WIDTH, HEIGHT = 780, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 270, 20, 52  # names of methods have 40 letters and more
MOST_LABELS = 18  # as many as there is room for, one below the other
LABEL_LETTERS = 34  # of a name right of a plot: what RIGHT has room for
LEAST = 1e-6  # on a logarithmic axis
NUM_COLOURS = 6  # of series, in the style sheet


@dataclass(frozen=True)
class Point:
    """One method: its size, its score, half the width of the score's interval, its rank."""

    label: str
    size: float
    value: float
    error: float
    rank: int
    address: str = ""
    """Of the page of its row; empty: none."""


@dataclass(frozen=True)
class Frame:
    """Data ranges of a plot, and the pixels that they are drawn to."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        part = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def shown(
        self,
        title: str,
        axes: tuple[str, str],
        x_ticks: Sequence[tuple[float, str]],
        *,
        style: str = "",
    ) -> dict[str, Any]:
        """What the template draws around the data: title, grid, ticks, axes."""
        return {
            "title": title,
            "style": Markup(style),
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "top": TOP,
            "bottom": HEIGHT - BOTTOM,
            "x_axis": axes[0],
            "y_axis": axes[1],
            "x_ticks": [{"x": self.x(tick), "label": label} for tick, label in x_ticks],
            "y_ticks": [
                {"y": self.y(value), "label": f"{value:g}"}
                for value in ticks(self.y_low, self.y_high, 5)
            ],
        }


@cache
def _macro(plot: str) -> Callable[..., str]:
    module = templates("leaderboard.board").get_template("plots.svg").module
    macro: Callable[..., str] = getattr(module, plot)
    return macro


def _drawn(plot: str, *values: Any) -> Markup:
    """A plot of the template `plots.svg`."""
    return Markup(_macro(plot)(*values).strip())


def scatter(
    points: Sequence[Point], *, axes: tuple[str, str], higher_is_better: bool = True
) -> Markup:
    """Score (up) against a size (right, logarithmic), with 95% intervals and the Pareto front.

    The front joins the points that no other beats with less.
    """
    xs = [math.log10(max(point.size, LEAST)) for point in points]
    low = min(point.value - point.error for point in points)
    high = max(point.value + point.error for point in points)
    frame = Frame(*_widened(min(xs), max(xs)), *_padded(low, high))
    sizes = [(math.log10(size), _short(size)) for size in _sizes(frame.x_low, frame.x_high)]
    front = pareto([(point.size, point.value) for point in points], higher_is_better)
    named = _named(points, front)
    places = [(frame.x(x), frame.y(point.value)) for x, point in zip(xs, points, strict=True)]
    marks = [
        {
            "x": x,
            "y": y,
            "top": frame.y(point.value + point.error),
            "bottom": frame.y(point.value - point.error),
            "css": "lead" if point.rank == 1 else "rest",
            "title": f"{point.label}: {point.value:.4f} at {_short(point.size)}",
            "address": point.address,
        }
        for (x, y), point in zip(places, points, strict=True)
    ]
    names = [(points[index].label, *places[index], "label") for index in named]
    return _drawn(
        "scatter",
        frame.shown(f"{axes[1]} against {axes[0]}", axes, sizes),
        [places[index] for index in front],
        marks,
        _labels(names, offset=7),
    )


def _labels(
    names: Sequence[tuple[str, float, float, str]], *, offset: float
) -> list[dict[str, Any]]:
    """Names right of the plot, moved apart, each joined to its point."""
    heights = spread_labels([y for _, _, y, _ in names], gap=15)
    return [
        {
            "x": x + offset,
            "y": y,
            "label_x": WIDTH - RIGHT + 10,
            "label_y": label_y,
            "label": _cut(name, LABEL_LETTERS),
            "css": css,
        }
        for (name, x, y, css), label_y in zip(names, heights, strict=True)
    ]


def _named(points: Sequence[Point], front: Sequence[int]) -> list[int]:
    """Which points get a name: the best and those of the front, each name once, while they fit."""
    order = sorted(range(len(points)), key=lambda index: points[index].rank)
    first: dict[str, int] = {}
    for index in [*front[:MOST_LABELS], *order]:
        first.setdefault(points[index].label, index)
    return list(first.values())[:MOST_LABELS]


def pareto(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """The places of the points (cost, score) that no other beats at the same or less cost."""
    sign = 1 if higher_is_better else -1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    best = -math.inf
    front = []
    for index in order:
        value = sign * points[index][1]
        if value > best:
            best = value
            front.append(index)
    return front


def lines(
    series: Sequence[tuple[str, Sequence[float | None]]],
    *,
    steps: Sequence[str],
    axis: str,
    title: str,
    style: str = "",
) -> Markup:
    """One line per method across scales; `steps` name the places to the right.

    With a `style` sheet the plot is a file of its own.
    """
    values = [value for _, line in series for value in line if value is not None]
    if not values or len(steps) < 2:
        return Markup("")
    frame = Frame(-0.15, len(steps) - 0.85, *_padded(min(values), max(values)))
    drawn = []
    ends = []
    for number, (name, line_values) in enumerate(series):
        points = [
            (frame.x(index), frame.y(value))
            for index, value in enumerate(line_values)
            if value is not None
        ]
        css = f"series s{number % NUM_COLOURS}"
        drawn.append({"name": name, "css": css, "points": points})
        if points:
            ends.append((name, *points[-1], f"label {css}"))
    around = frame.shown(title, ("scale", axis), list(enumerate(steps)), style=style)
    return _drawn("lines", around, drawn, _labels(ends[:MOST_LABELS], offset=5))


def history(
    points: Sequence[tuple[str, float, str]],
    *,
    axis: str,
    higher_is_better: bool = True,
    addresses: Sequence[str] = (),
) -> Markup:
    """Scores by date (as 2026-11-23), with a line of the best so far; points may be links."""
    days = [date.fromisoformat(when).toordinal() for when, _, _ in points]
    values = [value for _, value, _ in points]
    low, high = min(days), max(days)
    pad = max((high - low) * 0.05, 1.0)
    frame = Frame(low - pad, high + pad, *_padded(min(values), max(values)))
    marks = sorted({low, (low + high) // 2, high})
    ticks = [(float(day), date.fromordinal(day).isoformat()) for day in marks]
    if len(ticks) > 1 and (high - low) / (2 * pad + high - low) < 0.3:
        ticks = ticks[:1]
    best: float | None = None
    front = []
    for day, (_, value, _) in sorted(zip(days, points, strict=True), key=lambda pair: pair[0]):
        better = best is None or (value > best if higher_is_better else value < best)
        if better:
            if best is not None:
                front.append((frame.x(day), frame.y(best)))
            best = value
            front.append((frame.x(day), frame.y(value)))
    assert best is not None
    front.append((frame.x(frame.x_high), frame.y(best)))
    shown = [
        {
            "x": frame.x(day),
            "y": frame.y(value),
            "title": f"{name}: {value:.4f} on {when}",
            "address": address,
        }
        for day, (when, value, name), address in zip(
            days, points, addresses or [""] * len(points), strict=True
        )
    ]
    around = frame.shown(f"{axis} by date", ("date", axis), ticks)
    return _drawn("history", around, front, shown)


def bars(
    value: float,
    other: float | None,
    baseline: float | None,
    *,
    higher_is_better: bool,
    stderr: float | None,
) -> Markup:
    """A small bar of one task: its value, a rival's below it, and a mark at the guessing score."""
    known = [value, other or 0.0, baseline or 0.0, 1.0 if higher_is_better else 0.0]
    most = max(known)
    width = 220

    def at(x: float) -> str:
        return f"{max(0.0, min(1.0, x / most)) * width if most else 0.0:.1f}"

    return _drawn(
        "bars",
        width,
        at(value),
        None if other is None else at(other),
        at(value - 1.96 * stderr) if stderr else None,
        at(value + 1.96 * stderr) if stderr else None,
        at(baseline) if baseline is not None and baseline <= most else None,
    )


FOREST_WIDTH, FOREST_HEIGHT = 150, 16


def forest(
    value: float, error: float | None, span: tuple[float, float], mark: float | None
) -> Markup:
    """One row of a forest plot: a score with its 95% interval, and a line where the leader is."""
    low, high = span
    wide = FOREST_WIDTH - 8

    def at(x: float) -> str:
        share = (x - low) / (high - low) if high > low else 0.5
        return f"{4 + wide * max(0.0, min(1.0, share)):.1f}"

    return _drawn(
        "forest",
        FOREST_WIDTH,
        FOREST_HEIGHT,
        at(value),
        at(value - 1.96 * error) if error else None,
        at(value + 1.96 * error) if error else None,
        None if mark is None else at(mark),
    )


INTERVAL_ROW = 19  # pixels of a row of the large forest plot
INTERVAL_LEFT, INTERVAL_RIGHT = 290.0, WIDTH - 20.0  # left of them 38 letters of a name


@dataclass(frozen=True)
class Interval:
    """A value with its interval: one row of a forest plot."""

    label: str
    value: float
    low: float
    high: float
    title: str
    css: str = "rest"
    """`lead` for what is pointed out, `rest` for all else."""
    address: str = ""


def intervals(
    rows: Sequence[Interval],
    *,
    title: str,
    axis: str,
    span: tuple[float, float],
    mark: float,
    style: str = "",
) -> Markup:
    """A forest plot over `span`, with a line at the value `mark`.

    With a `style` sheet it is a file of its own; without, a page's sheet applies.
    """
    low, high = span

    def at(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return INTERVAL_LEFT + share * (INTERVAL_RIGHT - INTERVAL_LEFT)

    bottom = TOP + INTERVAL_ROW * len(rows)
    around = {
        "title": title,
        "style": Markup(style),
        "width": WIDTH,
        "height": bottom + 44,
        "left": INTERVAL_LEFT,
        "right": INTERVAL_RIGHT,
        "top": TOP,
        "bottom": bottom,
        "x_axis": axis,
        "y_axis": "",
        "y_ticks": [],
        "x_ticks": [{"x": at(tick), "label": f"{tick:g}"} for tick in ticks(low, high, 6)],
    }
    drawn = [
        {
            "y": TOP + INTERVAL_ROW * (number + 0.5),
            "x": at(row.value),
            "low": at(row.low),
            "high": at(row.high),
            "label": _cut(row.label),
            "title": row.title,
            "address": row.address,
            "css": row.css,
        }
        for number, row in enumerate(rows)
    ]
    return _drawn("intervals", around, at(mark), drawn)


def forest_rows(points: Sequence[Point], *, axis: str) -> Markup:
    """A forest plot: a row for each score with its 95% interval, and a line where the best is."""
    rows = [
        Interval(
            point.label,
            point.value,
            point.value - point.error,
            point.value + point.error,
            title=f"{point.label}: {point.value:.4f} ± {point.error:.4f}",
            css="lead" if point.rank == 1 else "rest",
            address=point.address,
        )
        for point in points
    ]
    span = _padded(min(row.low for row in rows), max(row.high for row in rows))
    title = f"{axis}, 95% intervals"
    return intervals(rows, title=title, axis=axis, span=span, mark=points[0].value)


def ticks(low: float, high: float, number: int) -> list[float]:
    """About `number` round values between two limits."""
    step = 10 ** math.floor(math.log10((high - low) / number))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= number), default=10)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.1 or abs(high) * 0.01 or 1.0
    return low - pad, high + pad


def _widened(low: float, high: float) -> tuple[float, float]:
    pad = max((high - low) * 0.15, 0.05)
    return low - pad, high + pad


def _sizes(low: float, high: float) -> list[float]:
    """Round sizes between two logarithms, at most seven: 1, 2, 5 or 1 times a power of ten."""
    for digits in ((1, 2, 5), (1, 3), (1,)):
        sizes = [
            digit * 10.0**power
            for power in range(math.floor(low), math.ceil(high) + 1)
            for digit in digits
            if low <= math.log10(digit * 10.0**power) <= high
        ]
        if len(sizes) <= 7:
            return sizes if len(sizes) > 1 else ticks(10**low, 10**high, 4)
    every = -(-len(sizes) // 7)
    return sizes[::every]


def _short(size: float) -> str:
    if size >= 1e15:
        return f"{size:.3g}".replace("e+", "e")
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{size / limit:.3g}{suffix}"
    return f"{size:.3g}"


def _cut(label: str, most: int = 38) -> str:
    """A label cut in its middle: names that begin alike end differently."""
    if len(label) <= most:
        return label
    head = most // 2
    return f"{label[:head]}…{label[head + 1 - most :]}"


def spread_labels(positions: Sequence[float], *, gap: float) -> list[float]:
    """Positions moved apart to at least `gap`, their order kept, none below the figure's foot."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    foot = HEIGHT - BOTTOM + 20.0
    for index in reversed(order):
        placed[index] = min(placed[index], foot)
        foot = placed[index] - gap
    return placed
