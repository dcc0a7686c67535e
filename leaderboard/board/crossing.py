"""Where two datasets cross: A ahead below a budget, B above it, and how sure that is.

The difference of two scores is taken as a parabola in the logarithm of the budget: losses fall as
powers of it, and a line through the difference of two powers missed planted crossings in a fifth of
the cases. Each point has a variance: what its own runs show, pooled over all points, with the
scale's known noise. The interval of the crossing is Fieller's (1954): all budgets at which the
curve's band contains zero. A crossing is claimed only where the band leaves out zero at both ends
of the budgets, on opposite sides; beyond the budgets nothing is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from leaderboard.board.intervals import CONFIDENCE, student_quantile
from pipelines.errors import RuleError
from pipelines.execution.progress import short as amount
from pipelines.records import Frozen

FEWEST = 4  # budgets: a parabola goes through any three
DEGREE = 2  # of the curves over the logarithm of the budget
GRID = 401  # budgets at which the band is looked at, evenly in the logarithm

Values = npt.NDArray[np.float64]
Outcome = Literal["crossing", "first ahead", "second ahead", "not distinguishable", "unclear"]


class Point(Frozen):
    """The scores of one dataset at one budget, a seed each."""

    budget: float = Field(gt=0)
    scores: tuple[float, ...] = Field(min_length=1)

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


class Crossing(Frozen):
    """What can be said of two curves; a positive difference means that the second is better."""

    first: str
    second: str
    outcome: Outcome
    budgets: tuple[float, ...]
    differences: tuple[float, ...]
    errors: tuple[float, ...] = Field(description="standard errors of the differences")
    grid: tuple[float, ...] = Field(description="budgets of the fitted band")
    line: tuple[float, ...]
    low: tuple[float, ...] = Field(description="95%")
    high: tuple[float, ...]
    at: float | None = Field(None, description="the budget of the crossing")
    between: tuple[float, float] | None = Field(None, description="its 95% interval")

    def sentence(self, unit: str) -> str:
        """The verdict in one sentence."""
        start, end = (f"{amount(self.budgets[index])}" for index in (0, -1))
        if self.outcome == "crossing":
            assert self.between is not None
            ahead, later = self.first, self.second
            if self.differences_begin_positive:
                ahead, later = later, ahead
            low, high = (amount(value) for value in self.between)
            return (
                f"{ahead} is ahead below {low} {unit}, {later} above {high}, unknown beyond {end}"
            )
        if self.outcome in ("first ahead", "second ahead"):
            name = self.first if self.outcome == "first ahead" else self.second
            return f"{name} is ahead from {start} to {end} {unit}: no crossing; unknown beyond"
        if self.outcome == "unclear":
            return (
                f"{self.first} and {self.second} are not distinguishable over a part of {start} to "
                f"{end} {unit}, and no crossing is shown; unknown beyond"
            )
        return (
            f"{self.first} and {self.second} are not distinguishable from {start} to {end} {unit}; "
            "unknown beyond"
        )

    @property
    def differences_begin_positive(self) -> bool:
        return self.line[0] > 0


def crossing(
    first: Sequence[Point],
    second: Sequence[Point],
    *,
    names: tuple[str, str] = ("first", "second"),
    higher_is_better: bool = True,
    known: tuple[float, int] | None = None,
    order: float = 0.0,
) -> Crossing:
    """Two datasets at the same budgets, at least four.

    `known` is the variance between seeds and its degrees of freedom, from a rule book; without it
    the runs' own spread is used. `order` is the variance from the order of the data, which more
    seeds do not shrink. RuleError for too few budgets, and where no spread is known.
    """
    budgets = sorted({point.budget for point in first} & {point.budget for point in second})
    if len(budgets) < FEWEST:
        raise RuleError(
            f"{names[0]} and {names[1]} share {len(budgets)} budgets; a crossing takes at least "
            f"{FEWEST}"
        )
    sides = [{point.budget: point for point in side} for side in (first, second)]
    variance, freedom = spread([side[budget] for side in sides for budget in budgets], known)
    sign = 1.0 if higher_is_better else -1.0
    apart = np.array([sign * (sides[1][b].mean - sides[0][b].mean) for b in budgets])
    counts = [[len(side[b].scores) for b in budgets] for side in sides]
    errors = np.sqrt(variance * (1 / np.array(counts[0]) + 1 / np.array(counts[1])) + 2 * order)
    x = np.log(np.array(budgets))
    grid = np.linspace(x[0], x[-1], GRID)
    line, error = _fit(x, apart, errors, grid)
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom) * error
    low, high = line - reach, line + reach
    outcome, at, between = _judge(grid, line, low, high)
    return Crossing(
        first=names[0],
        second=names[1],
        outcome=outcome,
        budgets=tuple(budgets),
        differences=tuple(apart.tolist()),
        errors=tuple(errors.tolist()),
        grid=tuple(np.exp(grid).tolist()),
        line=tuple(line.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        at=at,
        between=between,
    )


def spread(points: Sequence[Point], known: tuple[float, int] | None) -> tuple[float, int]:
    """The variance of one run, pooled over points with several seeds and what is known."""
    total, freedom = (known[0] * known[1], known[1]) if known else (0.0, 0)
    for point in points:
        if len(point.scores) > 1:
            total += float(np.var(point.scores, ddof=1)) * (len(point.scores) - 1)
            freedom += len(point.scores) - 1
    if not freedom:
        raise RuleError(
            "with one seed a budget, and no noise known at this scale, no difference can be "
            "distinguished from chance: give --repeat 2 or more, or measure the scale with `noise`"
        )
    return total / freedom, freedom


def _fit(x: Values, y: Values, errors: Values, at: Values) -> tuple[Values, Values]:
    """The weighted parabola at `at`, and its standard errors there."""
    centre = float(x.mean())
    design = np.vander(x - centre, DEGREE + 1)
    weights = 1 / errors**2
    covariance = np.linalg.inv(design.T @ (design * weights[:, None]))
    coefficients = covariance @ (design.T @ (weights * y))
    points = np.vander(at - centre, DEGREE + 1)
    return points @ coefficients, np.sqrt(np.einsum("ij,jk,ik->i", points, covariance, points))


def _judge(
    grid: Values, line: Values, low: Values, high: Values
) -> tuple[Outcome, float | None, tuple[float, float] | None]:
    """What the band shows over the budgets."""
    side = np.where(low > 0, 1, np.where(high < 0, -1, 0))
    if not side.any():
        return "not distinguishable", None, None
    shown = side[side != 0]
    if (shown == shown[0]).all():
        if side.all():
            return ("second ahead" if shown[0] > 0 else "first ahead"), None, None
        return "unclear", None, None
    turns = np.flatnonzero(np.diff(shown))
    if len(turns) > 1 or side[0] == 0 or side[-1] == 0:
        return "unclear", None, None
    unsure = np.flatnonzero(side == 0)
    where = float(np.interp(0.0, *_increasing(line, grid)))
    first = float(grid[max(int(unsure[0]) - 1, 0)]) if len(unsure) else where
    last = float(grid[min(int(unsure[-1]) + 1, len(grid) - 1)]) if len(unsure) else where
    return "crossing", math.exp(where), (math.exp(first), math.exp(last))


def _increasing(line: Values, grid: Values) -> tuple[Values, Values]:
    """The part of the line around its sign change, rising, for interpolation."""
    change = int(np.flatnonzero(np.diff(np.sign(line)))[0])
    ends = slice(change, change + 2)
    order = np.argsort(line[ends])
    return line[ends][order], grid[ends][order]


# ---- fewer budgets than a curve takes


def apart_at_each(
    first: Sequence[Point],
    second: Sequence[Point],
    *,
    names: tuple[str, str],
    higher_is_better: bool = True,
    known: tuple[float, int] | None = None,
    order: float = 0.0,
) -> list[tuple[float, str | None]]:
    """At each budget that both have: who is ahead beyond the noise; None: not distinguishable.

    RuleError as for `crossing`, where no spread is known.
    """
    sides = [{point.budget: point for point in side} for side in (first, second)]
    shared = sorted(set(sides[0]) & set(sides[1]))
    variance, freedom = spread([side[budget] for side in sides for budget in shared], known)
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    sign = 1.0 if higher_is_better else -1.0
    verdicts: list[tuple[float, str | None]] = []
    for budget in shared:
        a, b = (side[budget] for side in sides)
        error = math.sqrt(variance * (1 / len(a.scores) + 1 / len(b.scores)) + 2 * order)
        gap = sign * (b.mean - a.mean)
        ahead = names[1] if gap > 0 else names[0]
        verdicts.append((budget, ahead if abs(gap) > reach * error else None))
    return verdicts


# ---- the price of a filter


class Price(Frozen):
    """How much more unfiltered data gives the same score as a filter at one budget."""

    budget: float
    times: float | None = Field(description="of the budget; None: outside the budgets tried")
    low: float | None = Field(description="95%; None: below or above all budgets tried")
    high: float | None
    beyond: bool = Field(description="the score is better than the plain data's at every budget")

    def sentence(self, unit: str) -> str:
        """In words, as `worth 3.1 [2.2, 4.6] times as much unfiltered data`."""
        if self.times is None:
            side = "more than all" if self.beyond else "less than any"
            return f"at {amount(self.budget)} {unit}: {side} of the budgets tried"
        ends = [f"{end:.2f}" if end is not None else "?" for end in (self.low, self.high)]
        return (
            f"at {amount(self.budget)} {unit}: worth {self.times:.2f} [{ends[0]}, {ends[1]}] times "
            "as much unfiltered data"
        )


def prices(
    plain: Sequence[Point],
    filtered: Sequence[Point],
    *,
    higher_is_better: bool = True,
    known: tuple[float, int] | None = None,
    order: float = 0.0,
    noise_unknown: bool = False,
) -> list[Price]:
    """For every budget of the filter: how much plain data gives its score.

    The plain curve is made monotone (isotonic regression, weighted by its runs) and read between
    its budgets in the logarithm; never beyond them. The interval moves the filter's score and the
    curve by their errors; with `noise_unknown` there is none. RuleError as for `crossing`.
    """
    variance, freedom = (math.nan, 1) if noise_unknown else spread([*plain, *filtered], known)
    sign = 1.0 if higher_is_better else -1.0
    ordered = sorted(plain, key=lambda point: point.budget)
    x = np.log([point.budget for point in ordered])
    weights = np.array([len(point.scores) for point in ordered], float)
    curve = monotone(np.array([sign * point.mean for point in ordered]), weights)
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    made = []
    for point in sorted(filtered, key=lambda point: point.budget):
        score = sign * point.mean
        runs = 1 / len(point.scores) + 1 / float(weights.mean())
        error = reach * math.sqrt(variance * runs + 2 * order)
        middle, low, high = (
            _budget_of(x, curve, value) for value in (score, score - error, score + error)
        )
        own = math.log(point.budget)
        made.append(
            Price(
                budget=point.budget,
                times=_times(middle, own),
                low=_times(low, own),
                high=_times(high, own),
                beyond=score > curve[-1],
            )
        )
    return made


def monotone(values: Values, weights: Values) -> Values:
    """Isotonic regression by pooling neighbours that violate the order (Ayer et al. 1955)."""
    blocks: list[list[float]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            total = last[1] + before[1]
            mean = (last[0] * last[1] + before[0] * before[1]) / total
            blocks.append([mean, total, last[2] + before[2]])
    return np.array([block[0] for block in blocks for _ in range(int(block[2]))])


def _budget_of(x: Values, curve: Values, value: float) -> float | None:
    """The logarithm of the budget at which the curve has a value; None outside it, and for NaN."""
    if not curve[0] <= value <= curve[-1]:
        return None
    above = int(np.searchsorted(curve, value))
    if above == 0 or curve[above] == value:
        return float(x[above])
    share = (value - curve[above - 1]) / (curve[above] - curve[above - 1])
    return float(x[above - 1] + share * (x[above] - x[above - 1]))


def _times(budget: float | None, own: float) -> float | None:
    return None if budget is None else math.exp(budget - own)


def points_of(scores: Mapping[float, Sequence[float]]) -> list[Point]:
    """Scores by budget as points, smallest budget first."""
    return [Point(budget=b, scores=tuple(scores[b])) for b in sorted(scores)]
