"""Tasks for a generator's denoiser: restoration, sampling in few steps, coherent clips.

    image_restoration  images from measurements y = A x + noise, by diffusion posterior sampling
                       with the model as the prior: normalised error of the mean of several
                       samples, over that of the adjoint (the zero-filled image). 1 is no better
                       than no model. Metrics also have PSNR and the calibration of the samples
    image_sampling     root mean squared distance of the endpoint of a few steps of Heun's method
                       from that of many, and the order at which it falls
    image_clip         squared difference of each frame of a panning clip from the one before,
                       moved, over that of frames from independent noise: noise moves with the
                       scene, and guidance as in Warped Diffusion

Both of the last are perfect for a denoiser that does not draw images (it returns its input, a
constant, or each pixel independently), so the result must look like an image: see `images_drawn`.

The sampler, its noise and its guidance strength belong to the task, so that only the model differs.
Logs hold the terms of the sums; a score is a ratio of sums over images or clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.generation import GenerationData, generator_of, read_held_out
from evals.items import Item, Metrics, Tally, TaskData
from evals.kinds import Kind
from evals.models import ImageGenerator, ModelError
from evals.tasks import ClipTask, RestorationTask, SamplingTask
from pipelines.errors import DataError

T = TypeVar("T", RestorationTask, SamplingTask, ClipTask)


class _Solving(Kind[T], Generic[T]):
    """Base of the kinds: the first held-out images, and a model with a denoiser."""

    whole = True

    def item(self, row: Mapping[str, Any], index: int, task: T) -> Item:
        raise DataError("held-out images are not JSON rows")

    def read(self, task: T, folder: str) -> TaskData:
        return read_held_out(task, folder, number=task.number, features=False)

    def answer(
        self, task: T, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> pa.Table:
        assert isinstance(data, GenerationData)
        model = generator_of(model, data.images.shape[1:])
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
        """The columns of the log for each row."""
        raise NotImplementedError


def _all(data: GenerationData) -> npt.NDArray[np.floating[Any]]:
    """All held-out images of the file, also those that are not questions."""
    return data.images if data.held_out is None else data.held_out


def _listed(values: npt.NDArray[np.float64]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.array(values.tolist(), pa.list_(pa.float64()))


class Restoration(_Solving[RestorationTask]):
    """Normalised error of restored images."""

    def columns(
        self, task: RestorationTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        from evals.images.denoiser_answers import restored

        return restored(task, data.images, rows, model)

    def swapped(
        self, task: RestorationTask, data: TaskData, rows: list[int], model: Any
    ) -> npt.NDArray[np.float64]:
        """Errors when each image is restored from the next one's measurements: a control."""
        from evals.images.denoiser_answers import swapped

        assert isinstance(data, GenerationData)
        model = generator_of(model, data.images.shape[1:])
        return swapped(task, data.images, rows, model)

    def tally(self, task: RestorationTask, log: pa.Table) -> Tally:
        return _ratio(log, "error", "unaided")

    def metrics(self, task: RestorationTask, log: pa.Table) -> Metrics:
        """Means over images; `calibration` is 1 if the samples' spread matches their error.

        The mean of k exact posterior samples has a squared error of (1 + 1/k) times their variance,
        on average. `evaluations` of the model for a sample are in logs since they are counted.
        """
        mse, spread = (_numbers(log, name) for name in ("mse", "spread"))
        counted = "evaluations" in log.column_names
        return {
            "normalised_error": float(_numbers(log, "error").mean()),
            "psnr": float((10 * np.log10(4 / np.maximum(mse, 1e-12))).mean()),
            "calibration": float(spread.mean() * (1 + 1 / task.draws) / max(mse.mean(), 1e-12)),
            **({"evaluations": float(_numbers(log, "evaluations").mean())} if counted else {}),
        }


class Sampling(_Solving[SamplingTask]):
    """The distance of the endpoint of few steps from that of many."""

    def columns(
        self, task: SamplingTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        from evals.images.denoiser_answers import endpoints

        return endpoints(task, rows, model, held_out=_all(data))

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
    """Whether the frames of a panning clip show one scene."""

    def columns(
        self, task: ClipTask, data: GenerationData, rows: list[int], model: ImageGenerator
    ) -> dict[str, npt.NDArray[np.float64]]:
        from evals.images.denoiser_answers import clips

        return clips(task, rows, model, held_out=_all(data))

    def tally(self, task: ClipTask, log: pa.Table) -> Tally:
        return _ratio(log, "moved", "independent")


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
