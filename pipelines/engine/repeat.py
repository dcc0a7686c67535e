"""Repeat a pipeline's verdicts on some rows of its pool without the rest of the pool.

Row-wise steps decide on each row alone, so their verdicts can be repeated for any rows. A select or
a deduplication of whole rows needs the pool and is skipped; a select's scores are kept, because its
cut must lie between those of kept and of dropped rows. Repetition ends before a step that changes
rows depending on the rest of the pool (lines and spans that occur twice, a fold), and before one
that splits rows.
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
    to_the_end: bool  # whether these are all steps, so that their output is as in the dataset
    num_global: int  # steps among them that need the whole pool and are skipped

    @property
    def decides(self) -> bool:
        """Whether a row that no repeated step rejects must be in the dataset."""
        return self.to_the_end and not self.num_global


@dataclass
class Repeated:
    """The outcome of some rows: those kept, the reason of each rejected row, selects' scores."""

    kept: Batch
    rejected: dict[int, str] = field(default_factory=dict)
    scores: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = field(
        default_factory=list
    )


def repeatable(pipeline: Pipeline) -> Repeatable:
    """The longest beginning of the pipeline that can be repeated for single rows."""
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
    """Apply steps to rows; `rejected` has the step and reason of each dropped row.

    An operator's exception propagates: a run would have stopped, or set the row aside.
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
            best = scores.max(1, initial=-np.inf)  # a row is kept if any copy of it is
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
