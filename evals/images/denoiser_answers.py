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
from evals.images.solvers import HIGH, LOW, Problem, dps
from evals.models import Floats, ImageGenerator, ModelError
from evals.tasks import ClipTask, RestorationTask, SamplingTask
from pipelines.errors import DataError

AT_ONCE = 64
"""Images per guided step; their gradients are in memory at the same time."""

UNAIDED_DIGITS = 4  # decimals kept: float64 sums differ between machines only in later ones
ONE_IMAGE = 1e-4
"""Spread of pixels below which all images are one: a hundredth of a grey level."""
COLLAPSED = 0.5  # of the held-out images' spread; models that learned real images exceed it
NEARER = 0.05
"""Quantile of the distances of images with exchanged pixels, below which an image counts as drawn.

At the tiny scale it is a distance of .47: 99 of 100 other digits are below .46, images of models of
clean digits average .29, those of models that take noisy digits for clean average .49."""
EXCHANGED = 256  # held-out images whose pixels are exchanged at most: bounds the cost

Distances = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[np.float64]]


def restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
    """Per row, errors of restored images and of the adjoint, and evaluations of the model.

    Columns: error, unaided, mse, spread, and evaluations, the mean of the row's samples.

    `images` is (n, channels, height, width) in [-1, 1]; `rows` are restored, `AT_ONCE` at a time.
    """
    parts = [
        _restored(task, images, rows[n : n + AT_ONCE], model) for n in range(0, len(rows), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def swapped(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> npt.NDArray[np.float64]:
    """The error of each image against the image restored from the next one's measurements, (rows,).

    A model that uses the measurements has a larger error here than in `restored`.
    """
    samples, truth, *_ = _posterior(task, images, rows, model)
    return np.asarray(posterior.nrmse(samples.mean(0).roll(-1, 0), truth).numpy())


def _restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
    samples, truth, adjoint, evaluations = _posterior(task, images, rows, model)
    mean = samples.mean(0)
    return {
        "error": posterior.nrmse(mean, truth).numpy(),
        # Depends on the data only: rounded so that it is equal in the logs of all machines.
        "unaided": posterior.nrmse(adjoint, truth).numpy().round(UNAIDED_DIGITS),
        "mse": (mean - truth).pow(2).flatten(1).mean(1).numpy(),
        "spread": samples.var(0).flatten(1).mean(1).numpy(),
        "evaluations": np.full(len(rows), evaluations),
    }


def _posterior(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Samples (draws, rows, ...), true images, their adjoint, and evaluations for a sample."""
    truth = torch.from_numpy(np.asarray(images[list(rows)], np.float64))
    operator = operator_of(task, tuple(truth.shape[1:]))
    clean = operator(truth)
    noise = noise_of(rows, clean.shape[1:], seed=_seed(task, "measured")).to(truth.dtype)
    y = clean + task.noise * noise

    def denoise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return _denoise(model, x, sigma, mask)

    calls = 0

    def sample(draw: int) -> Tensor:
        nonlocal calls
        start = noise_of(rows, model.shape, seed=_seed(task, draw)).to(truth.dtype)
        masked = bool(getattr(model.denoiser, "masked", False))
        problem = Problem(denoise, operator, y, start, task.steps, masked)
        solver = getattr(model, "solver", None)
        made = dps(problem, zeta=task.zeta) if solver is None else solver(problem, task.measured)
        calls += problem.calls
        return made

    samples = torch.stack([sample(draw) for draw in range(task.draws)])
    return samples, truth, operator.adjoint(y), calls / (task.draws * len(rows))


def endpoints(
    task: SamplingTask, rows: Sequence[int], model: ImageGenerator, *, held_out: Floats
) -> Columns:
    """RMS distance of the endpoint after each number of steps from the reference, (rows, steps).

    If the reference does not look like an image, the error is at least its distance from the
    nearest held-out one. If the references differ less than held-out images do, errors are scaled
    up by that ratio. ModelError when all references are equal.
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
        raise ModelError(
            f"task {task.name}: the model draws the same image from all noise, so the error of few "
            "steps means nothing"
        )
    errors = errors * max(1.0, COLLAPSED * _spread(held_out) / spread)
    drawn, distance = images_drawn(ends, held_out)
    return {"errors": np.where(drawn[:, None], errors, np.maximum(errors, distance[:, None]))}


def clips(
    task: ClipTask, rows: Sequence[int], model: ImageGenerator, *, held_out: Floats
) -> Columns:
    """Warp errors of clips from moving noise and from independent noise, (rows,) each.

    A clip whose first frame does not look like an image gets at least the error of independent
    noise. ModelError when the model draws the same image from all noise.
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
        raise ModelError(
            f"task {task.name}: the model draws the same image from all noise, so the coherence of "
            "clips means nothing"
        )
    return result


def images_drawn(drawn: Floats, held_out: Floats) -> tuple[npt.NDArray[np.bool_], Distances]:
    """Which images look like the held-out ones, and the distance of each from the nearest one.

    An image does if it is nearer (root mean squared difference of pixels) than `NEARER` of the
    images composed of pixels of random held-out images, which are right in every pixel but have no
    structure. Both results are (images,).
    """
    rows = held_out[:EXCHANGED].reshape(min(len(held_out), EXCHANGED), -1)
    mixed = np.random.default_rng(0).permuted(rows, axis=0)
    root = math.sqrt(mixed.shape[1])
    usual = float(np.quantile(nearest(mixed, [held_out]), NEARER)) / root
    distance = nearest(drawn, [held_out]) / root
    return np.asarray(distance < usual), np.asarray(distance)


def _spread(images: Floats) -> float:
    """Standard deviation over images, as a root mean square over pixels."""
    rows = np.asarray(images, np.float64).reshape(len(images), -1)
    return float(np.sqrt(rows.var(0).mean()))


def operator_of(task: RestorationTask, shape: tuple[int, ...]) -> posterior.Operator:
    """The measurement operator for images (channels, height, width), seeded by the task.

    DataError when the blocks of a task do not divide the image.
    """
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
    """A separate seed for each random choice of a task, named by `what`."""
    state = hashlib.sha256(f"{task.seed}|{what}".encode()).digest()
    return int.from_bytes(state[:8], "big") >> 1


def _denoise(model: ImageGenerator, x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimated clean images, in the precision of `x`; `mask` only for models that take one."""
    device = _device(model)
    seen = x.float().to(device)
    whole = None
    if getattr(model.denoiser, "masked", False):
        whole = torch.ones_like(seen) if mask is None else mask.float().to(device)
    clean: Tensor = model.denoiser(seen, sigma.float().to(device), whole)
    return clean.to(x.device, x.dtype)


def _device(model: ImageGenerator) -> torch.device:
    parameters = getattr(model.denoiser, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if first is not None else torch.device("cpu")
