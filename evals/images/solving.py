"""What a generator's denoiser is good for: restoring images, few steps, clips that hold together.

    image_restoration  images from measurements y = A x + noise, by diffusion posterior sampling
                       with the model as the prior: normalised error of the mean of several
                       samples, over that of the adjoint (the zero-filled image). 1 is no better
                       than no model; below are also PSNR and whether the samples spread as far as
                       they are wrong
    image_sampling     root mean squared distance of the endpoint of a few steps of Heun's method
                       from that of many, and the order at which it falls
    image_clip         squared difference of each frame of a panning clip from the one before,
                       moved, over that of frames from independent noise: noise moves with the
                       picture, and guidance as in Warped Diffusion

The sampler, its noise and its strength are the task's, so that only the model differs. Logs hold
what is summed; a score is a ratio of sums over images or clips.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from evals.images import posterior, warp
from evals.images.generation import GenerationData, read_held_out
from evals.images.sampling import heun, noise_of, schedule
from evals.items import Item, Metrics, Tally, TaskData
from evals.kinds import Kind
from evals.models import ImageGenerator, ModelError
from evals.tasks import ClipTask, RestorationTask, SamplingTask
from pipelines.errors import DataError

AT_ONCE = 64
"""Images of one guided step: their gradients are held together."""
LOW, HIGH = 0.01, 20.0
"""Noise levels of guided samplers; pixels are within [-1, 1]."""

T = TypeVar("T", RestorationTask, SamplingTask, ClipTask)


class _Solving(Kind[T], Generic[T]):
    """What the kinds have in common: the first held-out images, and a model with a denoiser."""

    whole = True

    def item(self, row: Mapping[str, Any], index: int, task: T) -> Item:
        raise DataError("held-out images are not JSON rows")

    def read(self, task: T, folder: str) -> TaskData:
        return read_held_out(task, folder, number=task.number, features=False)

    def answer(
        self, task: T, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> pa.Table:
        assert isinstance(data, GenerationData)
        if tuple(model.shape) != data.images.shape[1:]:
            raise ModelError(
                f"task {task.name}: the model draws images of {tuple(model.shape)}, the held-out "
                f"ones are {data.images.shape[1:]}"
            )
        if model.denoiser is None:
            raise ModelError(f"task {task.name}: the model has no denoiser, only samples")
        columns = self.columns(task, data, list(rows), model)
        for name, values in columns.items():
            if not np.isfinite(np.asarray(values, np.float64)).all():
                raise ModelError(f"task {task.name}: {name} is not finite; the model diverged")
        numbers = {name: _listed(values) for name, values in columns.items()}
        return pa.table({"row": pa.array(list(rows), pa.int64())} | numbers)

    def columns(
        self, task: T, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        """What the log says of each row."""
        raise NotImplementedError


def _listed(values: npt.NDArray[np.float64]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.array(values.tolist(), pa.list_(pa.float64()))


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


class Restoration(_Solving[RestorationTask]):
    """Normalised error of restored images."""

    def columns(
        self, task: RestorationTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        parts = [
            self._restored(task, data, rows[n : n + AT_ONCE], model)
            for n in range(0, len(rows), AT_ONCE)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _restored(
        self, task: RestorationTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        truth = torch.from_numpy(np.asarray(data.images[rows], np.float64))
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
            "unaided": posterior.nrmse(operator.adjoint(y), truth).numpy(),
            "mse": (mean - truth).pow(2).flatten(1).mean(1).numpy(),
            "spread": samples.var(0).flatten(1).mean(1).numpy(),
        }

    def tally(self, task: RestorationTask, log: pa.Table) -> Tally:
        return _ratio(log, "error", "unaided")

    def metrics(self, task: RestorationTask, log: pa.Table) -> Metrics:
        """Means over images; `calibration` is 1 where samples spread as far as they are wrong.

        A mean of k exact samples is wrong by (1 + 1/k) times their variance, on average.
        """
        mse, spread = (_numbers(log, name) for name in ("mse", "spread"))
        return {
            "normalised_error": float(_numbers(log, "error").mean()),
            "psnr": float((10 * np.log10(4 / np.maximum(mse, 1e-12))).mean()),
            "calibration": float(spread.mean() * (1 + 1 / task.draws) / max(mse.mean(), 1e-12)),
        }


class Sampling(_Solving[SamplingTask]):
    """How far few steps end from many."""

    def columns(
        self, task: SamplingTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
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

    def tally(self, task: SamplingTask, log: pa.Table) -> Tally:
        errors = _lists(log, "errors", len(task.steps))
        return Tally(errors[:, -1], np.ones(len(log)), np.zeros(len(log), np.int64))

    def metrics(self, task: SamplingTask, log: pa.Table) -> Metrics:
        """The mean error at each number of steps, and the slope of its logarithm."""
        errors = _lists(log, "errors", len(task.steps)).mean(0)
        x, y = np.log(np.array(task.steps, float)), np.log(np.maximum(errors, 1e-12))
        by_steps = zip(task.steps, errors, strict=True)
        figures: Metrics = {f"at_{steps}": float(error) for steps, error in by_steps}
        return {**figures, "order": float(np.polyfit(x, y, 1)[0])}


class Clip(_Solving[ClipTask]):
    """Whether the frames of a panning clip show one picture."""

    def columns(
        self, task: ClipTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
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
            # The picture moves to the left, so what enters at the right is new noise.
            "moved": [
                plane[..., task.shift * n : task.shift * n + width] for n in range(task.frames)
            ],
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

    def tally(self, task: ClipTask, log: pa.Table) -> Tally:
        return _ratio(log, "moved", "independent")


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


def _numbers(log: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(log[name].to_numpy(), np.float64)


def _ratio(log: pa.Table, above: str, below: str) -> Tally:
    return Tally(_numbers(log, above), _numbers(log, below), np.zeros(len(log), np.int64))


def _lists(log: pa.Table, name: str, length: int) -> npt.NDArray[np.float64]:
    lists = log[name].combine_chunks()
    if set(np.diff(np.asarray(lists.offsets)).tolist()) - {length}:
        raise DataError(f"column {name!r}: not {length} numbers in each row")
    return np.asarray(lists.flatten(), np.float64).reshape(len(log), length)


KINDS: dict[str, Kind[Any]] = {
    "image_restoration": Restoration(),
    "image_sampling": Sampling(),
    "image_clip": Clip(),
}
