"""Warped Diffusion: noise that moves with a video. (Daras et al. 2024, arXiv 2410.16152)

White noise cannot be warped, because interpolating it loses variance. A Gaussian process with a
squared-exponential kernel can be evaluated anywhere, so the noise of a frame is the same process at
the warped positions. An image model then draws frames that move with the flow, as far as it is
equivariant; guidance pulls its output towards the warped previous frame.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Flow = Callable[[Tensor], Tensor]
"""From positions (h, w, 2: row, column) of a frame to those of the same points one frame before."""

Frames = Callable[[Tensor, float], Tensor]
"""E[u0 | u] of frames (n, ..., h, w) at a level, under the correlated noise."""


def grid(height: int, width: int) -> Tensor:
    """Pixel positions, (height, width, 2) float64."""
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([rows, columns], -1)


@dataclass(frozen=True)
class Noise:
    """One draw of a Gaussian process by random Fourier features; call it at any positions.

    sqrt(2 / J) sum_j w_j cos(<z_j, p> + b_j) with z of variance 1 / length^2 has the covariance
    exp(-|p - q|^2 / (2 length^2)) (Rahimi and Recht 2007); few features would not be Gaussian.
    """

    weights: Tensor
    frequencies: Tensor
    phases: Tensor

    @classmethod
    def draw(cls, *, length: float, features: int, generator: torch.Generator) -> Noise:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        phases = 2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64)
        return cls(normal(features), normal(features, 2) / length, phases)

    def __call__(self, positions: Tensor) -> Tensor:
        angles = positions @ self.frequencies.T + self.phases
        return (angles.cos() @ self.weights) * math.sqrt(2 / len(self.weights))


def covariance(positions: Tensor, length: float) -> Tensor:
    """The kernel between all pairs of positions (n, 2)."""
    return torch.exp(-(torch.cdist(positions, positions) ** 2) / (2 * length**2))


def interpolate(image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear values of images (n, h, w) at positions (h', w', 2), and which are inside."""
    height, width = image.shape[-2:]
    size = positions.new_tensor([height - 1, width - 1])
    inside = ((positions >= 0) & (positions <= size)).all(-1)
    low = positions.clamp(min=torch.zeros(2, dtype=size.dtype), max=size).floor()
    low = torch.minimum(low, size - 1)
    part = (positions - low).clamp(0, 1)
    r, c = low[..., 0].long(), low[..., 1].long()
    up, left = part[..., 0], part[..., 1]
    top = image[..., r, c] * (1 - left) + image[..., r, c + 1] * left
    bottom = image[..., r + 1, c] * (1 - left) + image[..., r + 1, c + 1] * left
    return top * (1 - up) + bottom * up, inside


def rotation(height: int, width: int, *, degrees: float, shift: float) -> Flow:
    """A turn about the centre and a shift to the right, as positions of the frame before."""
    angle = math.radians(degrees)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )
    centre = torch.tensor([(height - 1) / 2, (width - 1) / 2], dtype=torch.float64)
    move = torch.tensor([0.0, shift], dtype=torch.float64)
    return lambda positions: (positions - centre) @ turn.T + centre + move


def warp_error(frame: Tensor, before: Tensor, flow: Flow) -> Tensor:
    """Mean squared difference of each frame (n, ..., h, w) and the one before, moved, inside."""
    moved, inside = interpolate(before, flow(grid(*frame.shape[-2:])))
    return ((frame - moved) ** 2)[..., inside].flatten(1).mean(1)


def clip(
    denoise: Frames | Sequence[Frames],
    flow: Flow | Sequence[Flow],
    noise: Sequence[Tensor],
    sigmas: Tensor,
    *,
    guidance: float = 0.0,
) -> list[Tensor]:
    """Frames of n clips by Euler's method, each from its own noise (n, ..., h, w) of level 1.

    `denoise` is one for each frame where frames are restored from measurements of their own, `flow`
    one for each frame after the first where they differ.

    With `guidance` every step of a later frame moves against the gradient of the warp error between
    the model's outputs at this level: guidance / sqrt(error of the clip) times it. Outputs are
    interpolated, never the iterate.
    """
    frames: list[Tensor] = []
    outputs: list[Tensor] = []  # of the frame before, one a level
    models = [denoise] * len(noise) if callable(denoise) else denoise
    flows = [flow] * (len(noise) - 1) if callable(flow) else flow
    for number, start in enumerate(noise):
        u, mine = start * sigmas[0], []
        for level, (here, after) in enumerate(itertools.pairwise(sigmas)):
            steered = bool(guidance) and number > 0
            u = u.detach().requires_grad_(steered)
            estimate = models[number](u, float(here))
            mine.append(estimate.detach())
            moved = u + (after - here) * (u - estimate) / here
            if steered:
                positions = flows[number - 1](grid(*u.shape[-2:]))
                target, inside = interpolate(outputs[level], positions)
                errors = (((estimate - target) ** 2) * inside).flatten(1).sum(1)
                (gradient,) = torch.autograd.grad(errors.sum(), u)
                step = guidance / errors.detach().sqrt().clamp(min=1e-12)
                moved = moved - step.reshape(-1, *(1,) * (u.ndim - 1)) * gradient
            u = moved.detach()
        frames.append(u)
        outputs = mine
    return frames
