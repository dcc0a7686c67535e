"""How fast the error of a few steps can fall: an exact case, far below what is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from evals.images.sampling import schedule
from leaderboard.submissions.generator_logs import FASTEST


def endpoint(num_steps: int, deviation: np.ndarray) -> np.ndarray:
    """Where Heun's method ends from 1, for Gaussian data: dx/dsigma = sigma x / (s^2 + sigma^2)."""
    levels = schedule(num_steps).numpy()
    x = np.ones_like(deviation)
    for here, after in pairwise(levels):
        first = x * here / (deviation**2 + here**2)
        moved = x + (after - here) * first
        if after > 0:
            first = (first + moved * after / (deviation**2 + after**2)) / 2
        x = x + (after - here) * first
    return x


@pytest.mark.parametrize("reference", [64, 128])
def test_errors_of_gaussian_images_fall_less_fast_than_is_refused(reference: int) -> None:
    """Directions of any deviation; an error over several falls no faster than in the fastest."""
    deviation = np.logspace(-3, 1.5, 2000)
    exact = endpoint(reference, deviation)
    errors = [abs(endpoint(steps, deviation) - exact) for steps in (6, 9, 18)]
    first = np.log(errors[0] / errors[1]) / np.log(9 / 6)
    second = np.log(errors[1] / errors[2]) / np.log(18 / 9)
    assert 3.5 < first.max() < 3.55
    assert 2.8 < second.max() < 2.90
    assert 2 * first.max() < FASTEST
