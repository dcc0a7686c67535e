"""Values with their intervals, a line each, as one SVG that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.templates import templates

WIDTH, LEFT, RIGHT, TOP, ROW = 760, 330, 730, 12, 20
MOST = 44  # letters that fit left of the chart
OWN, MUTED = "#0b5cad", "#8c959f"


@dataclass(frozen=True)
class Interval:
    """One line of the chart; `muted` for what cannot be believed."""

    label: str
    value: float
    low: float
    high: float
    muted: bool = False


def interval_chart(
    rows: Sequence[Interval],
    *,
    title: str,
    axis: str,
    span: tuple[float, float],
    mark: tuple[float, str],
) -> str:
    """The chart over `span`; `mark` is a value with a line of its own, and what it means."""

    def x(value: float) -> float:
        share = (min(max(value, span[0]), span[1]) - span[0]) / (span[1] - span[0])
        return round(LEFT + share * (RIGHT - LEFT), 1)

    bottom = TOP + ROW * len(rows) + 4
    marks = [span[0] + (span[1] - span[0]) * part / 5 for part in range(6)]
    svg = templates("leaderboard.board").get_template("intervals.svg")
    return svg.render(
        width=WIDTH,
        height=bottom + 48,
        left=LEFT,
        right=RIGHT,
        top=TOP,
        bottom=bottom,
        title=title,
        axis=axis,
        ticks=[{"x": x(value), "label": f"{value:g}"} for value in marks],
        mark=x(mark[0]),
        mark_title=mark[1],
        rows=[
            {
                "label": row.label if len(row.label) <= MOST else f"{row.label[: MOST - 1]}…",
                "y": TOP + ROW * number + ROW // 2,
                "x": x(row.value),
                "low": x(row.low),
                "high": x(row.high),
                "colour": MUTED if row.muted else OWN,
                "title": f"{row.label}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}]",
            }
            for number, row in enumerate(rows)
        ],
    )
