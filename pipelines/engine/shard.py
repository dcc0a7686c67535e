"""One pass over one shard: read, drop what the last global step decided, run the steps, write.

`run_shard` is what executors run. It knows the plan, its input and its key, and commits everything
it wrote with one done file; a second run of the same task changes nothing.
"""

from __future__ import annotations

import base64
import socket
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Amount, Batch
from pipelines.engine.evidence import has_cases
from pipelines.engine.rejections import Rejections
from pipelines.engine.sinks import (
    KeySink,
    NoScore,
    RowSink,
    ScoreSink,
    Sink,
    TableSink,
    UidSink,
    with_rows,
)
from pipelines.errors import FailedError
from pipelines.formats.chunks import BadRow
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_subset import MAX_BUCKETS
from pipelines.formats.writers import write_row_list
from pipelines.global_steps.duplicate_record import EXAMPLE_CHARACTERS, Removed
from pipelines.global_steps.exact_cut import score_of
from pipelines.global_steps.group_keys import read_verdict
from pipelines.job import ShardTask, load_array, loaded
from pipelines.operators import Case, Counted, Dedup, Filter, Operator, Select, choose
from pipelines.pipeline import Pass, Step
from pipelines.records import JSON, File
from pipelines.schema import PARENT, ROW, TEXT, number_of, row_of
from pipelines.sources import (
    describe_pairs,
    empty_pairs,
    first_chunks,
    held_schema,
    stored_after,
    task_rows,
)
from pipelines.stats import READ, StepStats, Tally, add_counts
from pipelines.storage.base import StorageError, Store
from pipelines.storage.commits import Done, attempt_name, commit, find_done
from pipelines.storage.open import open_store
from pipelines.verdict import NO_CUT, Verdict


class OperatorFailed(FailedError):
    """An operator raised on a row; the message names operator, shard and row."""


def run_shard(task: ShardTask) -> Done:
    """Run one pass over one shard and commit it; returns the commit that counts."""
    store = open_store(task.plan.output_uri)
    standing = find_done(store, task.key)
    if standing is not None:
        return standing
    return _ShardRun(task, store).run()


