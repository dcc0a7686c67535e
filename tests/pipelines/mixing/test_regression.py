"""Planted optima are found again, and bounds are kept."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.mixing.regression import fit, optimum, spearman

BEST = np.array([0.3, 0.25, 0.2, 0.15, 0.06, 0.04])
FREE = np.ones(6)


def swarm(num_runs: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(6), num_runs)


def quadratic(shares: np.ndarray) -> np.ndarray:
    bend = np.array([2.0, 1.5, 3.0, 1.0, 2.5, 4.0])
    return 3.0 + (bend * (shares - BEST) ** 2).sum(axis=1)


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_planted_optimum_of_six_sources_is_found_from_sixty_runs(noise: float) -> None:
    shares = swarm(60)
    losses = quadratic(shares) + noise * np.random.default_rng(2).normal(size=60)
    fitted = fit(shares, losses)
    assert fitted.form == "quadratic"
    assert fitted.left_out_error < 2 * noise + 1e-6
    assert np.abs(optimum(fitted, FREE) - BEST).sum() <= 0.02


def test_the_optimum_keeps_to_the_bounds() -> None:
    fitted = fit(swarm(60), quadratic(swarm(60)))
    most = np.array([0.1, 1, 1, 1, 1, 1])
    best = optimum(fitted, most)
    assert best[0] == pytest.approx(0.1)
    assert best.sum() == pytest.approx(1)
    # by Lagrange: bend * (r - best) is equal for the free sources
    bend = np.array([1.5, 3.0, 1.0, 2.5, 4.0])
    expected = BEST[1:] + 0.2 / bend / (1 / bend).sum()
    assert np.abs(best[1:] - expected).sum() < 0.01


def test_log_linear_losses_are_fitted_with_their_floor() -> None:
    shares = swarm(40)
    slopes = np.array([-0.5, 0.3, 0.1, -1.2, 0.0, 0.4])
    fitted = fit(shares, 2.5 + np.exp(0.7 + shares @ slopes))
    assert fitted.form == "log_linear"
    assert fitted.left_out_rank > 0.999
    # the loss falls fastest by the fourth source, then by the first
    best = optimum(fitted, np.array([1, 1, 1, 0.6, 1, 1]))
    assert best.tolist() == pytest.approx([0.4, 0, 0, 0.6, 0, 0], abs=1e-6)


def test_too_few_runs_are_an_error() -> None:
    with pytest.raises(DataError, match="5 proxy runs: the quadratic form of 6 sources needs 22"):
        fit(swarm(5), quadratic(swarm(5)), form="quadratic")
    with pytest.raises(DataError, match="do not add up to 1"):
        fit(np.ones((30, 6)), np.ones(30))


def test_ranks_of_equal_values_are_shared() -> None:
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([10.0, 20, 20, 30])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(np.ones(3), np.arange(3.0)) == 0
