"""Curves of datasets over budgets as one SVG: bands, crossings with their intervals, sentences.

The band of a curve is the 95% interval of one dataset's mean at each budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.board.crossing import Crossing, Point
from leaderboard.board.plots import spread_labels, ticks
from pipelines.execution.progress import short
from pipelines.templates import templates

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 820, 76, 640, 24, 340
COLOURS = ("#57606a", "#0b5cad", "#b35900", "#1a7f37", "#8250df", "#cf222e")  # grey: the baseline
SERIES = ("s5", "s0", "s1", "s2", "s3", "s4")  # the same in the style sheet of the pages
TICK_GAP = 44  # pixels that the label of a budget takes
LINE_HEIGHT, LABEL_GAP = 18, 16
LABEL_LETTERS = 24  # of a curve's name: what fits between the plot and its right edge


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, budget: float) -> float:
        share = (math.log(budget) - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def y(self, score: float) -> float:
        share = (score - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - share * (HEIGHT - TOP), 1)


def crossing_plot(
    points: Mapping[str, Sequence[Point]],
    errors: Mapping[str, Sequence[float]],
    crossings: Sequence[Crossing],
    *,
    metric: str,
    unit: str,
    title: str,
    target: float | None = None,
    in_words: bool = True,
) -> str:
    """The figure. `errors` are half the 95% intervals of the points' means, by method.

    `target` is a score that a line marks. `in_words`: the verdicts are below the curves, as where
    no page says them.
    """
    budgets = sorted({point.budget for side in points.values() for point in side})
    ends = [
        point.mean + sign * error
        for name, side in points.items()
        for point, error in zip(side, errors[name], strict=True)
        for sign in (-1, 1)
    ]
    if target is not None:
        ends.append(target)
    margin = (max(ends) - min(ends)) * 0.05 or 1.0
    frame = _Frame(
        math.log(budgets[0]), math.log(budgets[-1]), min(ends) - margin, max(ends) + margin
    )
    shown = [
        _curve(name, side, errors[name], frame, number % len(COLOURS))
        for number, (name, side) in enumerate(points.items())
    ]
    labels = spread_labels([curve["points"][-1]["y"] for curve in shown], gap=LABEL_GAP)
    for curve, label in zip(shown, labels, strict=True):
        curve["label_y"] = label
    marks = [
        {
            "x": frame.x(entry.at),
            "low": frame.x(entry.between[0]),
            "high": frame.x(entry.between[1]),
            "title": entry.sentence(unit),
        }
        for entry in crossings
        if entry.at is not None and entry.between is not None
    ]
    sentences = [entry.sentence(unit) for entry in crossings] if in_words else []
    return (
        templates("leaderboard.board")
        .get_template("crossing.svg")
        .render(
            width=WIDTH,
            height=HEIGHT + 68 + LINE_HEIGHT * len(sentences),
            left=LEFT,
            right=RIGHT,
            top=TOP,
            bottom=HEIGHT,
            title=title,
            x_axis=f"training budget ({unit})",
            y_axis=metric.replace("_", " "),
            y_ticks=[
                {"at": frame.y(v), "label": f"{v:g}"} for v in ticks(frame.y_low, frame.y_high, 5)
            ],
            x_ticks=_apart([{"at": frame.x(budget), "label": short(budget)} for budget in budgets]),
            target=None if target is None else frame.y(target),
            curves=shown,
            crossings=marks,
            sentences=sentences,
        )
    )


def _apart(every: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ticks from the last one on, without those whose label would touch the next one's."""
    kept: list[dict[str, Any]] = []
    for tick in reversed(every):
        if not kept or kept[-1]["at"] - tick["at"] >= TICK_GAP:
            kept.append(tick)
    return kept[::-1]


def _curve(
    name: str, side: Sequence[Point], errors: Sequence[float], frame: _Frame, number: int
) -> dict[str, Any]:
    ups = [(point.budget, point.mean + e) for point, e in zip(side, errors, strict=True)]
    downs = [(point.budget, point.mean - e) for point, e in zip(side, errors, strict=True)]
    return {
        "name": shortened(name),
        "colour": COLOURS[number],
        "css": SERIES[number],
        "line": _path([(point.budget, point.mean) for point in side], frame),
        "band": _path([*ups, *reversed(downs)], frame),
        "points": [
            {
                "x": frame.x(point.budget),
                "y": frame.y(point.mean),
                "title": f"{name}: {point.mean:.4f} at {short(point.budget)}",
            }
            for point in side
        ],
    }


def shortened(name: str) -> str:
    """A name that fits beside the plot: a long one loses its middle, as its end tells it apart."""
    if len(name) <= LABEL_LETTERS:
        return name
    half = (LABEL_LETTERS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _path(points: Sequence[tuple[float, float]], frame: _Frame) -> str:
    return " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
