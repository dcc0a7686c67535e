"""The low-rate check: a planted flip is reported, a control is not."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.board.flips import flips, flips_text

TIMES = 200


def seeds(rng: np.random.Generator, mean: float) -> list[float]:
    return rng.normal(mean, 0.01, 3).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("low_rate", "verdict"), [((2.60, 2.50), "order flips"), ((2.50, 2.60), "same order")]
)
def test_a_planted_order_is_told(low_rate: tuple[float, float], verdict: str) -> None:
    rng = np.random.default_rng(3)
    right = 0
    for _ in range(TIMES):
        usual = {"a": seeds(rng, 2.40), "b": seeds(rng, 2.50)}  # losses: a is better
        low = {"a": seeds(rng, low_rate[0]), "b": seeds(rng, low_rate[1])}
        [flip] = flips(usual, low, higher_is_better=False)
        right += flip.verdict == verdict
    assert right >= 0.95 * TIMES


def test_equal_datasets_do_not_flip() -> None:
    rng = np.random.default_rng(4)
    flipped = 0
    for _ in range(TIMES):
        usual = {"a": seeds(rng, 2.4), "b": seeds(rng, 2.4)}
        low = {"a": seeds(rng, 2.4), "b": seeds(rng, 2.4)}
        [flip] = flips(usual, low)
        flipped += flip.verdict == "order flips"
    assert flipped <= 0.05 * TIMES


def test_the_report_names_the_pair() -> None:
    made = flips({"a": [1.0, 1.01], "b": [2.0, 2.01]}, {"a": [2.0, 2.01], "b": [1.0, 1.01]})
    assert "the order of a and b flips" in flips_text(made)
