"""What a model said, so that two logs of one model are known as such however they are stored.

Exact: a hash of the answers of each task whose answers two models never share (losses, ranks,
margins, distances, features), and one over the choices of all tasks together, which two models
share in no long log. Nearly: samples of questions chosen by hash. `loss_sample` is of losses as
they are; `marks` are the other kinds (choices, ranks, errors), standardised by task, so that tasks
with other means do not correlate by themselves.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evals.tasks import PER_BYTE, Task
from leaderboard.submissions.generator_logs import rows_of

Floats = npt.NDArray[np.float64]

SAMPLE = 64  # questions of a task that are remembered
ANSWERS = {
    "answer_loss": ("nats",),
    "perplexity": ("nats",),
    "token_loss": ("nats",),
    "image_retrieval": ("rank", "predicted"),
    "image_classification": ("margin",),
    "image_generation": ("features",),
    "image_memorisation": ("train_distance", "heldout_distance"),
    "image_restoration": ("error", "spread"),
    "image_sampling": ("errors",),
    "image_clip": ("moved", "independent"),
}
"""Columns of a kind's log with numbers that two different models do not share."""
MARKS, FEWEST_OF_A_TASK = 512, 16
"""Marks of a suite, and of one of its many tasks: a board keeps those of thousands of entries."""
FEWEST_ANSWERS = 30  # of a log: equal answers to fewer questions may be chance
VARIED = 0.25  # share of values that must differ: models of constant answers are all alike
CHOICES = ("multiple_choice", "schema", "language_modeling", "generation")
ABSENT = -(1 << 63)
"""In place of a missing choice: what a NaN becomes on most processors, but not on all."""
FEWEST_CHOICES = 500
FEWEST_EACH = 50
"""Right and wrong ones, at least: two models that agree on 97 of 100 questions agree on 500 with a
probability of 2e-7; two that answer all rightly, or none, always do."""


class Choices:
    """The right and wrong answers to the questions of all tasks that have choices or words."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self._right = self._wrong = 0

    def add(self, task: Task, log: pa.Table) -> None:
        """Take in a task; other kinds add nothing."""
        if task.kind not in CHOICES:
            return
        columns = [name for name in ("predicted", "correct") if name in log.column_names]
        ordered = log.select(columns).take(pc.sort_indices(log["row"]))
        right = np.asarray(ordered["correct"].to_numpy(zero_copy_only=False), bool)
        self._right += int(right.sum())
        self._wrong += int((~right).sum())
        self._state.update(task.name.encode())
        for name in columns:
            values = ordered[name].cast(pa.int64()).fill_null(ABSENT)
            self._state.update(values.to_numpy().tobytes())

    def digest(self) -> str:
        """Their hash; empty where two models may agree in all of them."""
        few = self._right + self._wrong < FEWEST_CHOICES
        return "" if few or min(self._right, self._wrong) < FEWEST_EACH else self._state.hexdigest()


MOST_OF_ONE = 0.8
"""Of the choices of one task: small models that nearly always choose the same option agree."""


def choices_of(task: Task, log: pa.Table) -> str:
    """The hash of the choices of one task, so that no two entries' best tasks make a third.

    Empty where two models may agree in all of them.
    """
    alone = Choices()
    alone.add(task, log)
    digest = alone.digest()
    if digest and "predicted" in log.column_names:
        counts = pc.value_counts(log["predicted"]).field("counts")
        if pc.max(counts).as_py() > MOST_OF_ONE * len(log):
            return ""
    return digest


def answers_of(task: Task, log: pa.Table) -> str:
    """The hash of a model's answers in row order, however the log is stored.

    Only of kinds whose answers two models never share. Empty for other kinds, and for logs too
    short to compare.
    """
    columns = [name for name in ANSWERS.get(task.kind, ()) if name in log.column_names]
    if not columns or len(log) < FEWEST_ANSWERS:
        return ""
    ordered = log.select(columns).take(pc.sort_indices(log["row"]))
    state = hashlib.sha256(task.name.encode())
    varied = False
    for name in columns:
        listed = pa.types.is_list(ordered.schema.field(name).type)
        values = rows_of(ordered, name) if listed else ordered[name].to_numpy()
        if values is None:
            return ""
        numbers = np.asarray(values, np.float64)
        varied |= len(np.unique(numbers)) > VARIED * numbers.size
        state.update(np.round(numbers, 5).tobytes())
    return state.hexdigest() if varied else ""


def loss_sample(task: Task, log: pa.Table) -> list[float]:
    """Losses (or what replaces them) of up to `SAMPLE` questions chosen by hash."""
    values = _losses(task, log)
    if values is None:
        return []
    return [round(value, 6) for value in _sampled(task, log, values).tolist()]


def marks(task: Task, log: pa.Table, num_tasks: int) -> list[float]:
    """What questions earned where no loss is: standardised, all 0 where all are equal."""
    values = _marks(task, log)
    if values is None:
        return []
    number = max(FEWEST_OF_A_TASK, min(SAMPLE, MARKS // max(num_tasks, 1)))
    chosen = _sampled(task, log, values)[:number]
    spread = float(chosen.std())
    standard = (chosen - chosen.mean()) / spread if spread > 0 else np.zeros(len(chosen))
    return [round(value, 4) for value in standard.tolist()]


def _sampled(task: Task, log: pa.Table, values: Floats) -> Floats:
    by_row = values[np.argsort(log["row"].to_numpy())]
    return np.asarray(by_row[list(_sampled_rows(task.name, len(by_row)))], np.float64)


@lru_cache(maxsize=256)  # every seed and submission has the same tasks
def _sampled_rows(task: str, num_rows: int) -> tuple[int, ...]:
    def key(row: int) -> bytes:
        return hashlib.sha256(f"{task} {row}".encode()).digest()

    return tuple(sorted(heapq.nsmallest(SAMPLE, range(num_rows), key=key)))


def _losses(task: Task, log: pa.Table) -> Floats | None:
    if task.kind in PER_BYTE:
        bits = log["nats"].to_numpy() / log["num_bytes"].to_numpy() / math.log(2)
        return np.asarray(bits, np.float64)
    if task.kind == "token_loss":
        tokens = np.maximum(log["num_tokens"].to_numpy(), 1)
        return np.asarray(log["nats"].to_numpy() / tokens, np.float64)
    if task.kind == "image_memorisation":
        return np.asarray(log["heldout_distance"].to_numpy(), np.float64)
    if "margin" in log.column_names:
        return np.asarray(log["margin"].to_numpy(), np.float64)
    return None


def _marks(task: Task, log: pa.Table) -> Floats | None:
    if task.kind in CHOICES:
        return np.asarray(log["correct"].to_numpy(zero_copy_only=False), np.float64)
    if task.kind == "image_retrieval":
        return np.asarray(np.log1p(log["rank"].to_numpy()), np.float64)
    if task.kind == "image_generation":
        features = rows_of(log, "features")
        return None if features is None else np.asarray(np.linalg.norm(features, axis=1))
    if task.kind == "image_sampling":
        errors = rows_of(log, "errors")
        return None if errors is None else np.asarray(errors[:, -1])
    column = {"image_restoration": "error", "image_clip": "moved"}.get(task.kind)
    return None if column is None else np.asarray(log[column].to_numpy(), np.float64)
