"""Null models of image generators, which have seen no images.

constant   grey for any noise
random     uniform noise in the held-out images' range; a denoiser that answers with noise
identity   a denoiser that returns its input
nan        NaN everywhere
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from evals.models import Floats, ModelError
from evals.nulls import IMAGE_GENERATOR_NULLS, NullModel
from evals.tasks import EvalError

Answer = Callable[[Tensor], Tensor]
ANSWERS: dict[str, Answer] = {
    "constant": lambda x: 0 * x,
    "random": lambda x: _noise(x),
    "identity": lambda x: x,
    "nan": lambda x: x * float("nan"),
}


class NullGenerator:
    """A null model with the protocol of image generators, for images of one shape."""

    def __init__(self, null: NullModel, shape: Sequence[int]) -> None:
        if null.kind not in IMAGE_GENERATOR_NULLS:
            known = ", ".join(IMAGE_GENERATOR_NULLS)
            raise EvalError(f"null model {null.kind!r} draws no images; choose one of {known}")
        self.kind, self.shape = null.kind, tuple(shape)
        self.id, self.settings = null.id, null.settings

    def denoiser(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return ANSWERS[self.kind](x)

    def sample(self, indices: Sequence[int], *, seed: int) -> Floats:
        if self.kind == "nan":
            return np.full((len(indices), *self.shape), np.nan, np.float32)
        if self.kind == "constant":
            return np.zeros((len(indices), *self.shape), np.float32)
        drawn = [np.random.default_rng([seed, i]).uniform(-1, 1, self.shape) for i in indices]
        return np.asarray(drawn, np.float32)

    def training_images(self) -> Iterable[Floats]:
        raise ModelError("a null model has no training images, so it cannot memorise any")


def _noise(x: Tensor) -> Tensor:
    """Noise seeded by a hash of each image; its gradient is 0."""
    contents = (row.detach().double().numpy().tobytes() for row in x)
    seeds = [int.from_bytes(hashlib.sha256(row).digest()[:8], "big") for row in contents]
    rows = [np.random.default_rng(seed).uniform(-1, 1, x.shape[1:]) for seed in seeds]
    return 0 * x + torch.from_numpy(np.stack(rows)).to(x.dtype)
