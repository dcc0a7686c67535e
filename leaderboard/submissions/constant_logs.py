"""Logs that repeat the same few numbers, or claim less loss than text contains information.

Losses, errors and distances of a trained model differ between questions at least in their last
digits. In a log written by hand or by a loop they often do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.tasks import PER_BYTE, Task
from leaderboard.submissions.answers import VARIED
from leaderboard.submissions.generator_logs import rows_of

Floats = npt.NDArray[np.float64]
Wrong = Iterator[tuple[str, npt.NDArray[Any], str]]

LEAST_BITS = 0.05
"""Least bits per byte of text, the mean over a task. Shannon (1951) found 0.6 to 1.3 for people who
guess English letter by letter; the largest models are above 0.4. Less means memorised text."""
FEWEST = 8  # rows: in fewer, numbers may agree by chance
EQUAL = 0.25  # fraction of rows with bitwise equal distances to two different images
CONTINUOUS = {
    "image_memorisation": ("train_distance", "heldout_distance"),
    "image_restoration": ("error",),
    "image_clip": ("moved", "independent"),
}


def said_again(task: Task, log: pa.Table) -> Wrong:
    """Columns, with a mask of the rows whose value is impossible and what is wrong with it."""
    everywhere = np.ones(len(log), bool)
    if task.kind in PER_BYTE or task.kind == "token_loss":
        nats, tokens = _numbers(log, "nats"), _numbers(log, "num_tokens")
        yield "num_tokens", (tokens == 0) & (nats > 0), "is 0 although there is a loss"
    if len(log) < FEWEST:
        return
    for name, values in _said(task, log):
        if len(np.unique(values)) <= VARIED * len(values):
            yield name, everywhere, "repeats a few numbers again and again, as no model does"
            return
    if task.kind == "perplexity":
        bits = nats.sum() / max(_numbers(log, "num_bytes").sum(), 1) / math.log(2)
        if bits < LEAST_BITS:
            yield "nats", everywhere, f"is less than {LEAST_BITS:g} bits per byte of text"
    elif task.kind == "image_memorisation":
        equal = _numbers(log, "train_distance") == _numbers(log, "heldout_distance")
        if equal.mean() > EQUAL:
            yield "train_distance", equal, "is bitwise equal to the distance from a held-out image"


def _said(task: Task, log: pa.Table) -> Iterator[tuple[str, Floats]]:
    """The columns whose numbers differ between any two questions."""
    if task.kind == "perplexity":
        yield "nats", _numbers(log, "nats") / np.maximum(_numbers(log, "num_bytes"), 1)
    elif task.kind == "token_loss":
        yield "nats", _numbers(log, "nats") / np.maximum(_numbers(log, "num_tokens"), 1)
    elif task.kind == "image_sampling":
        errors = rows_of(log, "errors")
        if errors is not None:
            yield "errors", errors[:, 0]
    for name in CONTINUOUS.get(task.kind, ()):
        yield name, _numbers(log, name)


def _numbers(log: pa.Table, name: str) -> Floats:
    return np.asarray(log[name].to_numpy(), np.float64)
