"""The consistency term on noisy digits: less drift, smaller errors below the noise. `make soak`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient.diffusion.edm import Preconditioned
from ambient.systems import consistency
from evals.images.sampling import Denoiser
from tests.ambient.systems.test_consistency import Plain

pytestmark = pytest.mark.soak
LEVEL, SIGMA_DATA = 0.5, 0.5  # the noise of the tiny pool
BEFORE, AFTER = 2500, 1000  # steps of the loss for noisy images, and steps with or without the term
SEEDS = (1, 2, 3)


def digits() -> tuple[Tensor, Tensor]:
    """1,200 digits to train on and 597 others, (number, 64) in [-1, 1]."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:1200]], images[order[1200:]]


def weight(sigma: Tensor) -> Tensor:
    return (sigma**2 + SIGMA_DATA**2) / (SIGMA_DATA * sigma) ** 2


def train(clean: Tensor, seed: int, *, strength: float) -> Preconditioned:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    images = clean + LEVEL * noise
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = Preconditioned(Plain(64, width=256), sigma_data=SIGMA_DATA)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    term = consistency.Term(low=0.1, high=1.0, max_step=0.1)
    for step in range(BEFORE + AFTER):
        late = step - BEFORE
        rate = 2e-3 * min(1, (step + 1) / 50)
        if late >= 0:
            rate = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * late / AFTER)) / 2
        optimizer.param_groups[0]["lr"] = rate
        loss = consistency.denoising_step(net, images, LEVEL, weight, rows=256, generator=generator)
        if late >= 0 and strength:
            loss = loss + strength * min(1, 2 * late / AFTER) * consistency.penalty(
                net, images, LEVEL, weight, generator=generator, term=term
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def figures(net: Denoiser, held_out: Tensor) -> dict[str, float]:
    """Mean squared errors a pixel at three levels, and the drift from .5 to .2."""
    generator = torch.Generator().manual_seed(5)
    result = {}
    for sigma in (0.2, 0.4, 1.0):
        truth = held_out.repeat(4, 1)
        noisy = truth + sigma * torch.randn(truth.shape, generator=generator)
        with torch.no_grad():
            estimate = net(noisy, torch.full((len(noisy),), sigma))
        result[f"mse@{sigma}"] = float((estimate - truth).pow(2).mean())
    x = held_out + LEVEL * torch.randn(held_out.shape, generator=generator)
    result["drift"] = consistency.statistic(
        net, x, LEVEL, 0.2, paths=12, num_steps=12, generator=generator
    )[0]
    return result


@pytest.fixture(scope="module")
def pairs() -> list[tuple[dict[str, float], dict[str, float]]]:
    """Of each seed the figures without the term and with it."""
    clean, held_out = digits()
    return [
        (
            figures(train(clean, seed, strength=0.0), held_out),
            figures(train(clean, seed, strength=0.3), held_out),
        )
        for seed in SEEDS
    ]


def test_with_the_term_the_denoiser_drifts_less(pairs) -> None:
    assert all(ours["drift"] < plain["drift"] for plain, ours in pairs)
    assert all(ours["mse@1.0"] < 1.1 * plain["mse@1.0"] for plain, ours in pairs)


def test_with_the_term_digits_are_denoised_better_below_their_noise(pairs) -> None:
    for level in ("mse@0.2", "mse@0.4"):
        assert all(ours[level] < plain[level] for plain, ours in pairs)
