"""Orders of convergence against a fine Heun path, and what loses them."""

from __future__ import annotations

import math
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from ambient.systems import restoration as samplers
from ambient.systems.exact import Mixture

HIGH, LOW = 3.0, 0.02
STEPS = (20, 40, 80, 160, 320)
TOLERANCE = 0.15  # of a slope: the seeds of the starts move it by a hundredth


def grid(number: int) -> list[float]:
    return samplers.quadratic(HIGH, LOW, number)


def three_modes() -> Mixture:
    means = torch.tensor([[1.0, 0.0], [-0.8, 0.6], [-0.2, -1.0]], dtype=torch.float64)
    return Mixture(means, 0.25)


@cache
def world(seed: int) -> tuple[samplers.Process, Tensor, Tensor]:
    process = samplers.ornstein_uhlenbeck(three_modes().scaled)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(1000, 2, generator=generator, dtype=torch.float64)
    return process, start, samplers.heun(process, start, grid(4000))


SAMPLERS = {"ddim": samplers.ddim, "euler": samplers.euler, "rd": samplers.restore_degrade}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "expected", "first"), [("ddim", -1.0, 1), ("euler", -1.0, 1), ("rd", -1.0, 2)]
)
def test_first_order(name: str, expected: float, first: int, seed: int) -> None:
    process, start, reference = world(seed)
    slope, _ = samplers.order(
        SAMPLERS[name], process, start, reference, grid=grid, steps=STEPS[first:]
    )
    assert slope == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_heun_is_of_second_order(seed: int) -> None:
    process, start, reference = world(seed)
    slope, errors = samplers.order(
        samplers.heun, process, start, reference, grid=grid, steps=STEPS[1:]
    )
    assert slope == pytest.approx(-2.0, abs=TOLERANCE)
    assert errors[-1] < 1e-3


def test_a_linear_factor_integrates_another_drift() -> None:
    process, start, reference = world(1)
    wrong = partial(samplers.restore_degrade, factor=lambda part: part)
    slope, errors = samplers.order(wrong, process, start, reference, grid=grid, steps=STEPS[1:])
    assert slope > -0.3
    assert errors[-1] > 0.3


def test_fresh_noise_follows_no_path() -> None:
    process, start, reference = world(1)
    fresh = torch.Generator().manual_seed(5)
    wrong = partial(samplers.restore_degrade, fresh=fresh)
    slope, errors = samplers.order(wrong, process, start, reference, grid=grid, steps=STEPS[1:])
    assert slope > -0.3
    assert errors[-1] > 0.1


def test_one_step_is_the_probability_flow_up_to_the_square_of_the_step() -> None:
    process, start, _ = world(1)
    gaps = []
    for step in (0.1, 0.05, 0.025, 0.0125):
        times = [1.0, 1.0 - step]
        gap = samplers.restore_degrade(process, start, times) - samplers.euler(
            process, start, times
        )
        gaps.append(float(gap.pow(2).mean().sqrt()))
    slope = math.log(gaps[0] / gaps[-1]) / math.log(8)
    assert slope == pytest.approx(2.1, abs=0.3)


def test_a_process_that_is_not_linear() -> None:
    """dx = -x^3 dt + sqrt(2) dW in its stationary law exp(-x^4 / 4): DDIM has no kernel for it.

    The law does not change, so its score is -x^3 and the probability flow does not move at all;
    restoration and degradation must come to rest with the first order too.
    """
    process = samplers.Process(lambda x, t: -(x**3), lambda t: math.sqrt(2.0), lambda x, t: -(x**3))
    start = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)[:, None]

    def even(number: int) -> list[float]:
        return torch.linspace(1.0, 0.0, number + 1, dtype=torch.float64).tolist()[:-1]

    sampler = partial(samplers.restore_degrade, look_back=0.05)
    slope, errors = samplers.order(
        sampler, process, start, start, grid=even, steps=(80, 160, 320, 640)
    )
    assert slope == pytest.approx(-1.0, abs=TOLERANCE)
    assert errors[-1] < 0.02
