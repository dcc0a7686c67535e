"""Numbers in a log that are the data's, and that each machine computes a little differently.

Features of held-out images, and the errors of images nobody restored: a model cannot change them,
but another processor rounds them otherwise, so they are compared with a tolerance rather than by a
hash. Rows, labels and byte counts, which are equal everywhere, are `evals.pins.TRUTH`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evals.tasks import RestorationTask, Task
from leaderboard.submissions.generator_logs import energy, rows_of

Floats = npt.NDArray[np.float64]
SUMS = 8  # of all numbers with signs by chance: what a board keeps of them


@dataclass(frozen=True)
class Numbers:
    """One column in the order of the rows, and how far two machines may be apart in it."""

    column: str
    values: Floats
    tolerance: float

    def differs(self, other: Numbers) -> int | None:
        """The first row in which two logs are of other data; None where they are of the same."""
        if self.values.shape[1:] != other.values.shape[1:]:
            return 0
        both = min(len(self.values), len(other.values))
        mine, theirs = self.values[:both], other.values[:both]
        apart = (abs(mine - theirs) > self.tolerance * np.maximum(_scale(theirs), abs(theirs))).any(
            axis=tuple(range(1, mine.ndim))
        )
        return int(np.flatnonzero(apart)[0]) if apart.any() else None

    def sums(self) -> tuple[float, ...]:
        """The logarithm of their root mean square, and sums over it: equal for equal data."""
        flat = self.values.reshape(-1)
        rng = np.random.default_rng(0)
        size = _scale(flat) * math.sqrt(max(1, len(flat)))
        signed = [float(rng.choice((-1.0, 1.0), len(flat)) @ flat) / size for _ in range(SUMS)]
        return (math.log(_scale(flat)), *signed)


def data_numbers(task: Task, log: pa.Table) -> list[Numbers]:
    """The columns of a log that are the data's up to rounding; none for most kinds."""
    if task.kind == "image_generation":
        ordered = log.select(["reference"]).take(pc.sort_indices(log["row"]))
        values = rows_of(ordered, "reference")
        # Features of a large network on a GPU have three digits (TF32).
        return [] if values is None else [Numbers("reference", values, 0.01)]
    if isinstance(task, RestorationTask):
        ordered = log.take(pc.sort_indices(log["row"]))
        unaided = np.asarray(ordered["unaided"].to_numpy(), np.float64)
        return [Numbers("unaided", unaided, 1e-3), Numbers("mse", energy(ordered), 1e-4)]
    return []


def sums_apart(mine: tuple[float, ...], theirs: tuple[float, ...], tolerance: float) -> bool:
    """Whether the sums of two columns are further apart than rounding of all numbers goes."""
    if len(mine) != len(theirs):
        return True
    return bool((abs(np.array(mine) - theirs) > tolerance * 10).any())


def _scale(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) or 1.0
