"""Noise levels of training and preconditioning of diffusion models. (Karras et al. 2022, table 1)

A noisy image is x = x0 + sigma e. A denoiser D(x, sigma) estimates E[x0 | x]; the score of the
noisy distribution is (D - x) / sigma^2 (Tweedie's rule). Images are in [-1, 1].
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

LOG_MEAN, LOG_STD = -1.2, 1.2  # of ln sigma in training (Karras et al. 2022, table 1)
SIGMA_DATA = 0.5  # of images in [-1, 1] (Karras et al. 2022, table 1)
TINY = 1e-6  # below every level: used as "no lower bound" in logarithms


def spread(sigma: Tensor, like: Tensor) -> Tensor:
    """One number per row, reshaped to broadcast over the rows of `like`."""
    return sigma.reshape(-1, *(1,) * (like.ndim - 1))


def draw_sigma(
    lower: Tensor,
    *,
    generator: torch.Generator | None = None,
    log_mean: float = LOG_MEAN,
    log_std: float = LOG_STD,
) -> Tensor:
    """One noise level per row, from the log-normal distribution restricted to levels above `lower`.

    Restricted, not clamped: clamping puts most draws of a row at its own level, where
    1 - (level / sigma)^2 is 0 and the row teaches nothing.
    """
    draws = torch.rand(lower.shape, generator=generator, dtype=torch.float64, device=lower.device)
    low = torch.special.ndtr((lower.double().clamp(min=TINY).log() - log_mean) / log_std)
    quantile = (low + (1 - low) * draws).clamp(1e-12, 1 - 1e-12)
    sigma = torch.exp(log_mean + log_std * torch.special.ndtri(quantile)).to(lower.dtype)
    return torch.maximum(sigma, lower * (1 + 1e-3))  # float32 may round a draw down to the bound


class Preconditioned(nn.Module):
    """A denoiser around a network `net(inputs, c_noise)`.

    Seen pixels have the usual skip connection. A hidden pixel has no input to skip from, and at low
    noise the usual output scale is near 0, so it could not be filled in: hidden pixels get the
    network's output times `sigma_data` instead. With `masked` the network also sees the mask.
    """

    def __init__(
        self, net: nn.Module, *, sigma_data: float = SIGMA_DATA, masked: bool = False
    ) -> None:
        super().__init__()
        self.net, self.sigma_data, self.masked = net, sigma_data, masked

    def forward(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """E[x0 | x], with the shape of `x`; hidden pixels of `x` are ignored."""
        level = spread(sigma, x)
        total = (level**2 + self.sigma_data**2).sqrt()
        inputs = x / total
        if self.masked:
            seen = torch.ones_like(x) if mask is None else mask.expand_as(x)
            inputs = torch.cat([inputs * seen, seen], 1)
        out = self.net(inputs, sigma.log() / 4)
        skip, scale = (self.sigma_data / total) ** 2, level * self.sigma_data / total
        result = skip * x + scale * out
        if self.masked and mask is not None:
            result = torch.where(seen > 0, result, self.sigma_data * out)
        return result

    def weight(self, sigma: Tensor, like: Tensor, mask: Tensor | None = None) -> Tensor:
        """Loss weight that gives the network's output unit weight at every level and pixel."""
        level = spread(sigma, like)
        weight = (level**2 + self.sigma_data**2) / (level * self.sigma_data) ** 2
        if not self.masked or mask is None:
            return weight.expand_as(like)
        return torch.where(mask.expand_as(like) > 0, weight, 1 / self.sigma_data**2)


class Mlp(nn.Module):
    """A network for rows of numbers: SiLU layers over inputs and Fourier features of c_noise."""

    def __init__(
        self, dim: int, *, out: int | None = None, width: int = 256, layers: int = 3
    ) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(-2, 4))
        sizes = [dim + 2 * len(self.frequencies), *[width] * layers]
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            blocks += [nn.Linear(before, after), nn.SiLU()]
        self.body = nn.Sequential(*blocks, nn.Linear(width, out or dim))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        angles = c_noise.reshape(-1, 1) * self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], 1).expand(len(x), -1)
        return self.body(torch.cat([x, features.to(x.dtype)], 1))


class Average:
    """An exponential moving average of a module's parameters and buffers.

    `half_life` is in steps; at first the average moves faster, so that the random
    initial weights are forgotten (Karras et al. 2022, appendix F.2: ramp-up of 5 %).
    """

    def __init__(self, module: nn.Module, *, half_life: float) -> None:
        self.half_life = half_life
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average after optimizer step `step` (from 1)."""
        decay = 0.5 ** (1 / min(self.half_life, 0.05 * step + 1e-8))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.values[name].copy_(value)
