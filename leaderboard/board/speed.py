"""How much training a dataset takes to a target: the speedrun's score.

A model is measured at several points of its training. The budget at which the target is reached is
read between two of them, on a line in the logarithm of the budget, at the first point from which
the score stays at the target or better. Its error from the questions is the score's error over the
slope there; runs with several seeds have their spread besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from leaderboard.board.intervals import CONFIDENCE, student_quantile
from pipelines.errors import RuleError
from pipelines.records import Frozen


class Measure(Frozen):
    """The score of one checkpoint."""

    budget: float = Field(gt=0, description="seen until then")
    value: float
    stderr: float | None = None


class Reached(Frozen):
    """One training run: where the target was reached; None: not within its budget."""

    seed: int
    budget: float | None
    stderr: float | None = Field(None, description="from the choice of questions")


class Speed(Frozen):
    """A dataset's speedrun over seeds."""

    method: str
    reached: tuple[Reached, ...]
    budget: float | None = Field(description="geometric mean; None: a seed did not reach it")
    low: float | None = Field(None, description="95%, over seeds and questions")
    high: float | None = None


def reached(
    seed: int, measures: Sequence[Measure], target: float, *, higher_is_better: bool
) -> Reached:
    """Where a run reaches the target for good. RuleError for fewer than three measures."""
    if len(measures) < 3:
        raise RuleError(f"{len(measures)} checkpoints; a curve takes at least three")
    sign = 1.0 if higher_is_better else -1.0
    ordered = sorted(measures, key=lambda measure: measure.budget)
    ahead = [sign * (measure.value - target) for measure in ordered]
    last_below = max((n for n, value in enumerate(ahead) if value < 0), default=-1)
    if last_below == len(ahead) - 1:
        return Reached(seed=seed, budget=None)
    if last_below < 0:
        raise RuleError(
            f"seed {seed} is at the target {target:g} before its first checkpoint, at "
            f"{ordered[0].budget:,.0f}; choose a harder target or more checkpoints"
        )
    before, after = ordered[last_below], ordered[last_below + 1]
    a, b = ahead[last_below], ahead[last_below + 1]
    slope = (b - a) / (math.log(after.budget) - math.log(before.budget))
    at = math.log(before.budget) - a / slope
    errors = [measure.stderr for measure in (before, after) if measure.stderr is not None]
    error = max(errors) / slope * math.exp(at) if errors else None
    return Reached(seed=seed, budget=math.exp(at), stderr=error)


def score_at(measures: Sequence[Measure], budget: float) -> float:
    """The score of a run at a budget, on a line in its logarithm between two measures.

    RuleError for a budget before the first measure or behind the last.
    """
    ordered = sorted(measures, key=lambda measure: measure.budget)
    if not ordered or not ordered[0].budget <= budget <= ordered[-1].budget:
        raise RuleError(f"no checkpoints around a budget of {budget:,.0f}: more checkpoints")
    logs = [math.log(measure.budget) for measure in ordered]
    return float(np.interp(math.log(budget), logs, [measure.value for measure in ordered]))


def speed(method: str, runs: Sequence[Reached]) -> Speed:
    """The geometric mean over seeds with its interval: between seeds, and of the questions."""
    budgets = [run.budget for run in runs]
    known = [budget for budget in budgets if budget is not None]
    if len(known) < len(budgets) or not known:
        return Speed(method=method, reached=tuple(runs), budget=None)
    logs = np.log(known)
    middle = float(logs.mean())
    relative = [
        run.stderr / run.budget for run in runs if run.stderr is not None and run.budget is not None
    ]
    questions = max(relative) if relative else 0.0  # all seeds are asked the same questions
    low = high = None
    if len(known) > 1:
        seeds = float(logs.var(ddof=1)) / len(known)
        total = seeds + questions**2
        freedom = total**2 / (seeds**2 / (len(known) - 1)) if seeds else 1e9
        reach = student_quantile(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(total)
        low, high = math.exp(middle - reach), math.exp(middle + reach)
    return Speed(method=method, reached=tuple(runs), budget=math.exp(middle), low=low, high=high)


def order(speeds: Sequence[Speed]) -> list[Speed]:
    """Fastest first; those that did not reach the target last."""
    return sorted(speeds, key=lambda entry: (entry.budget is None, entry.budget or 0, entry.method))
