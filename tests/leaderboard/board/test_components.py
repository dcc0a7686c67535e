"""Planted components of variance are found within their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.board.components import draw, mean_squares, seed_and_order
from pipelines.errors import RuleError


def test_mean_squares_by_hand() -> None:
    # Rows' means 2, 4; columns' means 2, 4; grand mean 3; what is left over: 0, 0, 0, 0.
    between_rows, between_columns, rest = mean_squares(np.array([[1.0, 3.0], [3.0, 5.0]]))
    assert between_rows == (4.0, 1)
    assert between_columns == (4.0, 1)
    assert rest == (0.0, 1)


def test_seeds_of_one_order_are_a_plain_variance() -> None:
    seed, order = seed_and_order([[1.0], [2.0], [3.0]])
    assert order is None
    assert seed.sd == 1.0
    assert seed.freedom == 2
    # 2 s^2 / chi-square: quantiles of two degrees of freedom are -2 ln(1 - p).
    assert seed.low == pytest.approx((2 / (-2 * np.log(0.025))) ** 0.5)
    assert seed.high == pytest.approx((2 / (-2 * np.log(0.975))) ** 0.5)


@pytest.mark.parametrize(
    ("seed_sd", "order_sd", "rest_sd"), [(0.012, 0.02, 0.004), (0.02, 0.0, 0.02), (0.0, 0.05, 0.01)]
)
def test_planted_components_are_within_their_intervals(
    seed_sd: float, order_sd: float, rest_sd: float
) -> None:
    rng = np.random.default_rng(5)
    inside = {"seed": 0, "order": 0, "draw": 0}
    times = 400
    draw_sd = 0.03
    for _ in range(times):
        table = (
            2.5
            + rng.normal(0, seed_sd, (4, 1))
            + rng.normal(0, order_sd, (1, 5))
            + rng.normal(0, rest_sd, (4, 5))
        )
        seed, order = seed_and_order(table.tolist())
        assert order is not None
        sampled = rng.normal(0, np.hypot(draw_sd, order_sd), 6)
        drawn = draw(sampled.tolist(), order)
        truth = {"seed": np.hypot(seed_sd, rest_sd), "order": order_sd, "draw": draw_sd}
        for component in (seed, order, drawn):
            inside[component.name] += component.low <= truth[component.name] <= component.high
    # 95% of 400 is 380 with a standard error of 4.4; the approximations are within a point or two.
    assert all(count >= 0.92 * times for count in inside.values()), inside


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(RuleError, match="at least two"):
        seed_and_order([[1.0, 2.0]])
    with pytest.raises(RuleError, match="at least two"):
        draw([1.0], None)
