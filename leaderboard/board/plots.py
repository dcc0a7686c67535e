"""Plots as SVG text: they print, scale, need no script, and are read aloud by their title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup, escape

STATIC = Path(__file__).parents[1] / "web" / "static"  # the style sheet that colours the plots
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 20, 52
MOST_LABELS = 18


@dataclass(frozen=True)
class Point:
    """One method: where it lies, its score, half the width of the score's interval, its rank."""

    label: str
    size: float
    value: float
    error: float
    rank: int


@dataclass(frozen=True)
class Frame:
    """Data ranges of a plot, and where they lie on paper."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        part = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def start(
        self, title: str, axes: tuple[str, str], x_ticks: Sequence[tuple[float, str]]
    ) -> list[str]:
        """The opening of the figure: title, grid, ticks, axes."""
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="plot">',
            f"<title>{escape(title)}</title>",
        ]
        for value in ticks(self.y_low, self.y_high, 5):
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(_text("tick", LEFT - 8, y + 4, f"{value:g}", "end"))
        for tick, label in x_ticks:
            x = self.x(tick)
            parts.append(
                f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            )
            parts.append(_text("tick", x, HEIGHT - BOTTOM + 18, label, "middle"))
        parts.append(_text("axis", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, axes[0], "middle"))
        parts.append(
            f'<text class="axis" transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) '
            f'rotate(-90)" text-anchor="middle">{escape(axes[1])}</text>'
        )
        return parts


def _text(css: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def scatter(
    points: Sequence[Point], *, axes: tuple[str, str], higher_is_better: bool = True
) -> Markup:
    """Score (up) against a size (right, logarithmic), with 95% intervals and the Pareto front.

    The front joins the points that no other beats with less.
    """
    xs = [math.log10(max(point.size, 1)) for point in points]
    low = min(point.value - point.error for point in points)
    high = max(point.value + point.error for point in points)
    frame = Frame(*_widened(min(xs), max(xs)), *_padded(low, high))
    sizes = [(math.log10(size), _short(size)) for size in _sizes(frame.x_low, frame.x_high)]
    parts = frame.start(f"{axes[1]} against {axes[0]}", axes, sizes)
    front = pareto([(point.size, point.value) for point in points], higher_is_better)
    if len(front) > 1:
        line = " ".join(
            f"{frame.x(xs[index]):.1f},{frame.y(points[index].value):.1f}" for index in front
        )
        parts.append(f'<polyline class="front" points="{line}"/>')
    named = _named(points, front)
    labels = spread_labels([frame.y(points[index].value) for index in named], gap=15)
    for index, point in enumerate(points):
        x, y = frame.x(xs[index]), frame.y(point.value)
        top, bottom = frame.y(point.value + point.error), frame.y(point.value - point.error)
        css = "lead" if point.rank == 1 else "rest"
        title = f"{point.label}: {point.value:.4f} at {_short(point.size)}"
        parts.append(f"<g><title>{escape(title)}</title>")
        parts.append(
            f'<line class="error {css}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" '
            f'y2="{bottom:.1f}"/>'
        )
        parts.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>')
    for index, label_y in zip(named, labels, strict=True):
        x, y = frame.x(xs[index]), frame.y(points[index].value)
        parts.append(
            f'<line class="leader" x1="{x + 7:.1f}" x2="{WIDTH - RIGHT + 6}" y1="{y:.1f}" '
            f'y2="{label_y:.1f}"/>'
        )
        parts.append(_text("label", WIDTH - RIGHT + 10, label_y + 4, _cut(points[index].label)))
    parts.append("</svg>")
    return Markup("\n".join(parts))


def _named(points: Sequence[Point], front: Sequence[int]) -> list[int]:
    """Which points get a name: the best and those of the front, as many as there is room for."""
    order = sorted(range(len(points)), key=lambda index: points[index].rank)
    chosen = dict.fromkeys([*front[:MOST_LABELS], *order])
    return list(chosen)[:MOST_LABELS]


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
) -> Markup:
    """One line per method across scales; `steps` name the places to the right."""
    values = [value for _, line in series for value in line if value is not None]
    if not values or len(steps) < 2:
        return Markup("")
    frame = Frame(-0.15, len(steps) - 0.85, *_padded(min(values), max(values)))
    parts = frame.start(title, ("scale", axis), list(enumerate(steps)))
    ends = []
    for number, (name, line_values) in enumerate(series):
        there = [(index, value) for index, value in enumerate(line_values) if value is not None]
        line = " ".join(f"{frame.x(index):.1f},{frame.y(value):.1f}" for index, value in there)
        css = f"series s{number % 6}"
        parts.append(f'<g class="{css}"><title>{escape(name)}</title>')
        parts.append(f'<polyline points="{line}"/>')
        parts += [
            f'<circle cx="{frame.x(index):.1f}" cy="{frame.y(value):.1f}" r="3.5"/>'
            for index, value in there
        ]
        parts.append("</g>")
        if there:
            ends.append((name, frame.x(there[-1][0]), frame.y(there[-1][1]), css))
    shown = ends[:MOST_LABELS]
    for (name, x, y, css), at in zip(
        shown, spread_labels([end[2] for end in shown], gap=15), strict=True
    ):
        parts.append(
            f'<line class="leader" x1="{x + 5:.1f}" x2="{WIDTH - RIGHT + 6}" y1="{y:.1f}" '
            f'y2="{at:.1f}"/>'
        )
        parts.append(_text(f"label {css}", WIDTH - RIGHT + 10, at + 4, _cut(name)))
    parts.append("</svg>")
    return Markup("\n".join(parts))


def history(
    points: Sequence[tuple[str, float, str]], *, axis: str, higher_is_better: bool = True
) -> Markup:
    """Scores by date (as 2026-11-23), with a line of the best so far."""
    days = [date.fromisoformat(when).toordinal() for when, _, _ in points]
    values = [value for _, value, _ in points]
    low, high = min(days), max(days)
    pad = max((high - low) * 0.05, 1.0)
    frame = Frame(low - pad, high + pad, *_padded(min(values), max(values)))
    marks = sorted({low, (low + high) // 2, high})
    ticks = [(float(day), date.fromordinal(day).isoformat()) for day in marks]
    if len(ticks) > 1 and (high - low) / (2 * pad + high - low) < 0.3:
        ticks = ticks[:1]
    parts = frame.start(f"{axis} by date", ("date", axis), ticks)
    best: float | None = None
    line = []
    for day, (_, value, _) in sorted(zip(days, points, strict=True), key=lambda pair: pair[0]):
        better = best is None or (value > best if higher_is_better else value < best)
        if better:
            if best is not None:
                line.append(f"{frame.x(day):.1f},{frame.y(best):.1f}")
            best = value
            line.append(f"{frame.x(day):.1f},{frame.y(value):.1f}")
    assert best is not None
    line.append(f"{frame.x(frame.x_high):.1f},{frame.y(best):.1f}")
    parts.append(f'<polyline class="front" points="{" ".join(line)}"/>')
    for day, (when, value, name) in zip(days, points, strict=True):
        x, y = frame.x(day), frame.y(value)
        parts.append(
            f"<g><title>{escape(f'{name}: {value:.4f} on {when}')}</title>"
            f'<circle class="rest" cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
        )
    parts.append("</svg>")
    return Markup("\n".join(parts))


def bars(
    value: float,
    other: float | None,
    baseline: float | None,
    *,
    higher_is_better: bool,
    stderr: float | None,
) -> Markup:
    """A small bar of one task: its value, a rival's below it, and a mark where guessing lies."""
    known = [value, other or 0.0, baseline or 0.0, 1.0 if higher_is_better else 0.0]
    most = max(known)
    width = 220

    def at(x: float) -> float:
        return max(0.0, min(1.0, x / most)) * width if most else 0.0

    parts = [
        f'<svg viewBox="0 0 {width} 22" width="{width}" height="22" class="bar" aria-hidden="true">'
    ]
    parts.append(f'<rect class="own" x="0" y="2" width="{at(value):.1f}" height="9"/>')
    if other is not None:
        parts.append(f'<rect class="other" x="0" y="12" width="{at(other):.1f}" height="7"/>')
    if stderr:
        low, high = at(value - 1.96 * stderr), at(value + 1.96 * stderr)
        parts.append(f'<line class="error" x1="{low:.1f}" x2="{high:.1f}" y1="6.5" y2="6.5"/>')
    if baseline is not None and baseline <= most:
        x = at(baseline)
        parts.append(f'<line class="guess" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="22"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


FOREST_WIDTH, FOREST_HEIGHT = 150, 16


def forest(
    value: float, error: float | None, span: tuple[float, float], mark: float | None
) -> Markup:
    """One row of a forest plot: a score with its 95% interval, and a line where the leader is."""
    low, high = span
    wide = FOREST_WIDTH - 8

    def at(x: float) -> float:
        share = (x - low) / (high - low) if high > low else 0.5
        return 4 + wide * max(0.0, min(1.0, share))

    middle = FOREST_HEIGHT / 2
    size = f'width="{FOREST_WIDTH}" height="{FOREST_HEIGHT}"'
    parts = [f'<svg class="forest" {size} viewBox="0 0 {FOREST_WIDTH} {FOREST_HEIGHT}" ']
    parts.append('aria-hidden="true">')
    if mark is not None:
        x = at(mark)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{FOREST_HEIGHT}"/>')
    if error:
        a, b = at(value - 1.96 * error), at(value + 1.96 * error)
        parts.append(f'<line class="error" x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="own" cx="{at(value):.1f}" cy="{middle}" r="3.5"/></svg>')
    return Markup("".join(parts))


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
            return sizes or [10 ** ((low + high) / 2)]
    every = -(-len(sizes) // 7)
    return sizes[::every]


def _short(size: float) -> str:
    if size >= 1e15:
        return f"{size:.0e}".replace("e+", "e")
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{size / limit:.3g}{suffix}"
    return f"{size:.3g}"


def _cut(label: str, most: int = 20) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


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
