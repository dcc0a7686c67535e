"""Deterministic samplers for any forward process, and the order at which they converge.

Forward process dx = f(x, t) dt + g(t) dW. One step from t to t - h by *restoration and degradation*
(Chen, Daras and Dimakis 2023, arXiv 2303.03384) goes back by l >= h:

    restored x_r = x - l f(x, t) + l g^2 score(x, t),
    then forward from x_r by l - h with the noise that leads back to the iterate,
    n = x - x_r - l f:     x' = x_r + (l - h) f + sqrt(1 - h / l) n.

1 - sqrt(1 - h/l) is about h / (2 l), so this is the probability-flow step x - h f + (h/2) g^2
score up to O(h^2 / l). It needs no closed form of the process; DDIM does (it is l = t with the
kernel of a linear process).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Process:
    """A forward process: drift f(x, t), diffusion g(t), and score(x, t) of its distribution."""

    drift: Field
    diffusion: Callable[[float], float]
    score: Field

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """dx/dt of the probability flow."""
        return self.drift(x, t) - self.diffusion(t) ** 2 / 2 * self.score(x, t)


def ornstein_uhlenbeck(denoise_scaled: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Process:
    """dx = -x dt + sqrt(2) dW, where x_t = a x0 + s e with a = exp(-t), s^2 = 1 - a^2.

    `denoise_scaled(x, a, s)` estimates x0 from rows x_t, with one a and one s per row.
    """

    def score(x: Tensor, t: float) -> Tensor:
        a = math.exp(-t)
        level = x.new_full((len(x),), math.sqrt(1 - a * a))
        estimate = denoise_scaled(x, x.new_full((len(x),), a), level)
        return (a * estimate - x) / (1 - a * a)

    return Process(lambda x, t: -x, lambda t: math.sqrt(2.0), score)


def quadratic(high: float, low: float, num_steps: int) -> list[float]:
    """Times from `high` to `low`, denser at the end."""
    roots = torch.linspace(math.sqrt(high), math.sqrt(low), num_steps + 1, dtype=torch.float64)
    return (roots**2).tolist()


def euler(process: Process, x: Tensor, times: Sequence[float]) -> Tensor:
    """The probability flow, first order."""
    for here, after in itertools.pairwise(times):
        x = x + (after - here) * process.velocity(x, here)
    return x


def heun(process: Process, x: Tensor, times: Sequence[float]) -> Tensor:
    """The probability flow, second order."""
    for here, after in itertools.pairwise(times):
        first = process.velocity(x, here)
        second = process.velocity(x + (after - here) * first, after)
        x = x + (after - here) / 2 * (first + second)
    return x


def ddim(process: Process, x: Tensor, times: Sequence[float]) -> Tensor:
    """DDIM (Song et al. 2021) for the Ornstein-Uhlenbeck process only: it uses that kernel."""
    for here, after in itertools.pairwise(times):
        (a, s), (b, r) = (_kernel(t) for t in (here, after))
        noise = -s * process.score(x, here)
        x = b * (x - s * noise) / a + r * noise
    return x


def _kernel(t: float) -> tuple[float, float]:
    return math.exp(-t), math.sqrt(1 - math.exp(-2 * t))


def restore_degrade(
    process: Process,
    x: Tensor,
    times: Sequence[float],
    *,
    look_back: float = 0.2,
    factor: Callable[[float], float] = math.sqrt,
    fresh: torch.Generator | None = None,
) -> Tensor:
    """Restoration and degradation; `look_back` is l, clamped between the step and the time.

    `factor` and `fresh` demonstrate what goes wrong otherwise: a linear factor integrates a
    different drift; fresh noise samples the right distribution, but does not converge to a path.
    """
    for here, after in itertools.pairwise(times):
        step = here - after
        back = min(max(look_back, step), here)
        drift, g = process.drift(x, here), process.diffusion(here)
        restored = x - back * drift + back * g**2 * process.score(x, here)
        noise = x - restored - back * drift
        if fresh is not None:
            noise = math.sqrt(back) * g * torch.randn(x.shape, generator=fresh, dtype=x.dtype)
        x = restored + (back - step) * drift + factor(1 - step / back) * noise
    return x


def order(
    sampler: Callable[[Process, Tensor, Sequence[float]], Tensor],
    process: Process,
    start: Tensor,
    reference: Tensor,
    *,
    grid: Callable[[int], list[float]],
    steps: Sequence[int],
) -> tuple[float, list[float]]:
    """Slope of log error over log steps (near -p for order p), and the RMS errors per step count.

    Errors are differences at the endpoint from `reference`; `grid(n)` gives the times of n steps.
    """
    errors = [
        float((sampler(process, start, grid(n)) - reference).pow(2).mean().sqrt()) for n in steps
    ]
    x = torch.tensor(list(steps), dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum()), errors
