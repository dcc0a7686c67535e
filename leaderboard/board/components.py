"""Components of variance: how much of a score's movement is the seed, the order, the draw.

Runs of one dataset with every seed in every order are a table. With `k` seeds as rows and `m`
orders as columns, the mean squares of its analysis of variance give the parts (Searle, Casella and
McCulloch 1992, "Variance Components", chapter 4):

    between orders   MS_o = k * order^2 + rest^2          m - 1 degrees of freedom
    between seeds    MS_s = m * seed^2 + rest^2           k - 1
    the rest         MS_e = rest^2                        (k - 1)(m - 1)

A board sees the seeds of one order, so the noise of a seed is seed^2 + rest^2. Intervals are those
of Graybill and Wang (1980) and Ting et al. (1990) for a sum and a difference of mean squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field

from leaderboard.board.intervals import CONFIDENCE
from pipelines.errors import RuleError
from pipelines.records import Frozen

Square = tuple[float, float]
"""A mean square and its degrees of freedom."""


class Component(Frozen):
    """One part of the noise, as a standard deviation of one run."""

    name: str
    sd: float
    low: float = Field(description="95%")
    high: float
    freedom: int = Field(description="degrees of freedom of the estimate, rounded down")


def seed_and_order(scores: Sequence[Sequence[float]]) -> tuple[Component, Component | None]:
    """The noise of a seed, and of the order; `scores` holds a row a seed, a column an order.

    With one order the second is None. RuleError for a table with fewer than two seeds.
    """
    table = np.asarray(scores, np.float64)
    seeds, orders = table.shape
    if seeds < 2:
        raise RuleError("the noise of seeds needs at least two of them")
    if orders == 1:
        variance = float(table[:, 0].var(ddof=1))
        return _plain("seed", (variance, seeds - 1)), None
    between_seeds, between_orders, rest = mean_squares(table)
    seed = _sum("seed", between_seeds, rest, orders)
    return seed, difference("order", between_orders, rest, seeds)


def mean_squares(table: npt.NDArray[np.float64]) -> tuple[Square, Square, Square]:
    """Between rows, between columns, and the rest, of a table with one value a cell."""
    rows, columns = table.shape
    whole = table.mean()
    by_row, by_column = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_row[:, None] - by_column[None, :] + whole
    freedom = (rows - 1) * (columns - 1)
    return (
        (columns * float(((by_row - whole) ** 2).sum()) / (rows - 1), rows - 1),
        (rows * float(((by_column - whole) ** 2).sum()) / (columns - 1), columns - 1),
        (float((rest**2).sum()) / freedom, freedom),
    )


def draw(scores: Sequence[float], order: Component | None) -> Component:
    """The noise of the draw: what random samples vary by, less what their orders do.

    RuleError for fewer than two samples.
    """
    if len(scores) < 2:
        raise RuleError("the noise of the draw needs at least two samples")
    between = (float(np.var(scores, ddof=1)), len(scores) - 1)
    if order is None or not order.freedom:
        return _plain("draw", between)
    return difference("draw", between, (order.sd**2, order.freedom), 1)


def _plain(name: str, square: Square) -> Component:
    """A variance that is one mean square: the interval is chi-square's."""
    from scipy.stats import chi2

    value, freedom = square
    low, high = (freedom * value / float(chi2.ppf(p, freedom)) for p in _tails()[::-1])
    return _component(name, value, low, high, freedom)


def _sum(name: str, first: Square, rest: Square, count: int) -> Component:
    """(first + (count - 1) rest) / count, with Satterthwaite's degrees of freedom."""
    parts = [(first[0] / count, first[1]), ((count - 1) * rest[0] / count, rest[1])]
    value = sum(part for part, _ in parts)
    uncertain = sum(part**2 / freedom for part, freedom in parts)
    freedom = value**2 / uncertain if uncertain else first[1]
    reach = [_reach(part_freedom) for _, part_freedom in parts]
    low = value - math.hypot(*(g * part for (g, _), (part, _) in zip(reach, parts, strict=True)))
    high = value + math.hypot(*(h * part for (_, h), (part, _) in zip(reach, parts, strict=True)))
    return _component(name, value, low, high, freedom)


def difference(name: str, first: Square, rest: Square, count: int) -> Component:
    """(first - rest) / count: at least zero, with the interval of Ting et al."""
    from scipy.stats import f

    (a, n), (b, m) = first, rest
    value = (a - b) / count
    (g1, h1), (g2, h2) = _reach(n), _reach(m)
    below, above = _tails()
    upper, lower = float(f.ppf(above, n, m)), float(f.ppf(below, n, m))
    g12 = ((upper - 1) ** 2 - (g1 * upper) ** 2 - h2**2) / upper
    h12 = ((1 - lower) ** 2 - (h1 * lower) ** 2 - g2**2) / lower
    down = (g1 * a) ** 2 + (h2 * b) ** 2 + g12 * a * b
    up = (h1 * a) ** 2 + (g2 * b) ** 2 + h12 * a * b
    low = value - math.sqrt(max(down, 0.0)) / count
    high = value + math.sqrt(max(up, 0.0)) / count
    uncertain = (a / count) ** 2 / n + (b / count) ** 2 / m
    freedom = value**2 / uncertain if value > 0 and uncertain else n
    return _component(name, value, low, high, min(freedom, n))


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, 0.5 + CONFIDENCE / 2


def _reach(freedom: float) -> tuple[float, float]:
    """How far the ends of a variance's own interval are below and above it, as parts of it."""
    from scipy.stats import chi2

    below, above = _tails()
    return (
        1 - freedom / float(chi2.ppf(above, freedom)),
        freedom / float(chi2.ppf(below, freedom)) - 1,
    )


def _component(name: str, value: float, low: float, high: float, freedom: float) -> Component:
    roots = (math.sqrt(max(part, 0.0)) for part in (value, low, high))
    sd, lowest, highest = roots
    return Component(name=name, sd=sd, low=lowest, high=highest, freedom=max(1, int(freedom)))
