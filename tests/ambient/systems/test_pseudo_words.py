"""Ten words for one image on a small conditional denoiser of digits, trained here and frozen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ambient.diffusion.edm import Mlp
from ambient.systems import pseudo_words

CODE = 24
HELD_OUT = 1700  # the image that the words are learnt for; no other of its neighbours is left out
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Way = Literal["semi", "full", "fixed"]


def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    angle = (t * np.pi / 2)[:, None]
    return angle.cos() * x + angle.sin() * noise


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = Mlp(64 + CODE, out=64, width=256)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.mlp(torch.cat([x, condition], 1), 4 * t)


@cache
def world() -> tuple[Network, Tensor]:
    """The frozen denoiser of digits with their principal components as condition; the image."""
    images = torch.from_numpy(load_digits().data / 8 - 1).float()
    concept = images[HELD_OUT : HELD_OUT + 1]
    images = torch.cat([images[:HELD_OUT], images[HELD_OUT + 1 :]])
    mean = images.mean(0)
    _, _, axes = torch.linalg.svd(images - mean, full_matrices=False)
    codes = (images - mean) @ axes[:CODE].T
    codes = codes / codes.std(0)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    steps = 1500
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (256,), generator=generator)
        t = torch.rand(256, generator=generator)
        noise = torch.randn(256, 64, generator=generator)
        shown = codes[rows] * (torch.rand(256, 1, generator=generator) > 0.1)
        loss = (net(noised(images[rows], t, noise), t, shown) - noise).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    net.requires_grad_(False)
    return net, concept


@cache
def words() -> Tensor:
    net, concept = world()
    generator = torch.Generator().manual_seed(2)
    return pseudo_words.learn(net, concept, dim=CODE, noised=noised, generator=generator)


@torch.no_grad()
def drawn(words: Tensor, how: Way, resolution: float) -> Tensor:
    """64 samples, each from the same noise at every resolution."""
    net, _ = world()
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    grid = torch.linspace(1, 0, 41)
    for here, after in itertools.pairwise(grid):
        t = here.expand(64)
        said = pseudo_words.chosen(words, t, resolution=min(resolution, 0.999), how=how)
        if resolution == 1.0 and how == "semi":
            said = torch.zeros_like(said)
        noise = net(x, t, said)
        cosine = (here * np.pi / 2).cos().clamp(min=0.02)
        clean = ((x - (here * np.pi / 2).sin() * noise) / cosine).clamp(-1.5, 1.5)
        x = (after * np.pi / 2).cos() * clean + (after * np.pi / 2).sin() * noise
    return x


def distances(
    words: Tensor, how: Way, times: tuple[float, ...] = TIMES
) -> tuple[list[float], list[float]]:
    """Mean distance of 64 samples to the concept, whole and of 2 x 2 means, by resolution."""
    _, concept = world()
    whole, low = [], []
    for resolution in times:
        x = drawn(words, how, resolution)
        whole.append(float((x - concept).norm(dim=1).mean()))
        gap = (x - concept).reshape(-1, 1, 8, 8)
        low.append(float(nn.functional.avg_pool2d(gap, 4).flatten(1).pow(2).mean().sqrt()))
    return whole, low


def test_semi_and_full_drift_from_the_concept_with_the_resolution() -> None:
    """Up to .3, two standard errors of a difference of means over 64 samples; the rise is 2."""
    ways: tuple[Way, ...] = ("semi", "full")
    for how in ways:
        whole, _ = distances(words(), how)
        assert all(b > a - 0.3 for a, b in itertools.pairwise(whole)), whole
    semi, _ = distances(words(), "semi")
    assert semi[-1] > 1.5 * semi[0]


def test_full_loses_detail_and_keeps_the_outline() -> None:
    whole, low = distances(words(), "full")
    assert whole[4] > 1.15 * whole[0]
    assert low[4] / low[0] < whole[4] / whole[0] + 0.15


@pytest.mark.parametrize(
    "wrong", [lambda w: w.mean(0).expand(10, -1), lambda w: w[-1:].expand(10, -1)]
)
def test_one_shared_word_or_the_last_one_only_is_flat(wrong: Callable[[Tensor], Tensor]) -> None:
    whole, _ = distances(wrong(words()), "full")
    assert max(whole) < 1.02 * min(whole)


def test_the_word_of_a_time() -> None:
    table = torch.arange(10.0)[:, None]
    t = torch.tensor([0.05, 0.45, 0.95])

    def said(how: Way) -> list[float]:
        return pseudo_words.chosen(table, t, resolution=0.45, how=how)[:, 0].tolist()

    assert said("semi") == [0, 4, 9]
    assert said("full") == [4, 4, 9]
    assert said("fixed") == [4, 4, 4]


def test_a_diffusers_callback_gives_each_step_its_word() -> None:
    class Scheduler:
        timesteps = torch.tensor([950, 450, 50])

    class Pipe:
        scheduler = Scheduler()
        do_classifier_free_guidance = True

    table = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 2, 3)
    callback = pseudo_words.step_callback(
        table, num_train_timesteps=1000, resolution=0.0, how="full"
    )
    empty = torch.full((1, 2, 3), -1.0)
    inputs = {"prompt_embeds": torch.cat([empty, empty])}
    seen = []
    for step in range(2):
        result = callback(Pipe(), step, None, inputs)["prompt_embeds"]
        torch.testing.assert_close(result[:1], empty)
        seen.append(float(result[1, 0, 0]))
    assert seen == [4, 0]
