"""Compare the controls in a record with the log that they are computed from, as far as possible.

For classes and captions all figures follow from the log. For other tasks the sample of questions
does (it is chosen by hash), and so does the model's score on it; its score after another context,
or with other measurements, is as reported by the team, within what so many questions allow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from evals.controls import (
    GENERATED,
    SAMPLE,
    TWO_SIDED,
    hashed_rows,
    image_controls,
    nearer,
)
from evals.kinds import kind_of
from evals.tasks import RestorationTask, Task
from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import Control, ScoresRecord, TaskRef

TOLERANCE = 1e-6
"""Relative, for a score computed again from the same numbers. Roots of a covariance's eigenvalues
differ by 2e-9 between processes with different numbers of threads; pages show four digits."""


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, or numbers that differ only by rounding."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= TOLERANCE * max(1.0, abs(b))
    return bool(a == b)


def control_faults(
    scores: ScoresRecord, name: str, task: Task, ref: TaskRef, log: pa.Table
) -> Iterator[Fault]:
    """Faults where the controls of a task in the record contradict its log."""
    claimed: dict[str, Control] = {
        control.name: control for control in scores.results.controls if control.task == task.name
    }
    if not claimed:
        return
    if task.kind.startswith("image_") and not isinstance(task, RestorationTask):
        yield from _of_images(name, task, log, claimed)
        return
    for control in claimed.values():
        yield from _of_sample(name, task, ref, log, control)


def _of_images(
    name: str, task: Task, log: pa.Table, claimed: Mapping[str, Control]
) -> Iterator[Fault]:
    for control in image_controls(task, log):
        mine = claimed.get(control.name)
        if mine is None or not all(
            same(getattr(mine, field), getattr(control, field))
            for field in type(control).model_fields
        ):
            hint = "computed again from the questions"
            yield fault(RECORD, f"{name}: {control.name}", mine and mine.drop, control.drop, hint)


def _of_sample(
    name: str, task: Task, ref: TaskRef, log: pa.Table, control: Control
) -> Iterator[Fault]:
    where, hint = f"{name}: {control.name}", "computed again from the questions"
    few = task.kind in ("generation", "image_restoration")
    number = min(len(log), GENERATED if few else SAMPLE)
    if control.num_items != number:
        yield fault(RECORD, where, control.num_items, number, "the questions of a control")
        return
    if ref.identity:  # old records do not have what the sample was chosen by
        position = {row: at for at, row in enumerate(log["row"].to_pylist())}
        restored = isinstance(task, RestorationTask)
        earned = nearer(log) if restored else kind_of(task).tally(task, log).numerator
        rows = hashed_rows(ref.identity, len(log), number, what="control")
        mean = float(np.mean([earned[position[row]] for row in rows]))
        if not same(control.score, mean):
            yield fault(RECORD, f"{where}: score", control.score, mean, hint)
    reach = control.high - control.drop
    least, most = 3 / number, max(TWO_SIDED / math.sqrt(number - 1), 3 / number)
    if not same(reach, control.drop - control.low) or not least - TOLERANCE <= reach <= most * 1.01:
        problem = Words(f"{control.drop} [{control.low}, {control.high}]")
        expected = Words(f"{least:.3f} to {most:.3f} to either side of the drop")
        yield fault(RECORD, where, problem, expected, hint)
