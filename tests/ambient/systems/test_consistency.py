"""The exact denoiser is a martingale; training with the term makes a noisy-only model one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ambient.diffusion.edm import Preconditioned
from ambient.systems import consistency
from ambient.systems.exact import Mixture, energy_distance

RING = Mixture.ring(8, 0.06)


def noised(sigma: float, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    clean = RING.draw(number, generator)
    return clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)


def drifting(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return RING(x, sigma) + 0.05 / (1 + sigma[:, None])


def misread(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return RING(x, 1.15 * sigma)


def constant(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    return torch.zeros_like(x)


def drift(denoise: consistency.Denoiser, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    x = noised(0.6, 1500, seed)
    return consistency.statistic(denoise, x, 0.6, 0.3, generator=generator)[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_exact_denoiser_does_not_drift_and_others_do(seed: int) -> None:
    assert abs(drift(RING, seed)) < 0.0012
    assert drift(drifting, seed) > 0.0013
    assert drift(misread, seed) > 0.0013


def test_a_constant_is_consistent_so_the_denoising_error_is_read_too() -> None:
    assert drift(constant, 1) == 0
    x = noised(0.3, 500, 1)
    sigma = torch.full((500,), 0.3, dtype=torch.float64)
    assert float((constant(x, sigma) - RING(x, sigma)).pow(2).mean()) > 0.1


# ---- training: a ring of which only noisy images are known

LEVEL, NUMBER = 0.3, 2000


def weight(sigma: Tensor) -> Tensor:
    return (sigma**2 + 0.49) / (0.7 * sigma) ** 2


class Plain(nn.Module):
    """Three GELU layers over a row of numbers and ln sigma.

    On the ring, of twelve networks (SiLU, GELU, ReLU, tanh; ln sigma, ln sigma / 4, Fourier
    features of it) the one whose errors without the term are nearest to the reference's. Others:
    docs/ambient.md.
    """

    def __init__(self, dim: int, *, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (dim + 1, width, width):
            layers += [nn.Linear(size, width), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        level = 4 * c_noise.reshape(-1, 1).to(x.dtype)
        return self.body(torch.cat([x, level.expand(len(x), 1)], 1))


def train(seed: int, *, strength: float, detach: str = "start", steps: int = 500) -> Preconditioned:
    """1,600 steps of the loss for noisy images, then `steps` more with or without the term."""
    generator = torch.Generator().manual_seed(seed)
    clean = RING.draw(NUMBER, generator).float()
    images = clean + LEVEL * torch.randn(clean.shape, generator=generator)
    torch.manual_seed(seed)
    net = Preconditioned(Plain(2), sigma_data=0.7)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(1600 + steps):
        late = step - 1600
        if late >= 0:
            rate = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * late / steps)) / 2
            optimizer.param_groups[0]["lr"] = rate
        loss = consistency.denoising_step(net, images, LEVEL, weight, rows=512, generator=generator)
        if late >= 0 and strength:
            warm = strength * min(1, 2 * late / steps)
            loss = loss + warm * consistency.penalty(
                net, images, LEVEL, weight, generator=generator, detach=detach
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def figures(net: Preconditioned, seed: int) -> dict[str, float]:
    result = {}
    for sigma in (0.05, 0.1, 0.4, 0.8):
        x = noised(sigma, 4000, seed + 50)
        levels = torch.full((4000,), sigma, dtype=torch.float64)
        with torch.no_grad():
            estimate = net(x.float(), levels.float()).double()
        result[f"mse@{sigma}"] = float((estimate - RING(x, levels)).pow(2).sum(1).mean())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        x = noised(0.3, 1000, seed + 60).float()
        result["drift"] = consistency.statistic(
            net, x, 0.3, 0.1, paths=12, num_steps=12, generator=generator
        )[0]
    return result


@pytest.fixture(scope="module")
def ratios() -> dict[str, float]:
    """Figures of training with the term over those without it, means over three seeds."""
    seeds = (1, 2, 3)
    plain, ours = (
        [figures(train(seed, strength=strength), seed) for seed in seeds] for strength in (0.0, 0.3)
    )
    return {
        name: sum(row[name] for row in ours) / sum(row[name] for row in plain) for name in plain[0]
    }


@pytest.mark.soak
@pytest.mark.parametrize(
    ("figure", "most"),
    [
        ("drift", 0.3),
        ("mse@0.1", 0.7),
        ("mse@0.05", 0.6),
        ("mse@0.8", 1.4),
    ],
)
def test_training_with_the_term_helps_below_the_noise(
    ratios: dict[str, float], figure: str, most: float
) -> None:
    assert ratios[figure] < most


@pytest.mark.soak
def test_a_detached_target_or_too_much_weight_spoils_the_model() -> None:
    plain = figures(train(1, strength=0.0), 1)
    detached = figures(train(1, strength=0.1, detach="target"), 1)
    heavy = figures(train(1, strength=10.0), 1)
    assert not detached["mse@0.1"] < 0.7 * plain["mse@0.1"]
    assert not heavy["mse@0.4"] < 2 * plain["mse@0.4"]


def test_energy_distance_of_one_law_is_near_zero() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = RING.draw(800, generator), RING.draw(800, generator)
    assert abs(energy_distance(first, second)) < 0.01
    assert energy_distance(first, second + 0.5) > 0.1
