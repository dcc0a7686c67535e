"""Pseudo-words at several resolutions: one embedding per band of noise levels.

Multiresolution textual inversion (Daras and Dimakis 2022, arXiv 2211.17115): a frozen conditional
model gets a learned condition v_k that depends on the band k of the time t in [0, 1] (1 is pure
noise). Bands near 1 set outline and colour, bands near 0 detail. Sampling at resolution i:

    semi   v_k above band i, no condition below
    full   v_max(k, i)
    fixed  v_i throughout

`step_callback` gives the same look-up to a diffusers text-to-image pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

NUM_WORDS = 10  # bands of the noise level, as in the paper

Conditional = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noise estimate of x_t at times t (rows,) under conditions (rows, dim)."""


def band(t: Tensor, num_words: int = NUM_WORDS) -> Tensor:
    """The index of the word for each time in [0, 1]."""
    return (t * num_words).floor().long().clamp(0, num_words - 1)


def chosen(
    words: Tensor, t: Tensor, *, resolution: float, how: Literal["semi", "full", "fixed"]
) -> Tensor:
    """The condition at each time, (times, dim); no condition is the zero vector."""
    num_words = len(words)
    least = band(torch.tensor(resolution), num_words)
    bands = band(t, num_words)
    if how == "fixed":
        return words[least].expand(len(t), -1)
    if how == "full":
        return words[torch.maximum(bands, least)]
    return words[bands] * (bands >= least).to(words.dtype)[:, None]


def learn(
    model: Conditional,
    images: Tensor,
    *,
    dim: int,
    noised: Callable[[Tensor, Tensor, Tensor], Tensor],
    num_steps: int = 250,
    batch: int = 64,
    learning_rate: float = 5e-2,
    num_words: int = NUM_WORDS,
    generator: torch.Generator,
) -> Tensor:
    """Train the words of a concept shown by a few images, (num_words, dim); the model is frozen.

    `noised(images, t, noise)` is the model's forward process. There is no weight decay, because it
    would change the words of bands that a batch did not draw.
    """
    words = nn.Parameter(torch.zeros(num_words, dim))
    optimizer = torch.optim.Adam([words], lr=learning_rate)
    for _ in range(num_steps):
        rows = images[torch.randint(len(images), (batch,), generator=generator)]
        t = torch.rand(batch, generator=generator)
        noise = torch.randn(rows.shape, generator=generator)
        estimate = model(noised(rows, t, noise), t, words[band(t, num_words)])
        loss = (estimate - noise).pow(2).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return words.detach()


def step_callback(
    embeddings: Tensor,
    *,
    num_train_timesteps: int,
    resolution: float,
    how: Literal["full", "fixed"],
) -> Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]:
    """A `callback_on_step_end` of a diffusers pipeline: sets the prompt embedding of the next step.

    `embeddings` (words, 1, tokens, dim) are the prompt with each pseudo-word. Pass
    `callback_on_step_end_tensor_inputs=["prompt_embeds"]`. With classifier-free guidance the first
    half of `prompt_embeds` is the empty prompt, which is not changed.
    """

    def callback(
        pipe: Any, step: int, timestep: Any, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        times = pipe.scheduler.timesteps
        next_time = times[min(step + 1, len(times) - 1)]
        t = (next_time.float() / num_train_timesteps).reshape(1)
        words = chosen(
            embeddings.flatten(1), t.to(embeddings.device), resolution=resolution, how=how
        )
        word = words.reshape(embeddings.shape[1:])
        old = inputs["prompt_embeds"]
        half = len(old) // 2 if pipe.do_classifier_free_guidance else 0
        new = word.expand(len(old) - half, -1, -1)
        return {"prompt_embeds": torch.cat([old[:half], new.to(old.dtype)])}

    return callback
