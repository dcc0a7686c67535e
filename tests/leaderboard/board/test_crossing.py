"""Planted crossings are found within their intervals, parallel curves do not cross, prices rise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaderboard.board.crossing import Point, crossing, monotone, points_of, prices
from pipelines.errors import RuleError

BUDGETS = tuple(1e6 * 2.0**k for k in range(6))
TIMES = 200


def curve(budget: float, floor: float, size: float, power: float) -> float:
    """A loss that falls as a power of the budget, as losses do."""
    return floor + size * (budget / 1e6) ** -power


def simulated(rng: np.random.Generator, sd: float, seeds: int, **shape: float) -> list[Point]:
    return points_of({b: (curve(b, **shape) + rng.normal(0, sd, seeds)).tolist() for b in BUDGETS})


def test_a_planted_crossing_is_within_its_interval() -> None:
    # The second falls slower; they meet inside the budgets.
    first = {"floor": 2.0, "size": 1.9, "power": 0.10}
    second = {"floor": 2.25, "size": 1.55, "power": 0.05}
    low, high = BUDGETS[0], BUDGETS[-1]
    for _ in range(100):  # bisection: the truth, found without the module
        middle = math.sqrt(low * high)
        if curve(middle, **first) > curve(middle, **second):
            low = middle
        else:
            high = middle
    truth = low
    assert BUDGETS[0] * 1.2 < truth < BUDGETS[-1] / 1.2
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(TIMES):
        made = crossing(
            simulated(rng, 0.01, 3, **first),
            simulated(rng, 0.01, 3, **second),
            higher_is_better=False,
        )
        inside += made.between is not None and made.between[0] <= truth <= made.between[1]
    assert inside >= 0.9 * TIMES


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.05])
def test_parallel_curves_do_not_cross(gap: float) -> None:
    rng = np.random.default_rng(12)
    shape = {"size": 1.9, "power": 0.10}
    crossed = 0
    for _ in range(TIMES):
        made = crossing(
            simulated(rng, 0.01, 3, floor=2.0, **shape),
            simulated(rng, 0.01, 3, floor=2.0 + gap, **shape),
            higher_is_better=False,
        )
        crossed += made.outcome == "crossing"
    assert crossed <= 0.05 * TIMES


def test_a_wide_gap_is_ahead_everywhere_and_says_so() -> None:
    exact = [Point(budget=b, scores=(3.0, 3.001)) for b in BUDGETS]
    better = [Point(budget=b, scores=(2.5, 2.501)) for b in BUDGETS]
    made = crossing(exact, better, names=("plain", "mine"), higher_is_better=False)
    assert made.outcome == "second ahead"
    assert made.sentence("tokens") == (
        "mine is ahead from 1M to 32M tokens: no crossing; unknown beyond"
    )


def test_the_sentence_of_a_crossing_names_who_is_ahead_where() -> None:
    flat = [Point(budget=b, scores=(0.5, 0.501)) for b in BUDGETS]
    rising = [
        Point(budget=b, scores=(v, v + 0.001))
        for v, b in zip((0.40, 0.44, 0.48, 0.52, 0.56, 0.60), BUDGETS, strict=True)
    ]
    made = crossing(flat, rising, names=("A", "B"))
    assert made.at == pytest.approx(math.sqrt(BUDGETS[2] * BUDGETS[3]), rel=0.02)
    assert made.sentence("tokens").startswith("A is ahead below 5.")
    assert made.sentence("tokens").endswith("unknown beyond 32M")
    turned = crossing(rising, flat, names=("B", "A"))
    assert turned.sentence("tokens") == made.sentence("tokens")


def test_what_cannot_be_said_is_refused() -> None:
    few = [Point(budget=b, scores=(1.0, 1.1)) for b in BUDGETS[:3]]
    with pytest.raises(RuleError, match="share 3 budgets"):
        crossing(few, few)
    single = [Point(budget=b, scores=(1.0,)) for b in BUDGETS]
    with pytest.raises(RuleError, match="--repeat 2"):
        crossing(single, single)
    assert crossing(single, single, known=(0.01, 6)).outcome == "not distinguishable"


def test_the_price_is_monotone_on_planted_curves() -> None:
    shape = {"floor": 2.0, "size": 1.9}
    plain = [Point(budget=b, scores=(curve(b, power=0.10, **shape),)) for b in BUDGETS]
    last = 0.0
    for times in (1.0, 1.5, 2.0, 3.0):  # a filter worth so much more data
        filtered = [
            Point(budget=b, scores=(curve(b * times, power=0.10, **shape),)) for b in BUDGETS[:3]
        ]
        made = prices(plain, filtered, higher_is_better=False, known=(1e-10, 10))
        for price in made:
            # Read between budgets on a line in the logarithm: a few percent beside the curve.
            assert price.times == pytest.approx(times, rel=0.05)
            assert price.high is not None
            assert price.times <= price.high
            # A filter worth nothing at the first budget: its lower end is below all of them.
            assert (price.low is None) == (times == 1.0 and price.budget == BUDGETS[0])
        assert made[0].times is not None
        assert made[0].times > last
        last = made[0].times


def test_a_score_outside_the_plain_curve_has_no_price() -> None:
    plain = [Point(budget=b, scores=(0.1 + 0.01 * k,)) for k, b in enumerate(BUDGETS)]
    best = prices(plain, [Point(budget=1e6, scores=(0.9,))], known=(1e-8, 5))
    assert best[0].times is None
    assert best[0].sentence("samples") == "at 1M samples: more than all of the budgets tried"
    worst = prices(plain, [Point(budget=1e6, scores=(0.0,))], known=(1e-8, 5))
    assert worst[0].sentence("samples") == "at 1M samples: less than any of the budgets tried"


def test_monotone_pools_neighbours_by_weight() -> None:
    pooled = monotone(np.array([1.0, 3.0, 2.0, 4.0]), np.array([1.0, 1.0, 3.0, 1.0]))
    assert pooled.tolist() == [1.0, 2.25, 2.25, 4.0]
