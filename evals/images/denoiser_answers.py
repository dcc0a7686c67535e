"""The answers of a denoiser to the tasks of `solving`: restored images, endpoints, clips."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evals.images import posterior, warp
from evals.images.frechet import nearest
from evals.images.sampling import heun, noise_of, schedule
from evals.models import Floats, ImageGenerator, ModelError
from evals.tasks import ClipTask, RestorationTask, SamplingTask
from pipelines.errors import DataError

AT_ONCE = 64
"""Images of one guided step, whose gradients are in memory together."""
LOW, HIGH = 0.01, 20.0
"""Noise levels of guided samplers; pixels are within [-1, 1]."""

UNAIDED_DIGITS = 4  # significant digits kept; machines differ in the last ones
ONE_IMAGE = 1e-4
"""Spread of pixels below which all images are one: a hundredth of a grey level."""
COLLAPSED = 0.5  # of the spread of held-out images: models that learn some images have more
NEARER = 0.05
"""Quantile of the distances of such images. At the tiny scale .47; 99 of 100 other digits are below
.46, images of models of clean digits at .29 on average, of noisy ones taken for clean at .49."""
EXCHANGED = 256  # held-out images whose pixels are exchanged

Distances = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[np.float64]]


def restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
    """Errors of the restored images (rows of `images`), and of what they are measured against."""
    parts = [
        _restored(task, images, rows[n : n + AT_ONCE], model) for n in range(0, len(rows), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def swapped(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> npt.NDArray[np.float64]:
    """The error of each image when the measurements of the next one are what was restored."""
    samples, truth, _ = _posterior(task, images, rows, model)
    return np.asarray(posterior.nrmse(samples.mean(0).roll(-1, 0), truth).numpy())


def _restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
    samples, truth, adjoint = _posterior(task, images, rows, model)
    mean = samples.mean(0)
    return {
        "error": posterior.nrmse(mean, truth).numpy(),
        # The data's: equal in every log, so rounded to more than machines differ by.
        "unaided": posterior.nrmse(adjoint, truth).numpy().round(UNAIDED_DIGITS),
        "mse": (mean - truth).pow(2).flatten(1).mean(1).numpy(),
        "spread": samples.var(0).flatten(1).mean(1).numpy(),
    }


def _posterior(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples (draws, rows, ...), the true images, and the adjoint of what was measured of them."""
    truth = torch.from_numpy(np.asarray(images[list(rows)], np.float64))
    operator = operator_of(task, tuple(truth.shape[1:]))
    clean = operator(truth)
    noise = noise_of(rows, clean.shape[1:], seed=_seed(task, "measured")).to(truth.dtype)
    y = clean + task.noise * noise
    sigmas = schedule(task.steps, low=LOW, high=HIGH)

    def denoise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return _denoise(model, x, sigma)

    samples = torch.stack(
        [
            posterior.sample(
                denoise,
                operator,
                y,
                noise_of(rows, model.shape, seed=_seed(task, draw)).to(truth.dtype) * sigmas[0],
                sigmas,
                zeta=task.zeta,
            )
            for draw in range(task.draws)
        ]
    )
    return samples, truth, operator.adjoint(y)


def endpoints(
    task: SamplingTask, rows: Sequence[int], model: ImageGenerator, *, held_out: Floats
) -> Columns:
    """How far each number of steps ends from many, (rows, numbers of steps).

    Where many steps end at no image, the error is at least how far from one; where all end near one
    image, it is larger by as much as held-out images differ more. ModelError where all are one.
    """
    start = noise_of(rows, model.shape, seed=task.seed).double()

    def denoise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return _denoise(model, x, sigma)

    def endpoint(steps: int) -> Tensor:
        sigmas = schedule(steps)
        return heun(denoise, start * sigmas[0], sigmas)

    reference = endpoint(task.reference)
    gaps = [(endpoint(steps) - reference).flatten(1) for steps in task.steps]
    errors = torch.stack([gap.pow(2).mean(1).sqrt() for gap in gaps], 1).numpy()
    ends = reference.numpy()
    spread = _spread(ends)
    if spread < ONE_IMAGE:
        raise ModelError(f"task {task.name}: all noise gives one image, so no step can be wrong")
    errors = errors * max(1.0, COLLAPSED * _spread(held_out) / spread)
    drawn, distance = images_drawn(ends, held_out)
    return {"errors": np.where(drawn[:, None], errors, np.maximum(errors, distance[:, None]))}


