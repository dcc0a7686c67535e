"""The lowest noise level at which an image of unknown corruption is used for training.

Ambient Omni (Daras et al. 2025, arXiv 2506.10038). Noise hides differences: above some level a
noised blurred image looks like a noised clean one. A classifier that is given the level learns to
separate noised clean images from noised other images. The sigma_min of an image is the level from
which on it is classified as clean (probability at least `threshold`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ambient.diffusion.edm import Mlp, draw_sigma, spread

THRESHOLD = 0.45  # the paper's; batches are balanced, so 0.5 means indistinguishable


def train_classifier(
    clean: Tensor,
    other: Tensor,
    *,
    num_steps: int = 800,
    batch: int = 256,
    width: int = 32,
    weight_decay: float = 0.3,
    generator: torch.Generator,
) -> nn.Module:
    """Train a network that returns the logit of a noised image being one of `other`.

    Each batch has `batch` images of either set. A network that memorised its few clean images would
    reject every other clean image, so it is small, with weight decay and random shifts of one
    pixel. Levels follow the distribution of training, widened at both ends.
    """
    net = Mlp(clean[0].numel(), out=1, width=width, layers=2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=weight_decay)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    labels = torch.cat([torch.zeros(batch), torch.ones(batch)])
    for _ in range(num_steps):
        rows = [
            images[torch.randint(len(images), (batch,), generator=generator)]
            for images in (clean, other)
        ]
        x = _shifted(torch.cat(rows), generator)
        sigma = draw_sigma(x.new_zeros(len(x)), generator=generator, log_std=1.5)
        logits = _logits(net, x, sigma, generator)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        decay.step()
    return net.eval()


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    if x.ndim < 4:
        return x
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _logits(net: nn.Module, x: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    level = spread(sigma, x)
    noised = (x + level * noise) / (level**2 + 0.25).sqrt()
    return net(noised.flatten(1), sigma.log() / 4)[:, 0]


@torch.no_grad()
def sigma_mins(
    net: nn.Module,
    images: Tensor,
    levels: Tensor,
    *,
    threshold: float = THRESHOLD,
    draws: int = 16,
    generator: torch.Generator,
) -> Tensor:
    """The lowest of the rising `levels` from which on each image passes for clean, (images,).

    Probabilities are means over noise draws. An image that does not pass at the highest level gets
    infinity.
    """
    passes = []
    for level in levels.tolist():
        probability = torch.zeros(len(images))
        for _ in range(draws):
            sigma = images.new_full((len(images),), level)
            probability += torch.sigmoid(_logits(net, images, sigma, generator))
        passes.append(1 - probability / draws >= threshold)
    table = torch.stack(passes, 1)
    onwards = table.flip(1).cummin(1).values.flip(1)
    first = onwards.float().argmax(1)
    return torch.where(onwards.any(1), levels[first], torch.inf)
