"""How many items of each task occur in a dataset, and the scores over the others.

An item is found when half of it occurs (`FOUND_FRACTION`), or by another rule (`Items.also`): a
paraphrase in one document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.kinds import kind_of
from evals.metrics import score_of
from evals.reports import Run
from evals.tasks import load_task
from pipelines.errors import DataError
from pipelines.records import Frozen

FOUND_FRACTION = 0.5
"""An item is found when at least this fraction of its n-grams, or its images, occurs."""


class Items(NamedTuple):
    """The rows of one task's data, and per row how much of it occurs; NaN: too little to decide."""

    task: str
    rows: npt.NDArray[np.int64]
    fractions: npt.NDArray[np.float64]
    also: npt.NDArray[np.bool_] | None = None


class TaskOverlap(Frozen):
    """How much of one task occurs in a dataset."""

    task: str
    num_items: int
    num_too_short: int
    num_found: int
    mean_overlap: float
    found: tuple[int, ...]
    score: float | None = None
    score_without: float | None = None


def task_overlaps(tasks: Iterable[Items], run: Run | None = None) -> Iterator[TaskOverlap]:
    """The overlap of each task; with a run also its score over the items not found."""
    for task, rows, fractions, also in tasks:
        known = ~np.isnan(fractions)
        is_found = known & (np.nan_to_num(fractions) >= FOUND_FRACTION)
        if also is not None:
            is_found |= also
        scores = _scores(run, task, set(rows[is_found].tolist())) if run else (None, None)
        yield TaskOverlap(
            task=task,
            num_items=len(rows),
            num_too_short=int((~known).sum()),
            num_found=int(is_found.sum()),
            mean_overlap=float(fractions[known].mean()) if known.any() else 0.0,
            found=tuple(rows[is_found].tolist()),
            score=scores[0],
            score_without=scores[1],
        )


def _scores(run: Run, name: str, overlapping: set[int]) -> tuple[float, float | None]:
    task = load_task(name)
    log = run.log(name)
    kind = kind_of(task)
    keep = np.array([row not in overlapping for row in log["row"].to_pylist()])
    whole = score_of(kind.tally(task, log))
    if not keep.any():
        return whole, None
    try:
        return whole, score_of(kind.tally(task, log.filter(pa.array(keep))))
    except DataError:  # too few items are left for the task's metric
        return whole, None