def clips(
    task: ClipTask, rows: Sequence[int], model: ImageGenerator, *, held_out: Floats
) -> Columns:
    """Warp errors of clips from moving noise and from independent noise.

    A clip whose first frame is no image gains nothing: its error is that of independent noise.
    """
    move = torch.tensor([0.0, float(task.shift)], dtype=torch.float64)
    sigmas = schedule(task.steps, low=LOW, high=HIGH)

    def flow(positions: Tensor) -> Tensor:
        return positions + move

    def denoise(x: Tensor, level: float) -> Tensor:
        return _denoise(model, x, torch.full((len(x),), level))

    channels, height, width = model.shape
    wide = (channels, height, width + task.shift * (task.frames - 1))
    plane = noise_of(rows, wide, seed=_seed(task, "moved")).double()
    noise = {
        # The scene moves to the left, so what enters at the right is new noise.
        "moved": [plane[..., task.shift * n : task.shift * n + width] for n in range(task.frames)],
        "independent": [
            noise_of(rows, model.shape, seed=_seed(task, f"fresh {n}")).double()
            for n in range(task.frames)
        ],
    }
    result = {}
    for name, starts in noise.items():
        guidance = task.guidance if name == "moved" else 0.0
        frames = warp.clip(denoise, flow, starts, sigmas, guidance=guidance)
        errors = [warp.warp_error(b, a, flow) for a, b in itertools.pairwise(frames)]
        result[name] = torch.stack(errors).mean(0).numpy()
        if name == "moved":
            drawn, _ = images_drawn(frames[0].numpy(), held_out)
    moved, independent = result["moved"], result["independent"]
    result["moved"] = np.where(drawn, moved, np.maximum(moved, independent))
    if (independent < ONE_IMAGE**2).all():
        raise ModelError(f"task {task.name}: all noise gives one image, so no clip can differ")
    return result


def images_drawn(drawn: Floats, held_out: Floats) -> tuple[npt.NDArray[np.bool_], Distances]:
    """Which of some images look like the held-out ones, and how far each is from the nearest.

    Those that are nearer (root mean squared difference of pixels) than images are that take each
    pixel from another held-out image: every pixel is right, and nothing else of an image.
    """
    rows = held_out[:EXCHANGED].reshape(min(len(held_out), EXCHANGED), -1)
    mixed = np.random.default_rng(0).permuted(rows, axis=0)
    root = math.sqrt(mixed.shape[1])
    usual = float(np.quantile(nearest(mixed, [held_out]), NEARER)) / root
    distance = nearest(drawn, [held_out]) / root
    return np.asarray(distance < usual), np.asarray(distance)


def _spread(images: Floats) -> float:
    """Root mean square over pixels of how much images differ in them."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    return float(np.sqrt(rows.var(0).mean()))


def operator_of(task: RestorationTask, shape: tuple[int, ...]) -> posterior.Operator:
    """What is measured of images (channels, height, width); random choices by the task's seed."""
    height, width = shape[1:]
    if task.measured == "block means":
        if height % task.factor or width % task.factor:
            raise DataError(f"task {task.name}: {shape} has no blocks of {task.factor} pixels")
        return posterior.Downsample(task.factor)
    generator = torch.Generator().manual_seed(_seed(task, "operator"))
    if task.measured == "pixels":
        seen = torch.rand(height, width, generator=generator, dtype=torch.float64)
        return posterior.Pixels((seen < 1 / task.factor).double())
    centre = max(1, width // task.factor // 3)
    lines = posterior.line_mask(width, task.factor, centre=centre, generator=generator)
    return posterior.Fourier(lines)


def _seed(task: RestorationTask | ClipTask, what: object) -> int:
    """A seed of its own for everything that a task draws."""
    state = hashlib.sha256(f"{task.seed}|{what}".encode()).digest()
    return int.from_bytes(state[:8], "big") >> 1


def _denoise(model: ImageGenerator, x: Tensor, sigma: Tensor) -> Tensor:
    """Estimated clean images, in the precision of `x`."""
    device = _device(model)
    seen = x.float().to(device)
    whole = torch.ones_like(seen) if getattr(model.denoiser, "masked", False) else None
    clean: Tensor = model.denoiser(seen, sigma.float().to(device), whole)
    return clean.to(x.device, x.dtype)


def _device(model: ImageGenerator) -> torch.device:
    parameters = getattr(model.denoiser, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if first is not None else torch.device("cpu")
