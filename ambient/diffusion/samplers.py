"""Samplers: from noise to images, written once for every denoiser.

All follow dx/dsigma = (x - D(x, sigma)) / sigma from a high level down to 0. The starting noise of
sample k is drawn from a generator of its own, so an image does not depend on the batch it was in.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ambient.diffusion.edm import Denoiser, schedule


def noise_of(indices: Sequence[int], shape: Sequence[int], *, seed: int) -> Tensor:
    """Standard normal numbers by hash of seed and index, (indices, *shape) float32."""
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
    """The images of these indices by Heun's method, (indices, *shape), on the processor."""
    sigmas, made = schedule(num_steps), []
    for first in range(0, len(indices), batch):
        noise = noise_of(indices[first : first + batch], shape, seed=seed).to(device)
        made.append(heun(denoise, noise * sigmas[0].to(noise.dtype), sigmas.to(device)).cpu())
    return torch.cat(made)
