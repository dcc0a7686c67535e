"""The row-wise steps of a pass over one shard: filters, modifiers and splitters, batch by batch.

When an operator raises, its batch is halved until the row is found. That row stops the run or, with
`quarantine`, is set aside. Results of operators are checked against what they declare.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import operators
from pipelines.batch import Amount, Batch
from pipelines.engine.evidence import has_cases
from pipelines.engine.rejections import Rejections
from pipelines.errors import FailedError
from pipelines.execution.gpus import has_gpu_here
from pipelines.formats.arrow_tables import check_objects
from pipelines.job import ShardTask, loaded
from pipelines.operators import Counted, Filter, Operator, choose
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON
from pipelines.schema import EXTRA, PARENT, ROW, TEXT, number_of, row_of
from pipelines.stats import Tally


class OperatorFailed(FailedError):
    """An operator raised on a row; the message names operator, shard and row."""


def gpus_of(step: Step) -> float:
    """How many GPUs a step uses in this process; 0 on a machine without."""
    gpus = step.operator.needs().get("num_gpus", 0.0)
    return gpus if gpus and has_gpu_here() else 0.0


class RowSteps:
    """The steps of one pass over one shard, with their counts, rejections and rows set aside."""

    def __init__(self, task: ShardTask, pipeline: Pipeline, steps: Sequence[Step]) -> None:
        self.task, self.pipeline, self.steps = task, pipeline, steps
        self.tallies = [Tally(s.number, s.name, s.operator.kind) for s in steps]
        self.gpus = [gpus_of(step) for step in steps]
        self.door = pipeline.text_door()
        self.rejections = Rejections()
        self.bad: list[dict[str, JSON]] = []
        self.next_part = 0

    def apply(self, batch: Batch) -> Batch:
        for step, tally, gpus in zip(self.steps, self.tallies, self.gpus, strict=True):
            started, clock = time.process_time(), time.monotonic()
            tally.enter(self.amount(batch))
            batch = self._through(step, tally, batch)
            if step.number == self.door:
                batch = self.with_text(batch, tally)
            tally.leave(self.amount(batch))
            tally.seconds += time.process_time() - started
            tally.gpu_seconds += gpus * (time.monotonic() - clock)
        return batch

    def with_text(self, batch: Batch, tally: Tally) -> Batch:
        """The rows that have a text. Pairs, and pools without the column, are not checked.

        If one shard of a pool has the column, all shards are read with it.
        """
        if self.task.plan.pairs or not batch.has(TEXT) or not batch.text.null_count:
            return batch
        without_text = batch.text.is_null().to_numpy(zero_copy_only=False)
        return self.reject(batch, choose([(without_text, "no_text")]), tally)

    def reject(
        self, batch: Batch, reasons: pa.Array, tally: Tally, *, filter_: Filter | None = None
    ) -> Batch:
        """Drop the rows that have a reason; count and record them."""
        if reasons.null_count == len(reasons):
            return batch
        self.rejections.add(batch, reasons, tally, filter_=filter_)
        return batch.keep(~reasons.is_valid().to_numpy(zero_copy_only=False))

    def set_aside(self, row: int, step: str, error: str, **content: JSON) -> None:
        self.bad.append(
            {"shard": self.task.name, "row": row, "step": step, "error": error, **content}
        )

    def amount(self, batch: Batch) -> Amount:
        """Rows with the bytes and words of their texts; captions of pairs are not counted."""
        return Amount(batch.num_rows, 0, 0) if self.task.plan.pairs else batch.amount()

    def _through(self, step: Step, tally: Tally, batch: Batch) -> Batch:
        """One step over one batch; when it raises, the batch is halved until the row is alone."""
        operator = loaded(step, self.pipeline.assets)
        try:
            return self._one(step, operator, tally, batch)
        except OperatorFailed:
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, AssertionError) and ":" not in step.name:
                raise  # a bug of ours; an assertion in a participant's operator is about a row
            if batch.num_rows <= 1:
                return self._failed(step, tally, batch, error)
        middle = batch.num_rows // 2
        halves = [
            self._through(step, tally, half)
            for half in (batch.slice(0, middle), batch.slice(middle, batch.num_rows - middle))
        ]
        return Batch(pa.concat_tables([half.table for half in halves]))

    def _failed(self, step: Step, tally: Tally, batch: Batch, error: BaseException) -> Batch:
        problem = f"{type(error).__name__}: {error}{line_of(error, self.task.plan.modules)}"
        where = f"{step.label} on shard {self.task.name}"
        if batch.num_rows == 0:
            raise OperatorFailed(f"{where}: fails on an empty batch: {problem}") from error
        row = int(batch.rows[0])
        if not self.task.plan.quarantine:
            aside = ", or run with --quarantine to set such rows aside"
            if _is_of_operator(error):
                aside = ""  # it would be all rows
            raise OperatorFailed(
                f"{where}, row {number_of(row)} (id {row}): {problem}; repair the operator{aside}"
            ) from error
        tally.errors += 1
        content = {name: batch.column(name)[0].as_py() for name in batch.table.column_names}
        content.pop(ROW)
        self.set_aside(row, step.name, problem, content=_jsonable(content))
        # The rows that stay need this step's columns: run it on no rows to learn them.
        return self._one(step, loaded(step, self.pipeline.assets), tally, batch.slice(0, 0))

    def _one(self, step: Step, operator: Operator, tally: Tally, batch: Batch) -> Batch:
        """Apply one row-wise operator. Counts only when it succeeds."""
        if operator.kind == "filter":
            assert isinstance(operator, Filter)
            cases = operator.cases(batch) if has_cases(operator) else ()
            reasons, counts = _counted(choose(cases) if cases else operator.reject(batch))
            self._check_reasons(step, operator, reasons, batch)
            tally.count(counts)
            for case in cases:
                tally.measure(case)
            return self.reject(batch, reasons, tally, filter_=operator)
        if operator.kind == "modifier":
            columns, counts = _counted(operator.modify(batch))  # type: ignore[attr-defined]
            self._check_columns(step, operator, columns)
            check_all_written(step, self.task.name, method="modify", written=columns)
            tally.count(counts)
            return self._modified(step, operator, tally, batch, columns)
        assert operator.kind == "splitter", operator.kind
        parts, parent = operator.split(batch)  # type: ignore[attr-defined]
        check_all_written(step, self.task.name, method="split", written=parts.column_names)
        if ":" in step.name:
            parts.validate(full=True)
        return self._split(tally, batch, parts, np.asarray(parent, dtype=np.int64))

    def _modified(
        self,
        step: Step,
        operator: Operator,
        tally: Tally,
        batch: Batch,
        columns: Mapping[str, pa.Array],
    ) -> Batch:
        before, batch = batch, batch.write(columns)
        if operator.drops():
            batch = batch.drop(operator.drops())
        if TEXT in columns and batch.text.null_count:
            emptied = batch.text.is_null().to_numpy(zero_copy_only=False)
            if step.number <= self.door:  # who had no text yet may get one at a later step
                if not before.has(TEXT):
                    return batch
                emptied &= before.text.is_valid().to_numpy(zero_copy_only=False)
                if not emptied.any():
                    return batch
            batch = self.reject(batch, choose([(emptied, operator.reasons[0])]), tally)
        return batch

    def _split(
        self, tally: Tally, batch: Batch, parts: pa.Table, parent: npt.NDArray[np.int64]
    ) -> Batch:
        if len(parent) != parts.num_rows or (len(parent) and (np.diff(parent) < 0).any()):
            raise ValueError("split must return one parent per part, in the order of the parents")
        if len(parent) and not 0 <= parent[0] <= parent[-1] < batch.num_rows:
            raise ValueError(
                f"split returned the parents {parent[0]} to {parent[-1]} for {batch.num_rows} "
                "rows; a parent is the place of its row in the batch, from 0"
            )
        has_parts = np.zeros(batch.num_rows, dtype=bool)
        has_parts[parent] = True
        self.reject(batch, choose([(~has_parts, "no_parts")]), tally)
        tally.split += parts.num_rows - int(has_parts.sum())
        first = row_of(self.task.shard, self.next_part)
        self.next_part += parts.num_rows
        rows = np.arange(first, first + parts.num_rows, dtype=np.int64)
        parents = batch.rows[parent]
        table = parts.drop_columns([n for n in (ROW, PARENT) if n in parts.column_names])
        table = table.add_column(0, ROW, pa.array(rows))
        return Batch(table.append_column(PARENT, pa.array(parents)))

    def _check_reasons(self, step: Step, operator: Operator, reasons: Any, batch: Batch) -> None:
        if not isinstance(reasons, pa.Array | pa.ChunkedArray):
            raise TypeError(
                f"reject returned a {type(reasons).__name__}; return because(mask, reason), a "
                "reason for each row that goes"
            )
        if len(reasons) != batch.num_rows:
            raise ValueError(f"reject returned {len(reasons)} values for {batch.num_rows} rows")
        unknown = set(reasons.drop_null().unique().to_pylist()) - set(operator.reasons)
        if unknown:
            raise ValueError(
                f"reject gave the reasons {sorted(map(str, unknown))}, but {step.name} declares "
                f"only {list(operator.reasons)}"
            )

    def _check_columns(self, step: Step, operator: Operator, columns: Any) -> None:
        if not isinstance(columns, Mapping):
            raise TypeError(
                f"modify returned a {type(columns).__name__}; return a mapping of columns' names "
                "to Arrow arrays, with every column that writes() names"
            )
        declared = dict(operator.writes())
        for name, values in columns.items():
            if name not in declared:
                raise ValueError(
                    f"modify wrote the column {name!r}, but {step.name} declares "
                    f"{sorted(declared)} in writes()"
                )
            if not isinstance(values, pa.Array | pa.ChunkedArray):
                raise TypeError(
                    f"modify gave a {type(values).__name__} for {name!r}; give an Arrow array, as "
                    f"pa.array(values, pa.{declared[name]}())"
                )
            if values.type != declared[name]:
                raise ValueError(
                    f"modify wrote {name!r} as {values.type}, declared as {declared[name]}"
                )
            if name == TEXT and not self.task.plan.pairs and values.type != pa.large_string():
                raise ValueError(
                    f"modify wrote {TEXT!r} as {values.type}; texts of documents are "
                    "pa.large_string(), in writes() too"
                )
            if name == ROW:
                raise ValueError(
                    f"modify wrote {ROW!r}, by which rows are known; take another name"
                )
            if ":" in step.name:  # a participant's: text made of buffers may be anything
                values.validate(full=True)
                if name == EXTRA:
                    check_objects(pa.chunked_array(values))


def check_all_written(step: Step, shard: str, *, method: str, written: Collection[str]) -> None:
    """Refuse an operator that leaves out a column: no row is at fault, so none is set aside.

    Otherwise a column that came with the pool would pass for the one that the step computes.
    """
    missing = [name for name in step.operator.writes() if name not in written]
    if missing:
        columns = ", ".join(map(repr, missing))
        raise OperatorFailed(
            f"{step.label} on shard {shard}: {method} did not write {columns}, which writes() "
            f"declares; return it for every batch (null for a row without a value, the values as "
            "they are where nothing changes), or take it out of writes()"
        )


def line_of(error: BaseException, modules: Mapping[str, Any]) -> str:
    """Where in a participant's own file an error was raised, as ` (mine.py, line 12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in modules]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _is_of_operator(error: BaseException) -> bool:
    """Whether an operator's answer was refused for its form, as it would be for every row."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename in (__file__, operators.__file__)


def _counted(result: Any) -> tuple[Any, Mapping[str, int]]:
    return (result.value, result.counts) if isinstance(result, Counted) else (result, {})


def _jsonable(content: Mapping[str, Any]) -> dict[str, JSON]:
    return {
        name: value if isinstance(value, str | int | float | bool | None) else repr(value)
        for name, value in content.items()
    }
