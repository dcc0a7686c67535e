"""Denoisers known in closed form, Gaussians and mixtures, to compare the others with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Gaussian:
    """x0 ~ N(mean, covariance), in `dim` numbers."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(number, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + (noise * self.values.clamp(min=0).sqrt()) @ self.vectors.T

    def __call__(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """E[x0 | A x, A] of rows x = A (x0 + sigma e); without a mask A is 1."""
        if mask is None:
            share = self.values / (self.values + sigma.reshape(-1, 1) ** 2)
            return self.mean + ((x - self.mean) @ self.vectors * share) @ self.vectors.T
        seen = mask.expand_as(x)
        inner = seen[:, :, None] * self.covariance * seen[:, None, :]
        # Hidden rows get a 1 on the diagonal: the system stays regular, their right side is 0.
        inner = inner + torch.diag_embed(torch.where(seen > 0, sigma.reshape(-1, 1) ** 2, 1.0))
        solved = torch.linalg.solve(inner, (seen * (x - self.mean))[:, :, None])
        return self.mean + (self.covariance @ (seen[:, :, None] * solved))[:, :, 0]

    def posterior(self, a: Tensor, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Mean (rows, dim) and covariance of x0 given y = A x0 + noise e."""
        gain = self.covariance @ a.T
        inner = a @ gain + noise**2 * torch.eye(len(a), dtype=a.dtype)
        factor = torch.linalg.solve(inner, gain.T).T
        mean = self.mean + (y - self.mean @ a.T) @ factor.T
        return mean, self.covariance - factor @ gain.T


class Mixture:
    """Equal parts N(means[k], tau^2 1)."""

    def __init__(self, means: Tensor, tau: float) -> None:
        self.means, self.tau = means, tau

    @classmethod
    def ring(cls, modes: int, tau: float, dtype: torch.dtype = torch.float64) -> Mixture:
        """Modes at equal angles on the unit circle."""
        angles = 2 * math.pi * torch.arange(modes, dtype=dtype) / modes
        return cls(torch.stack([angles.cos(), angles.sin()], 1), tau)

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        which = torch.randint(len(self.means), (number,), generator=generator)
        shape = (number, self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=self.means.dtype)
        return self.means[which] + self.tau * noise

    def __call__(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        """E[x0 | x] of rows x = x0 + sigma e; there are no masks."""
        return self.scaled(x, torch.ones_like(sigma), sigma)

    def scaled(self, x: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] of rows x = a x0 + sigma e."""
        a, noise = a.reshape(-1, 1), sigma.reshape(-1, 1) ** 2
        variance = a**2 * self.tau**2 + noise
        gaps = x[:, None, :] - a[:, :, None] * self.means
        part = torch.softmax(-(gaps**2).sum(2) / (2 * variance), 1)
        share = (a * self.tau**2 / variance)[:, :, None]
        return (part[:, :, None] * (self.means + share * gaps)).sum(1)


def energy_distance(first: Tensor, second: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, 0 for equal laws (Székely and Rizzo 2013)."""

    def inner(rows: Tensor) -> Tensor:
        return torch.cdist(rows, rows).sum() / (len(rows) * (len(rows) - 1))

    return float(2 * torch.cdist(first, second).mean() - inner(first) - inner(second))


def exact_samples(
    prior: Gaussian, a: Tensor, y: Tensor, noise: float, *, number: int, generator: torch.Generator
) -> Tensor:
    """Draws of x0 given each row of y, (number, rows, dim)."""
    mean, covariance = prior.posterior(a, y, noise)
    values, vectors = torch.linalg.eigh(covariance)
    draws = torch.randn(number, *mean.shape, generator=generator, dtype=mean.dtype)
    return mean + (draws * values.clamp(min=0).sqrt()) @ vectors.T