class _ShardRun:
    """The state of one pass over one shard."""

    def __init__(self, task: ShardTask, store: Store) -> None:
        self.task = task
        self.store = store
        self.pipeline = task.plan.pipeline()
        passes = self.pipeline.passes()
        self.current: Pass = passes[task.number]
        self.before = passes[task.number - 1].end if task.number else None
        self.tallies = [Tally(s.number, s.name, s.operator.kind) for s in self.current.steps]
        self.read = Tally(READ, "read", "reader")
        self.verdict_tally = (
            Tally(self.before.number, self.before.name, self.before.operator.kind)
            if self.before is not None and self.before.operator.kind != "fold"
            else None
        )
        self.door = self.pipeline.text_door()
        self.rejections = Rejections()
        self.bad: list[dict[str, JSON]] = []
        self.next_part = 0
        self.sums: dict[str, int] = {}
        self.removed = Removed(task.name)
        self.examples: list[tuple[int, int, str]] = []
        self.stem = f"{task.number}-{task.shard:05d}"

    def run(self) -> Done:
        started = time.process_time()
        rows, end = self._row_sinks(), self._end_sink()
        sinks = [*rows, *([end] if end is not None else [])]
        end_seconds = 0.0
        try:
            for batch in self._batches():
                if self.task.last and not self.task.plan.pairs:
                    self.sums = add_counts(self.sums, _sums(batch))
                for sink in rows:
                    sink.add(batch)
                preparing = time.process_time()
                if end is not None:
                    self._end_add(end, batch)
                end_seconds += time.process_time() - preparing
        except NoScore as error:
            self._abandon(sinks)
            assert self.current.end is not None
            where = f"{self.current.end.label} on shard {self.task.name}"
            raise OperatorFailed(f"{where}, {error}") from None
        except BaseException:
            self._abandon(sinks)
            raise
        files: list[File] = []
        roles: dict[str, int] = {}
        for role_, file in [*self._closed(sinks), *self._accounts()]:
            roles[role_] = len(files)
            files.append(file)
        timings = {t.number: t.seconds for t in [*self._before(), *self.tallies]}
        if self.current.end is not None:
            timings[self.current.end.number] = end_seconds
        done = Done(
            key=self.task.key,
            files=tuple(files),
            stats={
                "roles": roles,
                "amount": end.amount if isinstance(end, ScoreSink) else 0,
                "sums": self.sums,
                "removed": self.removed.by_source,
                "examples": self.examples,
                "rank": end.rank if isinstance(end, KeySink) else None,
                "rank_kind": end.rank_kind if isinstance(end, KeySink) else None,
                "steps": [step.model_dump() for step in self._stats()],
            },
            timings={str(number): round(value, 4) for number, value in timings.items()},
            seconds=round(time.process_time() - started, 3),
            host=socket.gethostname(),
        )
        return commit(self.store, done)

    # ---- files out

    def _row_sinks(self) -> list[Sink]:
        """Where the rows go that leave the pass."""
        task, store = self.task, self.store
        plan, stem = task.plan, f"work/{self.stem}"
        if plan.pairs:
            if task.last:
                buckets = min(plan.num_partitions, MAX_BUCKETS)
                return [UidSink(store, stem, num_buckets=buckets, values=plan.values)]
            stored = stored_after(plan, task.number)
            sinks: list[Sink] = [RowSink(store, stem)]
            if stored:
                columns = with_rows(stored)
                sinks.append(TableSink(store, stem, "parquet", role="columns", columns=columns))
            return sinks
        if task.last:
            name = f"data/{task.shard:05d}"
            return [TableSink(store, name, plan.format, role="table", columns=None)]
        if task.excluded or self.current.writes_columns or self._verdict_writes():
            return [TableSink(store, stem, "parquet", role="table", columns=None)]
        return [RowSink(store, stem)]

    def _end_sink(self) -> ScoreSink | KeySink | None:
        """What the global step behind this pass needs of each row."""
        end, stem, assets = self.current.end, f"work/{self.stem}", self.pipeline.assets
        if end is not None and isinstance(end.operator, Select):
            return ScoreSink(self.store, stem, end, assets)
        if end is not None and isinstance(end.operator, Dedup):
            parts = self.task.plan.num_partitions
            return KeySink(self.store, stem, end, assets, num_partitions=parts)
        return None

    def _end_add(self, end: ScoreSink | KeySink, batch: Batch) -> None:
        """Scores or keys of a batch; an operator that raises is named with step and shard."""
        try:
            end.add(batch)
        except (NoScore, StorageError, AssertionError, FailedError):
            raise
        except Exception as error:
            assert self.current.end is not None
            where = f"{self.current.end.label} on shard {self.task.name}"
            first = number_of(int(batch.rows[0])) if batch.num_rows else 0
            raise OperatorFailed(
                f"{where}, in the {batch.num_rows} rows from row {first}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _closed(self, sinks: Sequence[Sink]) -> Iterator[tuple[str, File]]:
        for number, sink in enumerate(sinks):
            try:
                yield from sink.close()
            except BaseException:
                self._abandon(sinks[number + 1 :])
                raise

    def _abandon(self, sinks: Sequence[Sink]) -> None:
        for sink in sinks:
            sink.abandon()

    def _accounts(self) -> Iterator[tuple[str, File]]:
        """The files of rejected rows and of records that were set aside."""
        if self.rejections.num_rows:
            table = self.rejections.table(self._looked_up if self.task.plan.pairs else None)
            name = attempt_name(f"rejected/{self.stem}", ".parquet")
            yield "rejected", write_row_list(self.store, name, table)
        if self.bad:
            name = attempt_name(f"quarantine/{self.stem}", ".jsonl")
            with self.store.create(name) as writer:
                for row in self.bad:
                    writer.write(orjson.dumps(row) + b"\n")
            yield "quarantine", writer.file(num_rows=len(self.bad))

    def _looked_up(self, rows: Sequence[int]) -> Mapping[int, Mapping[str, str | None]]:
        return describe_pairs(self.task, rows)

    def _before(self) -> list[Tally]:
        if self.task.number == 0:
            return [self.read]
        return [] if self.verdict_tally is None else [self.verdict_tally]

    def _amount(self, batch: Batch) -> Amount:
        """Rows with the bytes and words of their texts; captions of pairs are not counted."""
        return Amount(batch.num_rows, 0, 0) if self.task.plan.pairs else batch.amount()

    def _stats(self) -> list[StepStats]:
        return [tally.freeze() for tally in [*self._before(), *self.tallies]]

    def _verdict_writes(self) -> bool:
        """Whether applying the verdict of the step before may change columns."""
        return self.before is not None and bool(self.before.operator.writes())

    # ---- rows in

    def _batches(self) -> Iterator[Batch]:
        """Batches after all steps of this pass. At least one, so that the schema is known."""
        any_batch = False
        for batch in self._entering():
            any_batch = True
            yield self._through_steps(batch)
        if not any_batch:
            yield self._through_steps(Batch(self._empty()))

    def _empty(self) -> pa.Table:
        if self.task.plan.pairs:
            return empty_pairs(self.task)
        return held_schema(self.task.input, self.store, self.task.plan).empty_table()

    def _entering(self) -> Iterator[Batch]:
        """The rows that this pass starts with, the verdict of the step before applied."""
        if self.task.number == 0:
            yield from self._first_rows()
            return
        if self.verdict_tally is None:  # behind a splitter or a fold: nothing left to decide
            yield from self._held_rows()
            return
        assert self.before is not None
        decide = self._decider(self.before)
        for batch in self._held_rows():
            tally = self.verdict_tally
            assert tally is not None
            started = time.process_time()
            tally.enter(self._amount(batch))
            batch = decide(batch)
            tally.leave(self._amount(batch))
            tally.seconds += time.process_time() - started
            yield batch

    def _first_rows(self) -> Iterator[Batch]:
        """Rows of an input shard; broken records and documents without text leave here."""
        if self.task.excluded:
            return
        for chunk in self._chunks():
            self.read.rows_in += sum(bad.num_rows for bad in chunk.bad) + len(chunk.refused)
            for bad in chunk.bad:
                self._bad_record(bad)
            for refused in chunk.refused:
                self.rejections.add_row(refused.row, self.read, refused.reason, refused.url)
            batch = Batch(chunk.table)
            self.read.enter(self._amount(batch))
            if self.door == READ:
                batch = self._with_text(batch, self.read)
            self.read.leave(self._amount(batch))
            yield batch

    def _with_text(self, batch: Batch, tally: Tally) -> Batch:
        """The rows that have a text; pairs do without, and so do tables without the column."""
        if self.task.plan.pairs or not batch.has(TEXT) or not batch.text.null_count:
            return batch
        without_text = batch.text.is_null().to_numpy(zero_copy_only=False)
        return self._reject(batch, choose([(without_text, "no_text")]), tally)

    def _chunks(self) -> Iterator[Any]:
        chunks = first_chunks(self.task)
        while True:
            started = time.process_time()
            try:
                chunk = next(chunks, None)
            except ShardError as error:  # the file as a whole, or all that is left of it
                if not self.task.plan.quarantine:
                    raise
                self.read.rows_in += 1
                self._bad_record(BadRow(row_of(self.task.shard, 0), str(error), b""))
                return
            self.read.seconds += time.process_time() - started
            if chunk is None:
                return
            yield chunk

    def _bad_record(self, bad: BadRow) -> None:
        if not self.task.plan.quarantine:
            raise ShardError(
                f"{self.task.plan.input_uri}/{self.task.name}, record {number_of(bad.row) + 1}: "
                f"{bad.error}; repair the shard, or run with --quarantine to set such records aside"
            )
        self.read.errors += bad.num_rows
        rows: dict[str, JSON] = {} if bad.num_rows == 1 else {"num_rows": bad.num_rows}
        self._quarantine(bad.row, "read", bad.error, **rows, **_raw(bad.raw))

    def _quarantine(self, row: int, step: str, error: str, **content: JSON) -> None:
        self.bad.append(
            {"shard": self.task.name, "row": row, "step": step, "error": error, **content}
        )

    def _held_rows(self) -> Iterator[Batch]:
        """Rows as the pass before left them."""
        return task_rows(self.task, self.store)

    def _decider(self, step: Step) -> Any:
        """A function that applies the global verdict to one batch after another, in order."""
        verdict = self.task.verdict
        assert verdict is not None, "a pass behind a global step needs its verdict"
        operator = step.operator
        tally = self.verdict_tally
        assert tally is not None
        if isinstance(operator, Select):
            assert self.task.scores is not None
            scores = load_array(self.store, self.task.scores)
            cut = verdict.cut(self.task.shard)
            position = 0

            def select(batch: Batch) -> Batch:
                nonlocal position
                part = scores[position : position + batch.num_rows]
                position += batch.num_rows
                missing = np.isnan(part)
                stays = cut.keep(part, operator.weight(batch))
                below, no_score = operator.reasons
                limit = None if cut.threshold == NO_CUT else score_of(cut.threshold)
                cases = [
                    Case(missing, no_score),
                    Case(~stays & ~missing, below, part, limit),
                ]
                tally.measure(cases[1])
                return self._reject(batch, choose(cases), tally)

            return select
        assert isinstance(operator, Dedup)
        rows, units = read_verdict(self.store, verdict, self.task.shard)

        def deduplicate(batch: Batch) -> Batch:
            start = np.searchsorted(rows, batch.rows, side="left")
            stop = np.searchsorted(rows, batch.rows, side="right")
            dropped = [units[a:b] for a, b in zip(start, stop, strict=True)]
            self._take_examples(operator, verdict, batch)
            outcome = dict(operator.apply(batch, dropped))
            reject = outcome.pop("reject", None)
            after = batch.write(outcome) if outcome else batch
            after = after if reject is None else self._reject(after, reject, tally)
            self.removed.count(batch, after)
            return after

        return deduplicate

    def _take_examples(self, operator: Dedup, verdict: Verdict, batch: Batch) -> None:
        """The text of units that stand for the largest groups, for the report."""
        for row, unit in verdict.examples:
            position = int(np.searchsorted(batch.rows, row))
            if position < batch.num_rows and batch.rows[position] == row:
                value = batch.column(operator.reads()[0])[position].as_py()
                text = operator.excerpt(str(value), unit)[:EXAMPLE_CHARACTERS]
                self.examples.append((row, unit, text))

    # ---- steps

    def _through_steps(self, batch: Batch) -> Batch:
        for step, tally in zip(self.current.steps, self.tallies, strict=True):
            started = time.process_time()
            tally.enter(self._amount(batch))
            batch = self._through(step, tally, batch)
            if step.number == self.door:
                batch = self._with_text(batch, tally)
            tally.leave(self._amount(batch))
            tally.seconds += time.process_time() - started
        return batch

    def _through(self, step: Step, tally: Tally, batch: Batch) -> Batch:
        """One step over one batch; when it raises, the batch is halved until the row is alone."""
        operator = loaded(step, self.pipeline.assets)
        try:
            return self._one(step, operator, tally, batch)
        except (OperatorFailed, AssertionError):
            raise
        except Exception as error:
            if batch.num_rows <= 1:
                return self._failed(step, tally, batch, error)
        middle = batch.num_rows // 2
        halves = [
            self._through(step, tally, half)
            for half in (batch.slice(0, middle), batch.slice(middle, batch.num_rows - middle))
        ]
        return Batch(pa.concat_tables([half.table for half in halves]))

    def _failed(self, step: Step, tally: Tally, batch: Batch, error: Exception) -> Batch:
        problem = f"{type(error).__name__}: {error}{_line_of(error, self.task.plan.modules)}"
        where = f"{step.label} on shard {self.task.name}"
        if batch.num_rows == 0:
            raise OperatorFailed(f"{where}: fails on an empty batch: {problem}") from error
        row = int(batch.rows[0])
        if not self.task.plan.quarantine:
            raise OperatorFailed(
                f"{where}, row {number_of(row)} (id {row}): {problem}; repair the operator, or run "
                "with --quarantine to set such rows aside"
            ) from error
        tally.errors += 1
        content = {name: batch.column(name)[0].as_py() for name in batch.table.column_names}
        content.pop(ROW)
        self._quarantine(row, step.name, problem, content=_jsonable(content))
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
            return self._reject(batch, reasons, tally, filter_=operator)
        if operator.kind == "modifier":
            columns, counts = _counted(operator.modify(batch))  # type: ignore[attr-defined]
            self._check_columns(step, operator, columns)
            tally.count(counts)
            return self._modified(step, operator, tally, batch, columns)
        assert operator.kind == "splitter", operator.kind
        parts, parent = operator.split(batch)  # type: ignore[attr-defined]
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
            batch = self._reject(batch, choose([(emptied, operator.reasons[0])]), tally)
        return batch

    def _split(
        self, tally: Tally, batch: Batch, parts: pa.Table, parent: npt.NDArray[np.int64]
    ) -> Batch:
        if len(parent) != parts.num_rows or (len(parent) and (np.diff(parent) < 0).any()):
            raise ValueError("split must return one parent per part, in the order of the parents")
        has_parts = np.zeros(batch.num_rows, dtype=bool)
        has_parts[parent] = True
        self._reject(batch, choose([(~has_parts, "no_parts")]), tally)
        tally.split += parts.num_rows - int(has_parts.sum())
        first = row_of(self.task.shard, self.next_part)
        self.next_part += parts.num_rows
        rows = np.arange(first, first + parts.num_rows, dtype=np.int64)
        parents = batch.rows[parent]
        table = parts.drop_columns([n for n in (ROW, PARENT) if n in parts.column_names])
        table = table.add_column(0, ROW, pa.array(rows))
        return Batch(table.append_column(PARENT, pa.array(parents)))

    def _reject(
        self, batch: Batch, reasons: pa.Array, tally: Tally, *, filter_: Filter | None = None
    ) -> Batch:
        """Drop the rows that have a reason; count and remember them."""
        if reasons.null_count == len(reasons):
            return batch
        self.rejections.add(batch, reasons, tally, filter_=filter_)
        return batch.keep(~reasons.is_valid().to_numpy(zero_copy_only=False))

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
        declared = dict(operator.writes())
        for name, values in columns.items():
            if name not in declared:
                raise ValueError(
                    f"modify wrote the column {name!r}, but {step.name} declares "
                    f"{sorted(declared)} in writes()"
                )
            if values.type != declared[name]:
                raise ValueError(
                    f"modify wrote {name!r} as {values.type}, declared as {declared[name]}"
                )


def _line_of(error: Exception, modules: Mapping[str, Any]) -> str:
    """Where in a participant's own file an error was raised, as ` (mine.py, line 12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename in modules]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _counted(result: Any) -> tuple[Any, Mapping[str, int]]:
    return (result.value, result.counts) if isinstance(result, Counted) else (result, {})


def _sums(batch: Batch) -> dict[str, int]:
    """Totals of the integer columns named num_*, for the record."""
    return {
        field.name: int(pc.sum(batch.table.column(field.name)).as_py() or 0)
        for field in batch.table.schema
        if field.name.startswith("num_") and pa.types.is_integer(field.type)
    }


def _raw(data: bytes) -> dict[str, JSON]:
    """Bytes as JSON can hold them, so that nothing of a broken record is lost."""
    try:
        return {"raw": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(data).decode("ascii")}


def _jsonable(content: Mapping[str, Any]) -> dict[str, JSON]:
    return {
        name: value if isinstance(value, str | int | float | bool | None) else repr(value)
        for name, value in content.items()
    }


def steps_of(done: Done) -> Sequence[StepStats]:
    """The statistics that a shard's commit holds."""
    return [StepStats.model_validate(step) for step in done.stats["steps"]]


def role(done: Done, name: str) -> str | None:
    """The name of the file that a shard wrote in this role, or None."""
    index = done.stats["roles"].get(name)
    return None if index is None else done.files[index].name
