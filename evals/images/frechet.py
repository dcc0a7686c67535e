"""The distance between two sets of images in features, and their nearest neighbours.

Frechet distance (Dowson and Landau 1982; Heusel et al. 2017): |m1 - m2|^2 + tr(S1 + S2 - 2 (S1
S2)^(1/2)) of means and covariances. The network that computes features is part of the evaluation
data; distances in different features cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
BLOCK = 1024  # rows of a distance matrix at a time


def moments(features: Floats) -> tuple[Floats, Floats]:
    """Mean (dim,) and covariance (dim, dim) of rows (n, dim), in float64."""
    rows = np.asarray(features, np.float64)
    return rows.mean(0), np.cov(rows, rowvar=False)


def frechet(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> float:
    """The distance between two normal distributions, each given by mean and covariance.

    tr (S1 S2)^(1/2) is the sum of the square roots of the eigenvalues of R S2 R with R = S1^(1/2),
    which is symmetric: no complex numbers arise.
    """
    (mean, covariance), (other, others) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ others @ root)
    cross = np.sqrt(inner.clip(min=0)).sum()
    gap = mean - other
    return float(gap @ gap + np.trace(covariance) + np.trace(others) - 2 * cross)


def mlp_features(layers: Mapping[str, Floats], images: Floats) -> Floats:
    """The last hidden layer of a ReLU network over flat images: weight0, bias0, weight1, ..."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    number = 0
    while f"weight{number}" in layers:
        rows = np.maximum(rows @ layers[f"weight{number}"] + layers[f"bias{number}"], 0)
        number += 1
    return rows


def nearest(images: Floats, blocks: Iterable[Floats], *, skip_self: bool = False) -> Floats:
    """Euclidean distance of each image to the nearest image of all blocks, (images,).

    With `skip_self` the blocks must be `images` in order, and an image is not its own neighbour.
    """
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    squares = (rows**2).sum(1)
    best = np.full(len(rows), np.inf)
    begin = 0
    for block in blocks:
        others = np.asarray(block, np.float64).reshape(len(block), -1)
        for start in range(0, len(others), BLOCK):
            part = others[start : start + BLOCK]
            gaps = squares[:, None] + (part**2).sum(1) - 2 * rows @ part.T
            if skip_self:
                own = np.arange(len(part))
                gaps[begin + start + own, own] = np.inf
            best = np.minimum(best, gaps.min(1))
        begin += len(others)
    return np.sqrt(best.clip(min=0))
