"""Correlated noise keeps its law when it is warped; guidance makes frames follow the flow."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from evals.images import warp
from evals.images.sampling import schedule

SIZE, LENGTH, FEATURES = 16, 1.5, 2000


def test_warped_noise_keeps_its_variance_and_covariance() -> None:
    """Over the weights it is known; what is left is chance of frequencies and phases."""
    flow = warp.rotation(16, 16, degrees=5, shift=0.5)
    generator = torch.Generator().manual_seed(1)
    noise = warp.Noise.draw(length=LENGTH, features=20_000, generator=generator)
    positions = flow(warp.grid(16, 16))
    basis = (positions @ noise.frequencies.T + noise.phases).cos() * (2 / 20_000) ** 0.5
    assert float((basis * basis).sum(-1).mean()) == pytest.approx(1, abs=0.01)
    for lag in (1, 2, 3):
        measured = float((basis[:, lag:] * basis[:, :-lag]).sum(-1).mean())
        theory = float(torch.exp(torch.tensor(-(lag**2) / (2 * LENGTH**2))))
        assert measured == pytest.approx(theory, abs=0.01)
    first = noise(positions)
    torch.testing.assert_close(first, basis @ noise.weights)


def test_interpolated_white_noise_does_not() -> None:
    white = torch.randn(48, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    half = warp.grid(32, 32)[:-1, :-1] + 0.5
    moved, _ = warp.interpolate(white, half)
    assert float(moved.pow(2).mean()) == pytest.approx(0.25, abs=0.02)


@cache
def wiener(gain: float) -> warp.Frames:
    """The exact denoiser of smooth images, times a gain that depends on the position."""
    positions = warp.grid(SIZE, SIZE).reshape(-1, 2)
    matrices: dict[float, Tensor] = {}
    prior, noise = warp.covariance(positions, 3.0), warp.covariance(positions, LENGTH)
    gains = 1 + gain * torch.sin(positions[:, 1] / 2)

    def denoise(u: Tensor, sigma: float) -> Tensor:
        if sigma not in matrices:
            total = prior + sigma**2 * noise + 1e-6 * torch.eye(SIZE * SIZE, dtype=torch.float64)
            matrices[sigma] = torch.linalg.solve(total, prior)
        return (gains * (u.reshape(len(u), -1) @ matrices[sigma])).reshape(u.shape)

    return denoise


def warp_error(gain: float, guidance: float, *, kind: str = "warped", seed: int = 1) -> float:
    generator = torch.Generator().manual_seed(seed)
    flow = warp.rotation(SIZE, SIZE, degrees=5, shift=0.5)
    positions = warp.grid(SIZE, SIZE)
    first = warp.Noise.draw(length=LENGTH, features=FEATURES, generator=generator)
    second = first
    if kind == "fresh":
        second = warp.Noise.draw(length=LENGTH, features=FEATURES, generator=generator)
    where = positions if kind == "fixed" else flow(positions)
    sigmas = schedule(36, low=0.01, high=10.0)
    frames = warp.clip(
        wiener(gain), flow, [first(positions)[None], second(where)[None]], sigmas, guidance=guidance
    )
    return float(warp.warp_error(frames[1], frames[0], flow))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_guidance_makes_a_model_follow_the_flow(seed: int) -> None:
    assert warp_error(0.3, 0.0, seed=seed) > 0.1
    assert warp_error(0.3, 0.5, seed=seed) < 0.01


def test_an_equivariant_model_needs_the_warped_noise_only() -> None:
    """Not quite equivariant: the frame has an edge, which is what is left of the error."""
    warped = warp_error(0.0, 0.0)
    assert warped < 0.05
    assert warp_error(0.0, 0.0, kind="fixed") > warped
    assert warp_error(0.0, 0.0, kind="fresh") > 1
