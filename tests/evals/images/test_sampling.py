"""Samplers against a law that is known."""

from __future__ import annotations

import pytest
import torch

from ambient.systems.exact import Gaussian
from evals.images.sampling import euler, generate, heun, noise_of, schedule

LAW = Gaussian(
    torch.tensor([0.5, -0.2], dtype=torch.float64),
    torch.tensor([[0.30, 0.10], [0.10, 0.20]], dtype=torch.float64),
)


def test_the_schedule_falls_from_the_highest_level_to_nothing() -> None:
    levels = schedule(18)
    assert levels[0] == pytest.approx(80)
    assert levels[-2] == pytest.approx(0.002)
    assert levels[-1] == 0
    assert bool((levels.diff() < 0).all())
    with pytest.raises(ValueError, match="at least 2"):
        schedule(1)


def test_heun_samples_a_gaussian_better_than_euler() -> None:
    start = 80 * torch.randn(
        4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    gaps = []
    for sampler in (heun, euler):
        drawn = sampler(LAW, start, schedule(18))
        gaps.append(float((torch.cov(drawn.T) - LAW.covariance).abs().max()))
    assert gaps[0] < 0.03
    assert gaps[0] < gaps[1]


def test_an_image_does_not_depend_on_its_batch() -> None:
    def denoise(x: torch.Tensor, sigma: torch.Tensor, mask: None = None) -> torch.Tensor:
        return 0.5 * x / (1 + sigma[:, None])

    whole = generate(denoise, range(5), (2,), seed=3)  # type: ignore[arg-type]
    parts = generate(denoise, range(5), (2,), seed=3, batch=2)  # type: ignore[arg-type]
    torch.testing.assert_close(whole, parts)
    assert not torch.equal(noise_of([0], (2,), seed=3), noise_of([0], (2,), seed=4))
