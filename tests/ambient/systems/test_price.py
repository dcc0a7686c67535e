"""The worth of a noisy draw where it is known, and the law recovered from runs that obey it."""

from __future__ import annotations

import numpy as np
import pytest

from ambient.systems import price

TAU = 0.25


@pytest.fixture(scope="module")
def table() -> dict[int, dict[str, float]]:
    return {ratio: price.worths(ratio * TAU) for ratio in (1, 2, 3, 4)}


def test_the_price_of_a_noisy_draw_rises_from_about_two_to_tens(
    table: dict[int, dict[str, float]],
) -> None:
    prices = [1 / table[ratio]["mixed"] for ratio in (1, 2, 3, 4)]
    assert prices[0] == pytest.approx(2.2, abs=0.5)
    assert prices == sorted(prices)
    assert prices[3] > 20


def test_a_noisy_draw_is_worth_less_than_its_variance_says(
    table: dict[int, dict[str, float]],
) -> None:
    """tau^2 / (tau^2 + s^2) is the limit when it is known which mode a draw is of."""
    for ratio in (2, 3, 4):
        assert table[ratio]["mixed"] < 1 / (1 + ratio**2)


def test_a_mixture_is_better_than_either_part(table: dict[int, dict[str, float]]) -> None:
    for ratio in (1, 2, 3, 4):
        row = table[ratio]
        assert row["error_mixed"] < min(row["error_clean_only"], row["error_alone"])


def test_beside_clean_draws_a_noisy_one_is_worth_more_than_alone(
    table: dict[int, dict[str, float]],
) -> None:
    for ratio in (3, 4):
        assert table[ratio]["mixed"] > 1.3 * table[ratio]["alone"]


def runs(seeds: int, sizes: tuple[int, ...], noise: float) -> list[price.Run]:
    law = price.Law(0.4, 30.0, 0.6, {0.1: 0.8, 0.4: 0.2}, 40.0, 1.2)
    rng = np.random.default_rng(1)
    result = []
    for seed in range(seeds):
        for size in sizes:
            for level in (0.1, 0.4):
                for share in (0.0, 0.03, 0.1, 0.3, 1.0):
                    clean = round(share * size)
                    for noisy in {size - clean, 0}:
                        if clean + noisy == 0:
                            continue
                        expected = law.distance(clean, noisy, level)
                        value = expected * np.exp(noise * rng.standard_normal())
                        result.append(
                            price.Run(
                                num_clean=clean,
                                num_noisy=noisy,
                                level=level,
                                seed=seed,
                                distance=float(value),
                            )
                        )
    return result


def test_a_law_is_recovered_and_predicts_a_larger_pool() -> None:
    fitted = price.fit(runs(3, (100, 300, 1000), 0.02))
    assert fitted.worth_at(0.1, 1e9) == pytest.approx(0.8, abs=0.15)
    assert fitted.worth_at(0.4, 1e9) == pytest.approx(0.2, abs=0.08)
    for run in runs(1, (3000,), 0.0):
        expected = fitted.distance(run.num_clean, run.num_noisy, run.level)
        assert expected == pytest.approx(run.distance, rel=0.15)


def test_intervals_come_from_seeds() -> None:
    laws = price.bootstrap(runs(3, (100, 300, 1000), 0.05), draws=8)
    worths = [law.worth_at(0.4, 1000) for law in laws]
    assert 0 < np.std(worths) < 0.1


def test_too_few_runs_are_an_error() -> None:
    with pytest.raises(ValueError, match="run more seeds or sizes"):
        price.fit([price.Run(num_clean=10, num_noisy=0, level=0.0, seed=0, distance=1.0)])


def test_without_noise_an_image_is_worth_one() -> None:
    assert price.Law(0, 1, 1, {}, 10, 1).worth_at(0, 5) == 1
