"""Samplers: from noise to images, for any denoiser.

All follow dx/dsigma = (x - D(x, sigma)) / sigma from a high level down to 0. The starting noise of
each sample has its own seed, so an image does not depend on the batch that it was drawn in.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # Karras et al. 2022, table 1


class Denoiser(Protocol):
    """Estimates the clean images; `sigma` has one level per row, `mask` 1 where a pixel is seen."""

    def __call__(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor: ...


def schedule(
    num_steps: int, *, low: float = SIGMA_MIN, high: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """`num_steps` levels from `high` down to `low`, then 0; shape (num_steps + 1,) float64."""
    if num_steps < 2:
        raise ValueError(f"a schedule of {num_steps} steps: at least 2 are needed")
    part = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
    levels = (high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def noise_of(indices: Sequence[int], shape: Sequence[int], *, seed: int) -> Tensor:
    """Standard normal numbers seeded by a hash of seed and index, (indices, *shape) float32."""
    rows = []
    for index in indices:
        state = hashlib.sha256(f"noise|{seed}|{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(state[:8], "big") >> 1)
        rows.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(rows)


def slope(denoise: Denoiser, x: Tensor, sigma: Tensor, mask: Tensor | None) -> Tensor:
    """dx/dsigma at one level for all rows."""
    levels = sigma.to(x.dtype).expand(len(x))
    return (x - denoise(x, levels, mask)) / sigma.to(x.dtype)


@torch.no_grad()
def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, mask: Tensor | None = None) -> Tensor:
    """First order; one evaluation a step."""
    for here, after in itertools.pairwise(sigmas):
        x = x + (after - here).to(x.dtype) * slope(denoise, x, here, mask)
    return x


@torch.no_grad()
def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, mask: Tensor | None = None) -> Tensor:
    """Second order; two evaluations a step, one for the last (Karras et al. 2022, algorithm 1)."""
    for here, after in itertools.pairwise(sigmas):
        step = (after - here).to(x.dtype)
        first = slope(denoise, x, here, mask)
        moved = x + step * first
        if after > 0:
            first = (first + slope(denoise, moved, after, mask)) / 2
        x = x + step * first
    return x


def generate(
    denoise: Denoiser,
    indices: Sequence[int],
    shape: Sequence[int],
    *,
    seed: int,
    num_steps: int = 18,
    batch: int = 256,
    device: str = "cpu",
) -> Tensor:
    """The images of these indices by Heun's method, (indices, *shape), on the CPU."""
    sigmas, made = schedule(num_steps), []
    for first in range(0, len(indices), batch):
        noise = noise_of(indices[first : first + batch], shape, seed=seed).to(device)
        made.append(heun(denoise, noise * sigmas[0].to(noise.dtype), sigmas.to(device)).cpu())
    return torch.cat(made)
