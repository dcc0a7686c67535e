"""PSLD: restoration with a latent diffusion model. (Rout et al. 2023, arXiv 2307.00619)

The prior is a distribution of codes z with an encoder E and a decoder Dec. Guiding only the decoded
estimate to the measurement (latent-DPS) leaves the code underdetermined: many decode to nearly the
same image. PSLD adds a second gradient: the code should be the encoding of the image that agrees
with the measurement where something was measured and with the decoded estimate elsewhere,

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
    """Codes (rows, ...) sampled by DDIM from the noise `start` with both guidance terms.

    `gamma=0` is latent-DPS; with `eta=0` too, samples are unguided. The squared loss diverges when
    eta times the squared norm of A Dec is large: divide eta by that norm. `normalised` takes
    gradients of norms instead of squares, as the paper's experiments do.
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
            loss = eta * _size(y - operator(model.decode(clean)), normalised)
            if gamma:
                image = model.decode(clean)
                combined = operator.adjoint(y) + image - operator.adjoint(operator(image))
                loss = loss + gamma * _size(clean - model.encode(combined), normalised)
            (gradient,) = torch.autograd.grad(loss.sum(), z)
            moved = moved - gradient
        z = moved.detach()
    return z


def _size(residual: Tensor, normalised: bool) -> Tensor:
    squares = residual.flatten(1).pow(2).sum(1)
    return squares.clamp(min=1e-24).sqrt() if normalised else squares


def ddim_alphas(num_steps: int, *, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """alpha-bar at the steps of DDIM, rising to 1, (num_steps + 1,) float64.

    The betas rise linearly from `first` to `last` over 1,000 steps (Ho et al. 2020).
    """
    bars = torch.cumprod(1 - torch.linspace(first, last, 1000, dtype=torch.float64), 0)
    picked = torch.linspace(999, 0, num_steps).round().long()
    return torch.cat([bars[picked], bars.new_ones(1)])


def latent_model(
    vae: Any, unet: Any, scheduler: Any, *, prompt: Tensor, num_steps: int
) -> LatentModel:
    """The parts of a diffusers latent pipeline (`vae`, `unet`, `scheduler`) as a LatentModel.

    Encoding takes the mode, not a sample; codes are scaled by the autoencoder's `scaling_factor`.
    The pipeline's own call runs without gradients, so its loop cannot be used.
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
