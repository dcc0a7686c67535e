"""The denoiser of a recipe: an MLP, or the U-Net of diffusers, inside the preconditioning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ambient.diffusion.edm import Mlp, Preconditioned
from ambient.recipe import Recipe


class Flat(nn.Module):
    """An MLP applied to flattened images (rows, channels, height, width)."""

    def __init__(self, recipe: Recipe, *, channels_in: int) -> None:
        super().__init__()
        pixels = recipe.resolution**2
        self.net = Mlp(
            channels_in * pixels,
            out=recipe.channels * pixels,
            width=recipe.network.width,
            layers=recipe.network.layers,
        )
        self.shape = (recipe.channels, recipe.resolution, recipe.resolution)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.net(x.flatten(1), c_noise).reshape(-1, *self.shape)


class UNet(nn.Module):
    """diffusers' U-Net (the architecture of Ho et al. 2020), conditioned on the log noise level."""

    def __init__(self, recipe: Recipe, *, channels_in: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        shape = recipe.network
        sides = [recipe.resolution >> n for n in range(len(shape.multipliers))]
        with_attention = [side in shape.attention for side in sides]
        channels = tuple(shape.width * factor for factor in shape.multipliers)
        net: Any = UNet2DModel
        self.net = net(
            sample_size=recipe.resolution,
            in_channels=channels_in,
            out_channels=recipe.channels,
            layers_per_block=shape.layers,
            block_out_channels=channels,
            down_block_types=tuple(
                "AttnDownBlock2D" if a else "DownBlock2D" for a in with_attention
            ),
            up_block_types=tuple(
                "AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(with_attention)
            ),
            dropout=shape.dropout,
            norm_num_groups=min(32, shape.width // 4),
            attention_head_dim=min(64, shape.width),
        )

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        # The sinusoidal embedding is made for times of 0 to 1000; ln(sigma) / 4 is within +-1.6.
        return self.net(x, 250 * (c_noise + 2)).sample  # type: ignore[no-any-return]


def build(recipe: Recipe, *, masked: bool) -> Preconditioned:
    """The initialised denoiser; with `masked` the mask of seen pixels is part of its input."""
    channels_in = recipe.channels * (2 if masked else 1)
    kind: Any = Flat if recipe.network.kind == "mlp" else UNet
    return Preconditioned(
        kind(recipe, channels_in=channels_in), sigma_data=recipe.sigma_data, masked=masked
    )


def num_params(module: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def device_of(name: str | None, *, local_rank: int = 0) -> torch.device:
    """The named device; else this process's GPU, or the CPU if there is none."""
    if name is not None:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")
