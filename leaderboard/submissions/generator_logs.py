"""Logs of image generators: whether their numbers can come from one model, sampler and dataset.

A log has sums rather than images, so a false one is recognised by relations between its numbers:
an error and its square, errors with few and with fewer steps, the features of generated images and
those of held-out ones that the generator has never seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.frechet import frechet, moments
from evals.tasks import (
    MIN_IMAGES,
    OF_GENERATORS,
    ClipTask,
    GenerationTask,
    RestorationTask,
    SamplingTask,
    Task,
)

Floats = npt.NDArray[np.float64]
Wrong = Iterator[tuple[str, npt.NDArray[Any], str]]

DISTANCES = {
    "image_memorisation": ("train_distance", "heldout_distance"),
    "image_restoration": ("error", "unaided", "mse", "spread"),
    "image_clip": ("moved", "independent"),
}
"""Columns that are finite and not negative."""
BRIGHTEST = 1.002  # largest squared pixel: held-out images are within [-1.001, 1.001]
LARGEST_CHANGE = 16.0
"""Mean squared difference of two frames: between images of [-1, 1] at most 4, and a model may
overshoot by as much again."""
FASTEST = 8.0
"""Largest accepted order at which an error falls with the steps. Heun's method is of order 2. With
the few steps of this schedule the exact denoiser of Gaussian images has up to 3.55 between six and
nine, whatever their covariance, and 2.90 between nine and 18 (computed in the tests; an error over
all directions falls no faster than in the fastest). Images are not Gaussian, so no bound follows
for them: four trained models had up to 4.3. At order 8, three more steps (six to nine) divide an
error by 26."""
SPLITS = 8  # random halvings of the held-out images that are compared
LARGE = 256  # feature dimensions above which only two splits are affordable
CLOSER, CLOSER_IN_FEW = 0.25, 0.1
"""Fraction of the least distance of two halves below which a log is refused. Samples of one
distribution were never below 0.44 of it in 32 dimensions or more, nor below 0.16 in four (300
pairs of 64 images each)."""
FEW_DIMENSIONS = 16  # of features: below, `CLOSER_IN_FEW` applies


def too_few(task: Task, rows: int) -> str:
    """The number of rows required, if the log of a generator's task has another; else empty."""
    if isinstance(task, GenerationTask):
        return "" if rows >= MIN_IMAGES else f"at least {MIN_IMAGES}"
    if not isinstance(task, OF_GENERATORS):
        return ""
    least = min(task.number, MIN_IMAGES)
    return "" if least <= rows <= task.number else f"{least} to {task.number}"


def wrong(task: Task, log: pa.Table) -> Wrong:
    """Columns, with a mask of the rows whose value is impossible and what is wrong with it."""
    everywhere = np.ones(len(log), bool)
    for name in DISTANCES.get(task.kind, ()):
        values = _numbers(log, name)
        yield (
            name,
            ~(np.isfinite(values) & (values >= 0)),
            "is not a distance: finite and not negative",
        )
    if isinstance(task, RestorationTask):
        yield from _restored(task, log)
    elif isinstance(task, ClipTask):
        moved, independent = _numbers(log, "moved"), _numbers(log, "independent")
        if not independent.any():
            yield "independent", everywhere, "is 0 in all clips"
        yield "independent", independent > LARGEST_CHANGE, "is more than between any two images"
        yield "moved", (moved == 0) & (independent > 0), "is 0: no frame of it differs at all"
    elif isinstance(task, SamplingTask):
        yield from _few_steps(task, log)
    elif task.kind == "image_generation":
        yield from _features(log)


def _restored(task: RestorationTask, log: pa.Table) -> Wrong:
    error, mse = _numbers(log, "error"), _numbers(log, "mse")
    yield "unaided", _numbers(log, "unaided") == 0, "is 0, as if the whole image were visible"
    # error^2 is |gap|^2 / |truth|^2, mse is |gap|^2 / pixels: truth's mean square is between them.
    yield "mse", mse > BRIGHTEST * error**2 + 1e-12, "is more than the error allows"
    yield "mse", (mse == 0) & (error > 0), "is 0 although the error is not"
    if "evaluations" in log.column_names:
        counted, most = _numbers(log, "evaluations"), task.most_evaluations
        yield "evaluations", ~((counted >= 0) & (counted <= most)), f"is not within 0 and {most}"


def energy(log: pa.Table) -> Floats:
    """The mean square of each held-out image, derived from the two errors of its restoration."""
    error, mse = _numbers(log, "error"), _numbers(log, "mse")
    return np.asarray(mse / np.maximum(error**2, 1e-300))


def _few_steps(task: SamplingTask, log: pa.Table) -> Wrong:
    lists = log["errors"].to_pylist()
    no_distances = np.array([not _is_list(row, len(task.steps)) for row in lists])
    yield "errors", no_distances, "is not a list of distances"
    if no_distances.any():
        return
    errors = np.asarray(lists, np.float64)
    yield "errors", (errors == 0).any(1), "is 0: no curve is followed exactly"
    means, steps = errors.mean(0), np.array(task.steps, np.float64)
    order = np.diff(np.log(np.maximum(means, 1e-300))) / np.diff(np.log(steps))
    fast = np.full(len(log), bool((order < -FASTEST).any()))
    yield "errors", fast, f"falls faster than with the power {FASTEST:g} of the steps"


def _is_list(row: list[float | None], length: int) -> bool:
    return len(row) == length and all(x is not None and 0 <= x < np.inf for x in row)


def _features(log: pa.Table) -> Wrong:
    """Generated images are no closer to the held-out ones than these are to each other.

    The distance of two samples of one distribution is above 0 and grows as they get fewer: with
    half as many it is about twice. A value far below it shows that the generator has seen the
    held-out images.
    """
    everywhere = np.ones(len(log), bool)
    rows = {}
    for name in ("features", "reference"):
        values = rows_of(log, name)
        if values is None:
            yield name, everywhere, "does not have the same number of finite values in each row"
            return
        rows[name] = values
    made, held_out = rows["features"], rows["reference"]
    if made.shape != held_out.shape or made.shape[1] < 2:
        yield "features", everywhere, "is not as long as the reference, two numbers or more"
        return
    value = frechet(moments(made), moments(held_out))
    part = CLOSER if made.shape[1] >= FEW_DIMENSIONS else CLOSER_IN_FEW
    if value < part * least_between_halves(held_out):
        yield "features", everywhere, "is closer to the held-out images than they are to each other"


def least_between_halves(rows: Floats) -> float:
    """The least Frechet distance between random halves of `rows` (image, dim); fixed seed."""
    rng = np.random.default_rng(0)
    number, half = len(rows), len(rows) // 2
    distances = []
    for _ in range(SPLITS if rows.shape[1] <= LARGE else 2):
        order = rng.permutation(number)
        first, second = rows[order[:half]], rows[order[half : 2 * half]]
        distances.append(frechet(moments(first), moments(second)))
    return min(distances)


def rows_of(log: pa.Table, name: str) -> Floats | None:
    """A column of lists as (row, value) float64; None when lengths differ or one is not finite."""
    column = log[name].combine_chunks()
    sizes = set(np.diff(np.asarray(column.offsets)).tolist())
    flat = column.flatten()
    if len(sizes) != 1 or flat.null_count:
        return None
    values = np.asarray(flat.to_numpy(), np.float64).reshape(len(log), -1)
    return values if np.isfinite(values).all() else None


def _numbers(log: pa.Table, name: str) -> Floats:
    return np.asarray(log[name].to_numpy(), np.float64)
