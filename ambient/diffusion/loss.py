"""One loss for images of any noise level and any mask.

A row of the pool is y = A (x0 + c e): the clean image x0 with noise of level c, seen only where the
mask A is 1. In training

    x = A~ (y + sqrt(sigma^2 - c^2) e'),      A~ = A B, B hides each pixel with probability delta,
    q = (1 - (c / sigma)^2) D(x, sigma, A~) + (c / sigma)^2 x     where A~ is 1,  q = D elsewhere,
    loss = w(sigma) |A (q - y)|^2.

q estimates the image at level c instead of at level 0, which is what y shows (Daras et al. 2024,
"How Much is a Noisy Image Worth?", for the noise). Pixels that B hid are part of the loss, so the
denoiser learns to fill pixels in although no row shows a whole image (Daras et al. 2023, "Ambient
Diffusion", for the mask). c = 0 with A = 1 is the loss of Karras et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ambient.diffusion.edm import LOG_MEAN, LOG_STD, Preconditioned, draw_sigma, spread


@dataclass(frozen=True)
class Rows:
    """A batch: images (n, c, h, w), their levels, bounds and masks; masks are 1 at seen pixels."""

    images: Tensor
    level: Tensor
    sigma_min: Tensor
    mask: Tensor | None = None
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Draw:
    """The input of the denoiser: x, its level (n,), and the mask of pixels it may see."""

    x: Tensor
    sigma: Tensor
    seen: Tensor | None


def draw(
    rows: Rows,
    *,
    generator: torch.Generator | None = None,
    delta: float = 0.1,
    log_mean: float = LOG_MEAN,
    log_std: float = LOG_STD,
    sigma: Tensor | None = None,
) -> Draw:
    """Add noise up to a level that each row may teach, and hide more of masked rows.

    The levels are drawn here, above each row's own bounds, unless `sigma` gives them.
    """
    like = rows.images
    if sigma is None:
        lower = torch.maximum(rows.level, rows.sigma_min)
        sigma = draw_sigma(lower, generator=generator, log_mean=log_mean, log_std=log_std)
    noise = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    extra = (sigma**2 - rows.level**2).clamp(min=0).sqrt()
    x = like + spread(extra, like) * noise
    if rows.mask is None:
        return Draw(x, sigma, None)
    kept = torch.rand(rows.mask.shape, generator=generator, device=like.device) >= delta
    # A row that is whole stays whole: it has nothing hidden that it could teach to fill in.
    whole = rows.mask.flatten(1).amin(1) > 0
    seen = rows.mask * torch.maximum(kept.to(like.dtype), spread(whole.to(like.dtype), like))
    return Draw(x * seen, sigma, seen)


def losses(denoiser: Preconditioned, rows: Rows, drawn: Draw) -> Tensor:
    """The loss of each row, (rows,): seen pixels have equal weight, so a masked row counts less."""
    estimate = denoiser(drawn.x, drawn.sigma, drawn.seen)
    ratio = spread((rows.level / drawn.sigma) ** 2, rows.images)
    target = (1 - ratio) * estimate + ratio * drawn.x
    weight = denoiser.weight(drawn.sigma, rows.images, drawn.seen)
    if rows.mask is None:
        return (weight * (target - rows.images) ** 2).flatten(1).mean(1)
    assert drawn.seen is not None
    seen = drawn.seen.expand_as(rows.images)
    target = torch.where(seen > 0, target, estimate)
    errors = weight * rows.mask * (target - rows.images) ** 2
    return errors.flatten(1).mean(1)
