"""Grids of samples and restorations, as PNG files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ambient.eval_model import Generator
from evals.images import posterior, shown_images
from evals.images.sampling import noise_of, schedule
from pipelines.errors import DataError

Pixels = npt.NDArray[np.uint8]
NOISE = 0.02  # standard deviation added to measurements of images in [-1, 1]


def grid(images: npt.NDArray[Any], *, columns: int) -> Pixels:
    """Images in [-1, 1] as one, (rows x height, columns x width, 3), with lines between."""
    return shown_images.grid(shown_images.bytes_of(images), columns=columns)


def save(image: Pixels, path: Path, *, enlarge: int = 1) -> None:
    """Write a PNG, each pixel as a square of `enlarge` pixels."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.repeat(enlarge, 0).repeat(enlarge, 1)).save(path)


def sample_grid(
    model: Generator, *, number: int, columns: int, seed: int, nearest: bool = False
) -> Pixels:
    """Images of a model; with `nearest`, each row has the nearest training images below it."""
    images = model.sample(range(number), seed=seed)
    if not nearest:
        return grid(images, columns=columns)
    closest = shown_images.nearest_images(images, model.training_images())
    drawn, near = (list(shown_images.bytes_of(rows)) for rows in (images, closest))
    rows = shown_images.interleaved(drawn, near, columns=columns)
    return shown_images.grid(rows, columns=columns)


@dataclass(frozen=True)
class Restored:
    """A grid of truth, adjoint, one sample, mean; normalised errors by name."""

    image: Pixels
    errors: dict[str, float]


def restoration(
    model: Generator,
    data: Path,
    *,
    task: Literal["inpainting", "superresolution", "fourier"],
    acceleration: int,
    zeta: float,
    number: int,
    draws: int,
    seed: int,
) -> Restored:
    """Restore images of an .npz file by DPS. DataError where they do not fit the model."""
    with np.load(data, allow_pickle=False) as file:
        if "images" not in file:
            raise DataError(f"{data} has no array 'images'")
        images = np.asarray(file["images"][:number], np.float64)
    if images.shape[1:] != model.shape:
        raise DataError(
            f"{data} has images of {images.shape[1:]}, the model generates {model.shape}"
        )
    truth = torch.from_numpy(images)
    generator = torch.Generator().manual_seed(seed)
    operator = _operator(task, model.shape, acceleration, generator)
    clean = operator(truth)
    y = clean + NOISE * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    adjoint = operator.adjoint(y)
    sigmas = schedule(100, low=0.01, high=20.0)

    def denoise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        whole = torch.ones_like(x) if model.denoiser.masked else None
        clean: Tensor = model.denoiser(x.float(), sigma.float(), whole)
        return clean.to(x.dtype)

    samples = []
    for draw in range(draws):
        start = noise_of(range(len(truth)), model.shape, seed=seed + draw).to(truth.dtype)
        samples.append(posterior.sample(denoise, operator, y, start * sigmas[0], sigmas, zeta=zeta))
    mean = torch.stack(samples).mean(0)
    shown = {"zero-filled": adjoint, "one sample": samples[0], f"mean of {draws}": mean}
    errors = {name: float(posterior.nrmse(rows, truth).mean()) for name, rows in shown.items()}
    rows = torch.cat([truth, adjoint, samples[0], mean]).numpy()
    return Restored(grid(rows, columns=len(truth)), errors)


def _operator(
    task: str, shape: tuple[int, int, int], acceleration: int, generator: torch.Generator
) -> posterior.Operator:
    height, width = shape[1:]
    if task == "superresolution":
        return posterior.Downsample(2)
    if task == "inpainting":
        seen = torch.rand(height, width, generator=generator, dtype=torch.float64) > 0.5
        return posterior.Pixels(seen.double())
    centre = max(1, width // acceleration // 3)
    lines = posterior.line_mask(width, acceleration, centre=centre, generator=generator)
    return posterior.Fourier(lines)
