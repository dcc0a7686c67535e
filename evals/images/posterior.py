"""Restoration: images from measurements y = A x0 + noise, with a denoiser as the prior.

Diffusion posterior sampling (DPS, Chung et al. 2023) follows the sampler's path and at every level
steps against the gradient of |y - A D(x)|. A-DPS (Daras et al. 2024, arXiv 2403.08728) does the
same with a denoiser trained only on corrupted images: one mask is drawn from the training
corruption, and D is given the masked iterate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evals.images.sampling import Denoiser


class Operator(Protocol):
    """A linear map of images to measurements, and its adjoint."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def adjoint(self, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Matrix:
    """y = A x for rows x."""

    a: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.a.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.a


@dataclass(frozen=True)
class Pixels:
    """Inpainting: the pixels where the mask is 1."""

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.mask

    adjoint = __call__


@dataclass(frozen=True)
class Downsample:
    """Super-resolution: means of blocks of `factor` x `factor` pixels, images (n, c, h, w).

    Scaled by `factor`, so that A A^T = 1 and the adjoint is the projection's right half.
    """

    factor: int

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, self.factor) * self.factor

    def adjoint(self, y: Tensor) -> Tensor:
        rows = y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
        return rows / self.factor


@dataclass(frozen=True)
class Fourier:
    """Columns of the centred Fourier transform of images (n, coils or 1, h, w), as in MRI.

    `lines` (w,) is 1 for a measured column. With `coils` (c, h, w, complex) every coil measures the
    image times its sensitivity. Measurements are complex; the adjoint returns the real part if
    `real` is set.
    """

    lines: Tensor
    coils: Tensor | None = None
    real: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        seen = x if self.coils is None else x * self.coils
        return self.lines * _transform(seen.to(torch.complex128), torch.fft.fft2)

    def adjoint(self, y: Tensor) -> Tensor:
        image = _transform(self.lines * y, torch.fft.ifft2)
        if self.coils is not None:
            image = (image * self.coils.conj()).sum(1, keepdim=True)
        return image.real if self.real else image


def _transform(x: Tensor, transform: Callable[..., Tensor]) -> Tensor:
    shifted = transform(torch.fft.ifftshift(x, dim=(-2, -1)), norm="ortho")
    return torch.fft.fftshift(shifted, dim=(-2, -1))


def line_mask(width: int, acceleration: int, *, centre: int, generator: torch.Generator) -> Tensor:
    """Which columns are measured, (width,) of 0 and 1: `centre` low frequencies and random others.

    About width / `acceleration` columns in all.
    """
    mask = torch.zeros(width, dtype=torch.float64)
    low = width // 2 - centre // 2  # the lowest frequency is at width // 2
    mask[low : low + centre] = 1
    rest = torch.nonzero(mask == 0)[:, 0]
    more = max(0, round(width / acceleration) - centre)
    mask[rest[torch.randperm(len(rest), generator=generator)[:more]]] = 1
    return mask


def sample(
    denoise: Denoiser,
    operator: Operator,
    y: Tensor,
    start: Tensor,
    sigmas: Tensor,
    *,
    zeta: float,
    mask: Tensor | None = None,
) -> Tensor:
    """DPS, or with a training mask A-DPS: one sample per row of `start` (noise of level sigmas[0]).

    The guidance step is zeta / |r| times the gradient of |r|^2, r = y - A D. Its length does not
    vanish with r, so the best zeta depends on the prior and must be reported.
    """
    x = start
    for here, after in itertools.pairwise(sigmas):
        x = x.detach().requires_grad_()
        levels = here.to(x.dtype).expand(len(x))
        seen = x if mask is None else x * mask
        estimate = denoise(seen, levels, mask)
        residual = (y - operator(estimate)).flatten(1)
        norms = residual.abs().pow(2).sum(1)
        (gradient,) = torch.autograd.grad(norms.sum(), x)
        step = zeta / norms.sqrt().clamp(min=1e-12)
        with torch.no_grad():
            moved = x + (after - here).to(x.dtype) * (x - estimate) / here.to(x.dtype)
            x = moved - step.reshape(-1, *(1,) * (x.ndim - 1)) * gradient
    return x.detach()


def nrmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """|estimate - truth| / |truth| of each row."""
    gap = (estimate - truth).flatten(1).norm(dim=1)
    return gap / truth.flatten(1).norm(dim=1)
