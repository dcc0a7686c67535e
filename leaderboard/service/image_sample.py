"""Repeat some images of a task: classification, restoration, generated samples, clips.

An image's class, and the image a generator draws for a number, depend on no other image, so a few
can be repeated on a laptop. Ranks, associations and attributes are in `rank_sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.frechet import nearest
from evals.images.generation import GenerationData, generator_of
from evals.images.image_metrics import normalised
from evals.images.image_tasks import ImageData
from evals.images.zeroshot import classifier, finite, log_of_logits
from evals.items import TaskData
from evals.kinds import kind_of
from evals.models import ModelError
from evals.tasks import ImageTask, Task
from leaderboard.service.rank_sample import AGAIN

Floats = npt.NDArray[np.float64]

TOLERANCE = 0.02
"""Relative to the column's RMS: other hardware stays within it, an altered value is far outside."""
COLUMNS = {
    "image_classification": "margin",
    "image_generation": "features",
    "image_memorisation": "heldout_distance",
    "image_restoration": "error",
    "image_sampling": "errors",
    "image_clip": "moved",
}
"""The column of a log that is compared."""


def asked_again(
    task: Task, data: TaskData, rows: Sequence[int], model: Any, log: pa.Table
) -> list[int]:
    """Rows whose repeated answer differs from the log."""
    if task.kind in AGAIN:
        assert isinstance(task, ImageTask)
        assert isinstance(data, ImageData)
        return AGAIN[task.kind](task, data, rows, model, log)
    column = COLUMNS[task.kind]
    again = _answers(task, data, list(rows), model)
    by_row = dict(zip(log["row"].to_pylist(), log[column].to_pylist(), strict=True))
    missing = [row for row in rows if row not in by_row]
    if missing:
        return missing
    claimed = np.array([by_row[row] for row in rows], np.float64)
    size = np.sqrt(np.mean(np.square(again), axis=0)) + 1e-6
    apart = abs(claimed - again) > TOLERANCE * np.maximum(size, abs(again))
    wrong = apart.reshape(len(rows), -1).any(1)
    return list(compress(rows, wrong.tolist()))


def _answers(task: Task, data: TaskData, rows: list[int], model: Any) -> Floats:
    if isinstance(task, ImageTask):
        assert isinstance(data, ImageData)
        chosen = set(rows)
        images = (image for row, image in enumerate(data.images()) if row in chosen)
        features = normalised(finite(task, model.encode_images(images), "image"))
        weights = classifier(model, data.classes[""], data.templates[""])
        logits = (100 * features @ weights).astype(np.float32)
        keys = [data.keys[row] for row in rows]
        metadata = data.metadata[rows] if data.metadata.size else data.metadata
        table = log_of_logits(logits, data.gold[rows], metadata, keys)
        return np.asarray(table["margin"].to_numpy(), np.float64)
    assert isinstance(data, GenerationData)
    if task.kind in ("image_generation", "image_memorisation"):
        model = generator_of(model, data.images.shape[1:])
        drawn = np.asarray(model.sample(rows, seed=task.seed), np.float32)  # type: ignore[union-attr]
        if not np.isfinite(drawn).all():
            raise ModelError(f"task {task.name}: the model drew values that are not finite")
        if task.kind == "image_generation":
            return np.asarray(data.features(drawn), np.float64)
        return np.asarray(nearest(drawn, [data.images]), np.float64)
    answer = kind_of(task).answer(task, data, rows, model, window=0)
    assert isinstance(answer, pa.Table)
    return np.array(answer[COLUMNS[task.kind]].to_pylist(), np.float64)
