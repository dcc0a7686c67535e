"""One pass over one shard: read, drop what the last global step decided, run the steps, write.

`run_shard` is what executors run. It knows the plan, its input and its key, and commits everything
it wrote with one done file; a second run of the same task changes nothing.
"""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch
from pipelines.engine.row_steps import OperatorFailed, RowSteps, gpus_of
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
from pipelines.job import ShardTask, load_array
from pipelines.operators import Case, Dedup, Select, choose
from pipelines.pipeline import Pass, Step
from pipelines.records import JSON, File
from pipelines.schema import number_of, row_of
from pipelines.sources import (
    describe_pairs,
    empty_pairs,
    first_chunks,
    held_schema,
    stored_after,
    task_rows,
)
from pipelines.stats import ON_GPU, READ, StepStats, Tally, add_counts
from pipelines.storage.base import StorageError, Store
from pipelines.storage.commits import Done, attempt_name, commit, find_done
from pipelines.storage.open import open_store
from pipelines.verdict import NO_CUT, Verdict


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
        self.read = Tally(READ, "read", "reader")
        self.verdict_tally = (
            Tally(self.before.number, self.before.name, self.before.operator.kind)
            if self.before is not None and self.before.operator.kind != "fold"
            else None
        )
        self.steps = RowSteps(task, self.pipeline, self.current.steps)
        self.sums: dict[str, int] = {}
        self.removed = Removed(task.name)
        self.examples: list[tuple[int, int, str]] = []
        self.stem = f"{task.number}-{task.shard:05d}"

    def run(self) -> Done:
        started = time.process_time()
        rows, end = self._row_sinks(), self._end_sink()
        sinks = [*rows, *([end] if end is not None else [])]
        end_seconds = end_gpu_seconds = 0.0
        end_gpus = 0.0 if self.current.end is None else gpus_of(self.current.end)
        try:
            for batch in self._batches():
                if self.task.last and not self.task.plan.pairs:
                    self.sums = add_counts(self.sums, _sums(batch))
                for sink in rows:
                    sink.add(batch)
                preparing, clock = time.process_time(), time.monotonic()
                if end is not None:
                    self._end_add(end, batch)
                end_seconds += time.process_time() - preparing
                end_gpu_seconds += end_gpus * (time.monotonic() - clock)
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
        tallies = [*self._before(), *self.steps.tallies]
        timings = {str(tally.number): tally.seconds for tally in tallies}
        on_gpus = {str(tally.number): tally.gpu_seconds for tally in tallies}
        if self.current.end is not None:
            timings[str(self.current.end.number)] = end_seconds
            on_gpus[str(self.current.end.number)] = end_gpu_seconds
        timings |= {f"{number}{ON_GPU}": took for number, took in on_gpus.items() if took}
        done = Done(
            key=self.task.key,
            files=tuple(files),
            stats={
                "roles": roles,
                "amount": end.amount if isinstance(end, ScoreSink) else 0,
                "sums": self.sums,
                "removed": self.removed.by_source,
                "losses": self.removed.losses.counts(),
                "examples": self.examples,
                "rank": end.rank if isinstance(end, KeySink) else None,
                "kinds": end.kinds if isinstance(end, KeySink) else {},
                "steps": [step.model_dump() for step in self._stats()],
            },
            timings={number: round(value, 4) for number, value in timings.items()},
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
        if self.steps.rejections.num_rows:
            table = self.steps.rejections.table(self._looked_up if self.task.plan.pairs else None)
            name = attempt_name(f"rejected/{self.stem}", ".parquet")
            yield "rejected", write_row_list(self.store, name, table)
        if self.steps.bad:
            name = attempt_name(f"quarantine/{self.stem}", ".jsonl")
            with self.store.create(name) as writer:
                for row in self.steps.bad:
                    writer.write(orjson.dumps(row) + b"\n")
            yield "quarantine", writer.file(num_rows=len(self.steps.bad))

    def _looked_up(self, rows: Sequence[int]) -> Mapping[int, Mapping[str, str | None]]:
        return describe_pairs(self.task, rows)

    def _before(self) -> list[Tally]:
        if self.task.number == 0:
            return [self.read]
        return [] if self.verdict_tally is None else [self.verdict_tally]

    def _stats(self) -> list[StepStats]:
        return [tally.freeze() for tally in [*self._before(), *self.steps.tallies]]

    def _verdict_writes(self) -> bool:
        """Whether applying the verdict of the step before may change columns."""
        return self.before is not None and bool(self.before.operator.writes())

    # ---- rows in

    def _batches(self) -> Iterator[Batch]:
        """Batches after all steps of this pass. At least one, so that the schema is known."""
        any_batch = False
        for batch in self._entering():
            any_batch = True
            yield self.steps.apply(batch)
        if not any_batch:
            yield self.steps.apply(Batch(self._empty()))

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
            tally.enter(self.steps.amount(batch))
            batch = decide(batch)
            tally.leave(self.steps.amount(batch))
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
                self.steps.rejections.add_row(refused.row, self.read, refused.reason, refused.url)
            batch = Batch(chunk.table)
            self.read.enter(self.steps.amount(batch))
            if self.steps.door == READ:
                batch = self.steps.with_text(batch, self.read)
            self.read.leave(self.steps.amount(batch))
            yield batch

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
        self.steps.set_aside(bad.row, "read", bad.error, **rows, **_raw(bad.raw))

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
            copies = operator.copies()
            position = 0

            def select(batch: Batch) -> Batch:
                nonlocal position
                each = scores[position : position + batch.num_rows * copies]
                position += len(each)
                weights = operator.weight(batch)
                kept = cut.keep(each, weights if copies == 1 else np.repeat(weights, copies))
                times: npt.NDArray[Any] = kept
                part = each
                if copies > 1:
                    times = kept.reshape(batch.num_rows, copies).sum(1)
                    part = each.reshape(batch.num_rows, copies).max(1, initial=-np.inf)
                missing = np.isnan(part)
                stays = times > 0
                below, no_score = operator.reasons
                limit = None if cut.threshold == NO_CUT else score_of(cut.threshold)
                cases = [
                    Case(missing, no_score),
                    Case(~stays & ~missing, below, part, limit),
                ]
                tally.measure(cases[1])
                batch = self.steps.reject(batch, choose(cases), tally)
                return batch if copies == 1 else _repeated(batch, times[stays], tally)

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
            after = after if reject is None else self.steps.reject(after, reject, tally)
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


def _repeated(batch: Batch, times: npt.NDArray[np.int64], tally: Tally) -> Batch:
    """Each row as often as it stays, beside itself; the tally holds the further copies."""
    tally.split += int(times.sum()) - batch.num_rows
    return Batch(batch.table.take(np.repeat(np.arange(batch.num_rows), times)))


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
