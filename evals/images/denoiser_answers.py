"""What a denoiser answers to the tasks of `solving`: restored images, endpoints, clips."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evals.images import posterior, warp
from evals.images.sampling import heun, noise_of, schedule
from evals.models import Floats, ImageGenerator, ModelError
from evals.tasks import ClipTask, RestorationTask, SamplingTask
from pipelines.errors import DataError

AT_ONCE = 64
"""Images of one guided step: their gradients are held together."""
LOW, HIGH = 0.01, 20.0
"""Noise levels of guided samplers; pixels are within [-1, 1]."""

UNAIDED_DIGITS = 4

Columns = dict[str, npt.NDArray[np.float64]]


def restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
    """Errors of the restored images (rows of `images`), and of what they are measured against."""
    parts = [
        _restored(task, images, rows[n : n + AT_ONCE], model) for n in range(0, len(rows), AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _restored(
    task: RestorationTask, images: Floats, rows: Sequence[int], model: ImageGenerator
) -> Columns:
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
    mean = samples.mean(0)
    return {
        "error": posterior.nrmse(mean, truth).numpy(),
        # The data's: equal in every log, so rounded to more than machines differ by.
        "unaided": posterior.nrmse(operator.adjoint(y), truth).numpy().round(UNAIDED_DIGITS),
        "mse": (mean - truth).pow(2).flatten(1).mean(1).numpy(),
        "spread": samples.var(0).flatten(1).mean(1).numpy(),
    }


def endpoints(task: SamplingTask, rows: Sequence[int], model: ImageGenerator) -> Columns:
    """How far each number of steps ends from many, (rows, numbers of steps)."""
    start = noise_of(rows, model.shape, seed=task.seed).double()

    def denoise(x: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        return _denoise(model, x, sigma)

    def endpoint(steps: int) -> Tensor:
        sigmas = schedule(steps)
        return heun(denoise, start * sigmas[0], sigmas)

    reference = endpoint(task.reference)
    gaps = [(endpoint(steps) - reference).flatten(1) for steps in task.steps]
    errors = torch.stack([gap.pow(2).mean(1).sqrt() for gap in gaps], 1)
    return {"errors": errors.numpy()}


def clips(task: ClipTask, rows: Sequence[int], model: ImageGenerator) -> Columns:
    """Warp errors of clips from moving noise and from independent noise."""
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
    if not result["independent"].any():
        raise ModelError(f"task {task.name}: all noise gives one image, so no clip can differ")
    return result


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
