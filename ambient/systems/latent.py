"""PSLD: restoration with a latent diffusion model. (Rout et al. 2023, arXiv 2307.00619)

The prior lives on codes z with an encoder E and a decoder Dec. Guiding the decoded estimate to the
measurement alone (latent-DPS) does not say which of many codes is meant. PSLD adds a second pull:
the code should be the encoding of the image that agrees with the measurement where there is one and
with the decoded estimate elsewhere,

    z' = z_next - eta grad |y - A Dec(z0)|^2 - gamma grad |z0 - E(A^T y + (1 - A^T A) Dec(z0))|^2.

A^T must be the adjoint, with A A^T = 1. `latent_model` wraps the autoencoder and U-Net of a
diffusers pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evals.images.posterior import Operator

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LatentModel:
    """An autoencoder and the noise estimate of a diffusion model over its codes.

    `noise(z, k)` estimates the noise of codes at position k of `alphas`, the products alpha-bar,
    which rise from nearly 0 to nearly 1 in the order of sampling.
    """

    encode: Map
    decode: Map
    noise: Callable[[Tensor, int], Tensor]
    alphas: Tensor


def restore(
    model: LatentModel,
    operator: Operator,
    y: Tensor,
    start: Tensor,
    *,
    eta: float,
    gamma: float,
    normalised: bool = False,
) -> Tensor:
    """Codes by DDIM with both pulls; `gamma=0` is latent-DPS, both 0 are unguided samples.

    A squared loss diverges when eta times the squared norm of A Dec is large: scale eta by it.
    `normalised` takes gradients of the norms instead, as the paper's experiments do.
    """
    z = start
    last = len(model.alphas) - 1
    for k in range(last):
        alpha, after = model.alphas[k], model.alphas[k + 1]
        z = z.detach().requires_grad_(bool(eta or gamma))
        noise = model.noise(z, k)
        clean = (z - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        moved = after.sqrt() * clean + (1 - after).sqrt() * noise
        if eta or gamma:
            pull = eta * _size(y - operator(model.decode(clean)), normalised)
            if gamma:
                image = model.decode(clean)
                glued = operator.adjoint(y) + image - operator.adjoint(operator(image))
                pull = pull + gamma * _size(clean - model.encode(glued), normalised)
            (gradient,) = torch.autograd.grad(pull.sum(), z)
            moved = moved - gradient
        z = moved.detach()
    return z


def _size(residual: Tensor, normalised: bool) -> Tensor:
    squares = residual.flatten(1).pow(2).sum(1)
    return squares.clamp(min=1e-24).sqrt() if normalised else squares


def ddim_alphas(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """alpha-bar along DDIM with linear betas of 1,000 steps; ends at 1."""
    bars = torch.cumprod(1 - torch.linspace(first, last, 1000, dtype=torch.float64), 0)
    picked = torch.linspace(999, 0, num_steps).round().long()
    return torch.cat([bars[picked], bars.new_ones(1)])


def latent_model(
    vae: Any, unet: Any, scheduler: Any, *, prompt: Tensor, num_steps: int
) -> LatentModel:
    """The parts of a diffusers latent pipeline (`vae`, `unet`, `scheduler`) as a LatentModel.

    The mode of the encoder is taken, not a sample, and codes carry the autoencoder's scale both
    ways. The pipeline's own call runs without gradients, so its loop cannot be used.
    """
    scheduler.set_timesteps(num_steps)
    times = scheduler.timesteps
    scale = vae.config.scaling_factor
    bars = scheduler.alphas_cumprod[times]
    alphas = torch.cat([bars, bars.new_ones(1)])
    for module in (vae, unet):
        module.requires_grad_(False)

    def noise(z: Tensor, k: int) -> Tensor:
        context = prompt.expand(len(z), -1, -1)
        return unet(z, times[k], encoder_hidden_states=context).sample

    return LatentModel(
        encode=lambda image: vae.encode(image).latent_dist.mode() * scale,
        decode=lambda z: vae.decode(z / scale).sample,
        noise=noise,
        alphas=alphas,
    )
