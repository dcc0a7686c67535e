"""Plots as SVG text: they print, scale, need no script, and are read aloud by their title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 20, 52


@dataclass(frozen=True)
class Point:
    """One method: its dataset's size, its score, half the width of the score's interval."""

    label: str
    size: float
    value: float
    error: float
    rank: int


def score_against_size(points: Sequence[Point], *, axes: tuple[str, str]) -> Markup:
    """Score (up) against dataset size (right, logarithmic), with 95% intervals."""
    xs = [math.log10(max(point.size, 1)) for point in points]
    low = min(point.value - point.error for point in points)
    high = max(point.value + point.error for point in points)
    pad = (high - low) * 0.1 or abs(high) * 0.01 or 1.0
    x_low, x_high = _widened(min(xs), max(xs))
    y_low, y_high = low - pad, high + pad

    def x_at(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="plot">',
        f"<title>{escape(axes[1])} against {escape(axes[0])}</title>",
    ]
    for value in ticks(y_low, y_high, 5):
        y = y_at(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for size in _sizes(x_low, x_high):
        x = x_at(math.log10(size))
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{_short(size)}</text>"
        )
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(axes[0])}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(axes[1])}</text>'
    )
    labels = _spread([y_at(point.value) for point in points], gap=15)
    for point, label_y in zip(points, labels, strict=True):
        x, y = x_at(math.log10(max(point.size, 1))), y_at(point.value)
        top, bottom = y_at(point.value + point.error), y_at(point.value - point.error)
        css = "lead" if point.rank == 1 else "rest"
        parts.append(
            f'<line class="error {css}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{top:.1f}" y2="{bottom:.1f}"/>'
        )
        parts.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(
            f'<line class="leader" x1="{x + 7:.1f}" x2="{WIDTH - RIGHT + 6}" y1="{y:.1f}" '
            f'y2="{label_y:.1f}"/>'
        )
        parts.append(
            f'<text class="label" x="{WIDTH - RIGHT + 10}" y="{label_y + 4:.1f}">'
            f"{escape(point.label)}</text>"
        )
    parts.append("</svg>")
    return Markup("\n".join(parts))


def ticks(low: float, high: float, number: int) -> list[float]:
    """About `number` round values between two limits."""
    step = 10 ** math.floor(math.log10((high - low) / number))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= number), default=10)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    pad = max((high - low) * 0.15, 0.05)
    return low - pad, high + pad


def _sizes(low: float, high: float) -> list[float]:
    """Round sizes (1, 2, 5 times a power of ten) between two logarithms."""
    found = [
        digit * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for digit in (1, 2, 5)
        if low <= math.log10(digit * 10.0**power) <= high
    ]
    return found or [10 ** ((low + high) / 2)]


def _short(size: float) -> str:
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{size / limit:.3g}{suffix}"
    return f"{size:.3g}"


def _spread(positions: Sequence[float], *, gap: float) -> list[float]:
    """Positions moved apart to at least `gap`, their order kept."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    for before, after in pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    return placed
