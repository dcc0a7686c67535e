"""Consistent models: a denoiser is a martingale along its own reverse process.

D(x, s) should be the mean of D(x', s') over reverse paths from (x, s) to s' that D itself draws
(Daras et al. 2023, arXiv 2302.09057). `statistic` measures how far a denoiser is from it;
`penalty` trains for it. A constant denoiser is perfectly consistent and useless: read the statistic
next to a denoising error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient.diffusion.edm import draw_sigma, spread
from evals.images.sampling import Denoiser


def bridge(
    denoise: Denoiser,
    x: Tensor,
    sigma: Tensor,
    after: Tensor,
    *,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """The end of one reverse path per row, at the levels `after`, in steps of equal ratio.

    A step takes the exact law of x' given x for x0 = D(x): mean D + r (x - D) and variance
    s'^2 (1 - r) with r = (s'/s)^2.
    """
    for k in range(num_steps):
        here = sigma * (after / sigma) ** (k / num_steps)
        there = sigma * (after / sigma) ** ((k + 1) / num_steps)
        estimate = denoise(x, here)
        ratio = spread((there / here) ** 2, x)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = estimate + ratio * (x - estimate) + spread(there, x) * (1 - ratio).sqrt() * noise
    return x


@torch.no_grad()
def statistic(
    denoise: Denoiser,
    x: Tensor,
    sigma: float,
    after: float,
    *,
    paths: int = 24,
    num_steps: int = 24,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Mean squared drift of D over the step from `sigma` to `after`, with its standard error.

    Unbiased: with M paths per row, |mean difference|^2 minus the variance of that mean.
    """
    levels = x.new_full((len(x) * paths,), sigma)
    many = x.repeat_interleave(paths, 0)
    ends = levels * 0 + after
    ended = bridge(denoise, many, levels, ends, num_steps=num_steps, generator=generator)
    change = denoise(ended, ends) - denoise(x, levels[: len(x)]).repeat_interleave(paths, 0)
    change = change.reshape(len(x), paths, -1)
    per_row = change.mean(1).pow(2).sum(1) - change.var(1).sum(1) / paths
    return float(per_row.mean()), float(per_row.std() / len(x) ** 0.5)


@dataclass(frozen=True)
class Term:
    """How the penalty is sampled. The defaults are for a model trained on noisy images only."""

    rows: int = 64
    low: float = 0.05
    high: float = 0.6
    max_step: float = 0.05
    smallest: float = 0.002
    bridge_steps: int = 4


def penalty(
    denoise: Denoiser,
    images: Tensor,
    level: float,
    weight: Callable[[Tensor], Tensor],
    *,
    generator: torch.Generator,
    term: Term = Term(),
    detach: str = "start",
) -> Tensor:
    """The loss term on images of noise level `level`; add it times a weight that warms up.

    Two independent reverse paths give an unbiased square. Its start is detached: the denoising loss
    anchors D only above `level`, so information must flow from high to low noise. Detaching the
    target (`detach="target"`) or neither (`"none"`) diverges.
    """
    draws = torch.rand(term.rows, generator=generator)
    ratio = term.high / term.low
    t = term.low * ratio**draws
    begin = t.clamp(min=level)
    rows = images[torch.randint(len(images), (term.rows,), generator=generator)]
    noise = torch.randn(rows.shape, generator=generator)
    x = rows + spread((begin**2 - level**2).clamp(min=0).sqrt(), rows) * noise
    with torch.no_grad():
        moved = bridge(denoise, x, begin, t, num_steps=term.bridge_steps, generator=generator)
        x = torch.where(spread(t, x) < level, moved, x)
        after = (t - term.max_step * torch.rand(term.rows, generator=generator)).clamp(
            min=term.smallest
        )
        ends = [bridge(denoise, x, t, after, num_steps=1, generator=generator) for _ in range(2)]
    start = denoise(x, t)
    first, second = (denoise(end, after) for end in ends)
    if detach == "start":
        start = start.detach()
    elif detach == "target":
        first, second = first.detach(), second.detach()
    product = ((first - start) * (second - start)).flatten(1).sum(1)
    return (weight(t) * product).mean()


def denoising_step(
    denoise: Denoiser,
    images: Tensor,
    level: float,
    weight: Callable[[Tensor], Tensor],
    *,
    rows: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss of noise levels above `level` on a random batch of `images`; a mean."""
    batch = images[torch.randint(len(images), (rows,), generator=generator)]
    sigma = draw_sigma(batch.new_full((rows,), level), generator=generator)
    noise = torch.randn(batch.shape, generator=generator)
    x = batch + spread((sigma**2 - level**2).sqrt(), batch) * noise
    part = spread((level / sigma) ** 2, batch)
    errors = ((1 - part) * denoise(x, sigma) + part * x - batch).pow(2).flatten(1).sum(1)
    return (weight(sigma) * errors).mean()
