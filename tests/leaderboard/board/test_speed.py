"""The budget to a target: by hand, from planted curves, and what cannot be said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaderboard.board.speed import Measure, order, reached, score_at, speed
from pipelines.errors import RuleError

BUDGETS = [1e5 * 2**k for k in range(8)]


def curve(values: list[float], error: float | None = None) -> list[Measure]:
    return [
        Measure(budget=budget, value=value, stderr=error)
        for budget, value in zip(BUDGETS, values, strict=False)
    ]


def test_the_target_is_read_between_two_checkpoints() -> None:
    run = reached(1, curve([4.0, 3.0, 2.0]), 2.5, higher_is_better=False)
    assert run.budget == pytest.approx(math.sqrt(BUDGETS[1] * BUDGETS[2]))
    # .01 of score over a slope of 1 per doubling is .01 ln 2 of the budget.
    run = reached(1, curve([4.0, 3.0, 2.0], 0.01), 2.5, higher_is_better=False)
    assert run.stderr == pytest.approx(0.01 * math.log(2) * run.budget)


def test_a_dip_that_does_not_last_is_not_the_target() -> None:
    run = reached(1, curve([4.0, 2.4, 3.0, 2.0]), 2.5, higher_is_better=False)
    assert run.budget is not None
    assert BUDGETS[2] < run.budget < BUDGETS[3]


def test_a_score_between_checkpoints_is_read_in_the_logarithm_of_the_budget() -> None:
    run = curve([4.0, 3.0, 2.0])
    assert score_at(run, BUDGETS[1]) == 3.0
    assert score_at(run, math.sqrt(BUDGETS[1] * BUDGETS[2])) == pytest.approx(2.5)
    for outside in (BUDGETS[0] / 2, BUDGETS[2] * 2):
        with pytest.raises(RuleError, match="no checkpoints around a budget"):
            score_at(run, outside)


def test_a_run_that_does_not_reach_it_says_so() -> None:
    run = reached(1, curve([4.0, 3.0, 2.9]), 2.5, higher_is_better=False)
    assert run.budget is None
    assert speed("slow", [run, run]).budget is None


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(RuleError, match="before its first checkpoint"):
        reached(1, curve([2.0, 1.9, 1.8]), 2.5, higher_is_better=False)
    with pytest.raises(RuleError, match="at least three"):
        reached(1, curve([2.0, 1.9]), 1.95, higher_is_better=False)


def test_five_planted_datasets_rank_alike_in_nine_of_ten_repeats() -> None:
    """Losses fall as powers of the budget; each dataset is worth 15% more data than the next."""
    rng = np.random.default_rng(9)
    alike = 0
    for _ in range(100):
        speeds = []
        for number in range(5):
            runs = []
            for seed in range(3):
                worth = 1.15**number * math.exp(rng.normal(0, 0.02))
                values = [
                    2.0 + 2.0 * (budget * worth / 1e5) ** -0.4 + rng.normal(0, 0.004)
                    for budget in BUDGETS
                ]
                runs.append(reached(seed, curve(values, 0.004), 2.5, higher_is_better=False))
            speeds.append(speed(str(number), runs))
        alike += [entry.method for entry in order(speeds)] == ["4", "3", "2", "1", "0"]
    assert alike >= 90


def test_the_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(10)
    inside = 0
    for _ in range(300):
        runs = []
        for seed in range(3):
            worth = math.exp(rng.normal(0, 0.05))
            values = [2.0 + 2.0 * (budget * worth / 1e5) ** -0.4 for budget in BUDGETS]
            runs.append(reached(seed, curve(values), 2.5, higher_is_better=False))
        made = speed("a", runs)
        truth = 1e5 * (2.0 / 0.5) ** 2.5
        assert made.low is not None
        assert made.high is not None
        inside += made.low <= truth * 1.02 and made.high >= truth * 0.98
    assert inside >= 0.93 * 300
