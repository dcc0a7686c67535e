"""Denoisers in closed form, used by the null models of image generators."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evals.models import Floats


class GaussianDenoiser:
    """E[x0 | x] where x0 ~ N(mean, covariance) over all pixels; images (n, *shape)."""

    masked = False

    def __init__(self, images: Floats) -> None:
        flat = np.asarray(images, np.float64).reshape(len(images), -1)
        values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
        self._mean, self._vectors = torch.from_numpy(flat.mean(0)), torch.from_numpy(vectors)
        self._values = torch.from_numpy(values.clip(min=0))

    def __call__(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = x.flatten(1).double() - self._mean
        share = self._values / (self._values + sigma.double().reshape(-1, 1) ** 2)
        clean = self._mean + (rows @ self._vectors * share) @ self._vectors.T
        return clean.to(x.dtype).reshape(x.shape)


class MemoryDenoiser:
    """E[x0 | x] where x0 is one of the images with equal probability: a model that memorised."""

    masked = False

    def __init__(self, images: Floats) -> None:
        self._rows = torch.from_numpy(np.asarray(images, np.float64).reshape(len(images), -1))

    def __call__(self, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        gaps = torch.cdist(x.flatten(1).double(), self._rows) ** 2
        weights = torch.softmax(-gaps / (2 * sigma.double().reshape(-1, 1) ** 2), 1)
        return (weights @ self._rows).to(x.dtype).reshape(x.shape)
