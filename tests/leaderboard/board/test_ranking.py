from __future__ import annotations

import math

import numpy as np
import pytest

from leaderboard.board.intervals import interval, kendall, spearman, student_quantile
from leaderboard.board.plots import ticks
from leaderboard.board.ranking import Difference, combined_error


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042), (1e9, 1.960)],
)
def test_student_quantiles_agree_with_the_table(degrees: float, expected: float) -> None:
    """Two-sided 95% points, Abramowitz and Stegun, table 26.10."""
    assert student_quantile(0.975, degrees) == pytest.approx(expected, abs=6e-4)


def test_an_error_holds_seeds_and_items() -> None:
    # seeds 1, 2, 3: variance 1, of the mean 1/3; items 0.5: sqrt(1/3 + 1/4)
    assert combined_error([1.0, 2.0, 3.0], 0.5) == pytest.approx(math.sqrt(1 / 3 + 1 / 4))


def test_with_one_seed_only_the_items_are_known() -> None:
    assert combined_error([1.0], 0.5) == 0.5


def test_an_interval_of_seeds_alone_is_student_s() -> None:
    low, high = interval(1.0, seed_variance=0.04, freedom=2, item_variance=0.0)
    assert (low, high) == pytest.approx((1 - 4.303 * 0.2, 1 + 4.303 * 0.2), abs=1e-3)


def test_an_interval_of_items_alone_is_normal() -> None:
    low, high = interval(1.0, seed_variance=0.0, freedom=2, item_variance=0.04)
    assert (low, high) == pytest.approx((1 - 1.96 * 0.2, 1 + 1.96 * 0.2), abs=1e-3)


def test_a_tie_is_an_interval_that_holds_zero() -> None:
    assert Difference(value=0.1, low=-0.1, high=0.3).holds_zero
    assert not Difference(value=0.2, low=0.1, high=0.3).holds_zero


def test_ticks_are_round_and_inside() -> None:
    assert ticks(2.18, 2.57, 5) == pytest.approx([2.2, 2.3, 2.4, 2.5])
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]


def test_rank_correlations_are_those_of_scipy() -> None:
    from scipy.stats import kendalltau, spearmanr

    rng = np.random.default_rng(5)
    for number in (2, 3, 8, 40):
        a, b = rng.integers(0, 9, number).astype(float), rng.normal(size=number)
        a[0] = 10.0  # never all ties
        assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert math.isnan(kendall([1.0, 1.0], [1.0, 2.0]))
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0]))
