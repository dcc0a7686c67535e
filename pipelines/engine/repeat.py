"""The verdicts of a pipeline on some rows of its pool, repeated without the rest of the pool.

Row-wise steps decide on a row alone, so what they say can be repeated for any rows. A select or a
deduplication of whole rows needs the pool: it is passed by, and a select's scores are kept, because
a cut is between those that stayed and those that went. A step that changes rows by what is
elsewhere in the pool (lines and spans that occur twice, a fold), or makes several rows of one, ends
what can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.job import loaded
from pipelines.operators import GLOBAL_KINDS, Counted, Filter, Modifier, Select, choose
from pipelines.pipeline import Pipeline, Step
from pipelines.schema import TEXT


@dataclass(frozen=True)
class Repeatable:
    """The steps of a pipeline whose verdicts on single rows can be repeated."""

    steps: tuple[Step, ...]
    to_the_end: bool  # whether rows leave the last of them as they are in the dataset
    num_global: int  # steps among them that look at the whole pool and are passed by

    @property
    def decides(self) -> bool:
        """Whether a row that no repeated step rejects must be in the dataset."""
        return self.to_the_end and not self.num_global


@dataclass
class Repeated:
    """What the steps made of some rows."""

    kept: Batch
    rejected: dict[int, str] = field(default_factory=dict)
    scores: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = field(
        default_factory=list
    )


def repeatable(pipeline: Pipeline) -> Repeatable:
    """As many steps as can be repeated for single rows."""
    steps: list[Step] = []
    num_global = 0
    for step in pipeline.steps:
        kind = step.operator.kind
        if (
            kind == "splitter"
            or kind == "fold"
            or (kind in GLOBAL_KINDS and step.operator.writes())
        ):
            return Repeatable(tuple(steps), False, num_global)
        num_global += kind in GLOBAL_KINDS
        steps.append(step)
    return Repeatable(tuple(steps), True, num_global)


def repeat(steps: Sequence[Step], batch: Batch, assets: Assets) -> Repeated:
    """Send rows through steps; `rejected` says of each row that goes which step and reason.

    What an operator raises for a row is raised: a run would have stopped, or set the row aside.
    """
    repeated = Repeated(batch)
    for step in steps:
        operator = step.operator
        if operator.kind == "dedup":
            continue
        operator = loaded(step, assets)
        batch = repeated.kept
        if isinstance(operator, Select):
            scores = operator.score(batch).reshape(batch.num_rows, operator.copies())
            best = scores.max(1, initial=-np.inf)  # a row stays where any copy of it does
            repeated.scores.append((np.asarray(batch.rows, np.int64), best))
        elif isinstance(operator, Filter):
            verdict = operator.reject(batch)
            _reject(repeated, step, verdict.value if isinstance(verdict, Counted) else verdict)
        else:
            assert isinstance(operator, Modifier), operator.kind
            written = operator.modify(batch)
            columns = written.value if isinstance(written, Counted) else written
            repeated.kept = batch.write(columns).drop(operator.drops())
            if TEXT in columns and batch.has(TEXT):
                emptied = repeated.kept.text.is_null().to_numpy(zero_copy_only=False)
                emptied &= batch.text.is_valid().to_numpy(zero_copy_only=False)
                if emptied.any():
                    _reject(repeated, step, choose([(emptied, operator.reasons[0])]))
    if repeated.kept.has(TEXT) and repeated.kept.text.null_count:
        without = repeated.kept.text.is_null().to_numpy(zero_copy_only=False)
        for row in np.asarray(repeated.kept.rows)[without].tolist():
            repeated.rejected[row] = "no_text"
        repeated.kept = repeated.kept.keep(~without)
    return repeated


def _reject(repeated: Repeated, step: Step, reasons: object) -> None:
    rejected = reasons.is_valid().to_numpy(zero_copy_only=False)  # type: ignore[attr-defined]
    row_reasons = reasons.to_pylist()  # type: ignore[attr-defined]
    for row, reason in zip(np.asarray(repeated.kept.rows).tolist(), row_reasons, strict=True):
        if reason is not None:
            repeated.rejected[row] = f"{step.label}: {reason}"
    repeated.kept = repeated.kept.keep(~rejected)
