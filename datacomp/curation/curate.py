"""Curation of image-text pairs: a pipeline over the tables of a pool, to a sorted list of uids.

Only tables are read, and of them only the columns that some step reads. A Select ends a pass; rows
travel between passes as their places in the file. In the end every shard writes its uids by their
leading bits, each such part is sorted on its own, and the parts in order are the list: memory does
not grow with the pool. Any number of workers writes the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, ValidationError

from pipelines import kernels
from pipelines.assets.catalogue import Assets
from pipelines.batch import Amount, Batch
from pipelines.engine.evidence import has_cases
from pipelines.engine.run import STATS, Result, RunFailed, RunSummary, dataset_work, finished
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.formats.uid_lists import npy_header
from pipelines.formats.uid_subset import (
    BUCKET_BYTES,
    MAX_BUCKETS,
    SUBSET_FILE,
    Ints,
    SortTask,
    _write_uids,
    run_sort,
)
from pipelines.formats.writers import write_array
from pipelines.global_steps.exact_cut import find_cut
from pipelines.image_text.scores import INDEX, PREFIX
from pipelines.images.pairs import UID, check_columns, read_table
from pipelines.job import Plan, load_array, loaded
from pipelines.operators import Counted, Filter, Modifier, PipelineError, Select, choose
from pipelines.pipeline import Pass, Pipeline
from pipelines.records import DatasetRecord, File, Frozen, digest, made_by, now, sha256_file
from pipelines.schema import ROW
from pipelines.stats import READ, RunStats, StepStats, Tally, merge
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, write_chain
from pipelines.storage.commits import Done, attempt_name, find_done
from pipelines.storage.open import open_store
from pipelines.verdict import Verdict

WORK = ("work", "done")


class Index(Frozen):
    """Where the scores of a pool are: the file of each table, by the table's sha256."""

    id: str = Field(description="hash of what was asked for: tables, tars, scorer")
    scorer: str
    files: dict[str, File]


class CurateTask(Frozen):
    """One pass over one table. `rows`: places still there; `scores`: of the Select before."""

    plan: Plan
    number: int
    last: bool
    shard: int
    name: str
    sha256: str
    key: str
    num_buckets: int
    rows: str | None = None
    scores: str | None = None
    verdict: Verdict | None = None

    @property
    def uri(self) -> str:
        return self.plan.output_uri

    @property
    def step(self) -> int:
        return self.number


def curate(
    pipeline: Pipeline, pool: Pool, *, out: str, map_tasks: MapTasks, quarantine: bool = False
) -> Result:
    """Run a pipeline of row-wise steps and Selects over a pool's tables.

    `out` gets `subset.npy` (sorted records of `u8,u8`, one for each row that stays, twice where
    the pool has a uid twice), `stats.json` and `record.json`. With `quarantine`, rows whose uid is
    no uid are left out and counted; without, they stop the run.
    """
    started, clock = now(), time.monotonic()
    store = open_store(out)
    work = dataset_work(pipeline, quarantine=quarantine, format="uids")
    parents = {"pool": pool.record.id}
    key = DatasetRecord.key_of(work=work, parents=parents)
    if store.exists(RECORD):
        result = finished(store)
        if result.record.key != key:
            raise RunFailed(f"{store.uri} holds another finished run; choose another --out")
        return result
    passes = pipeline.passes()
    _check(pipeline, pool)
    plan = Plan(
        name=pipeline.name,
        steps=tuple({step.name: step.operator.model_dump(mode="json")} for step in pipeline.steps),
        modules=pipeline.modules,
        asset_folders=tuple(str(folder) for folder in pipeline.assets.folders),
        input_uri=pool.uri,
        output_uri=store.uri,
        quarantine=quarantine,
    )
    buckets = min(MAX_BUCKETS, max(1, -(-pool.num_bytes // BUCKET_BYTES)))
    stats: list[list[StepStats]] = []
    seconds: dict[str, float] = {}
    state = digest([key, buckets])
    done: list[Done] = []
    verdict: Verdict | None = None
    for current in passes:
        tasks = [
            CurateTask(
                plan=plan,
                number=current.number,
                last=current.number == len(passes) - 1,
                shard=number,
                name=shard.name,
                sha256=shard.sha256,
                key=f"t{current.number}-{number:06d}-{digest([state, shard.sha256])[:16]}",
                num_buckets=buckets,
                rows=_named(done[number], "rows") if done else None,
                scores=_named(done[number], "scores") if done else None,
                verdict=verdict,
            )
            for number, shard in enumerate(pool.shards)
        ]
        title = f"{pipeline.name}: pass {current.number + 1} of {len(passes)}"
        done = _map(title, run_pass, tasks, map_tasks)
        stats += [[StepStats.model_validate(one) for one in d.stats["steps"]] for d in done]
        _add(seconds, done)
        if current.end is not None and current.number < len(passes) - 1:
            verdict = _cut(store, current, done, map_tasks)
            state = digest([state, verdict.hash])
    sort = [
        SortTask(
            uri=store.uri,
            key=f"sort-{part:05d}-{state[:16]}",
            part=part,
            files=tuple(str(_named(one, "uids")) for one in done),
        )
        for part in range(buckets)
    ]
    parts = _map(f"{pipeline.name}: sort uids", run_sort, sort, map_tasks)
    merged = merge(stats)
    merged.check()
    return _finish(store, pool, work, parents, merged, seconds, parts, started, clock)


def _check(pipeline: Pipeline, pool: Pool) -> None:
    """PipelineError for steps that cannot run over tables, and for columns that are not there."""
    wanted = {UID}
    written: set[str] = set()
    for step in pipeline.steps:
        if not isinstance(step.operator, Filter | Modifier | Select):
            raise PipelineError(
                f"{pipeline.name}: {step.label} is a {step.operator.kind}; a list of uids can be "
                "made by filters, modifiers and selections"
            )
        wanted |= set(step.operator.reads()) - written
        written |= set(step.operator.writes())
    check_columns(open_store(pool.uri), pool.shards[0].name, sorted(wanted))
    for column in wanted:
        if column.startswith(PREFIX):
            name = column.removeprefix(PREFIX)
            index, folder = read_index(pipeline.assets, name)
            lost = [shard.name for shard in pool.shards if shard.sha256 not in index.files]
            if lost:
                raise PipelineError(
                    f"{pipeline.name}: the scores {name!r} in {folder} were made for another pool "
                    f"(they have none for {lost[0]}); make them with: datacomp score --name {name}"
                )


def _cut(store: Store, current: Pass, done: Sequence[Done], map_tasks: MapTasks) -> Verdict:
    assert current.end is not None
    operator = current.end.operator
    assert isinstance(operator, Select)
    if operator.of != "rows":
        raise PipelineError(f"{current.end.label}: over tables a selection counts rows")
    try:
        return find_cut(
            operator,
            uri=store.uri,
            scores=[str(_named(one, "scores")) for one in done],
            weights=[None] * len(done),
            amount=sum(one.counts["rows"] for one in done),
            map_tasks=map_tasks,
        )
    except ValueError as error:
        raise PipelineError(f"{current.end.label}: {error}") from None


# ---- one table


@once
def run_pass(task: CurateTask, store: Store) -> Done:
    """Apply the steps of one pass to one table."""
    pipeline = task.plan.pipeline()
    current = pipeline.passes()[task.number]
    end = current.end if not task.last else None
    read = Tally(READ, "read", "read")
    tallies = [Tally(step.number, step.name, step.operator.kind) for step in current.steps]
    before = pipeline.passes()[task.number - 1].end if task.number else None
    decided = None if before is None else Tally(before.number, before.name, before.operator.kind)
    rows: list[Ints] = []
    scores: list[npt.NDArray[np.float64]] = []
    uids: list[tuple[Any, Any]] = []
    first = [read] if decided is None else [decided]
    begun = time.process_time()
    for batch in _entering(task, store, read, decided):
        begun = _took(first[0], begun)
        for step, tally in zip(current.steps, tallies, strict=True):
            operator = loaded(step, pipeline.assets)
            tally.enter(Amount(batch.num_rows, 0, 0))
            try:
                batch = _through(operator, batch, tally)
            except ValueError as error:
                where = f"{step.label} on {task.plan.input_uri}/{task.name}"
                raise PipelineError(f"{where}: {error}") from error
            tally.leave(Amount(batch.num_rows, 0, 0))
            begun = _took(tally, begun)
        if end is not None:
            operator = loaded(end, pipeline.assets)
            assert isinstance(operator, Select)
            scores.append(np.asarray(operator.score(batch), dtype=np.float64))
            rows.append(batch.rows)
        else:
            high, low, _ = kernels.uids.parse(batch.column(UID))
            uids.append((high, low))
        begun = _took(first[0], begun)
    files: list[File] = []
    roles: dict[str, int] = {}
    stem = f"work/{task.number}-{task.shard:06d}"
    if end is not None:
        for role, parts in (("rows", rows), ("scores", scores)):
            roles[role] = len(files)
            array = np.concatenate(parts)
            files.append(write_array(store, attempt_name(f"{stem}-{role}", ".npy"), array))
    else:
        roles["uids"] = 0
        files.append(_write_uids(store, f"{stem}-uids", uids, task.num_buckets))
    _took(first[0], begun)
    counts = {"rows": sum(map(len, rows)) if end is not None else sum(len(h) for h, _ in uids)}
    told = [*first, *tallies]
    return Done(
        key=task.key,
        files=tuple(files),
        counts=counts,
        stats={"r": roles, "steps": [tally.freeze().model_dump() for tally in told]},
        timings={str(tally.number): round(tally.seconds, 4) for tally in told},
    )


def _took(tally: Tally, begun: float) -> float:
    """Count the CPU time since `begun` for a step; returns the time now."""
    now_ = time.process_time()
    tally.seconds += now_ - begun
    return now_


def _entering(
    task: CurateTask, store: Store, read: Tally, decided: Tally | None
) -> Iterator[Batch]:
    """The rows that this pass starts with, in batches, with the columns that it reads."""
    source = open_store(task.plan.input_uri)
    keep: Ints | None = None
    if decided is not None:
        keep = _decide(task, store, decided)
    first = task.number == 0
    columns = _columns(task)
    for batch in read_table(source, task.name, columns, scores=_scores(task, columns)):
        if first:
            read.enter(Amount(batch.num_rows, 0, 0))
            batch = _with_uids(task, batch, read)
            read.leave(Amount(batch.num_rows, 0, 0))
        if keep is not None and batch.num_rows:
            begin = np.searchsorted(keep, batch.rows[0])
            stop = np.searchsorted(keep, batch.rows[-1], side="right")
            mask = np.zeros(batch.num_rows, dtype=bool)
            mask[keep[begin:stop] - batch.rows[0]] = True
            batch = batch.keep(mask)
        yield batch


def _columns(task: CurateTask) -> list[str]:
    """What the steps of this pass read, and the uid where it is looked at."""
    current = task.plan.pipeline().passes()[task.number]
    steps = [*current.steps, *([current.end] if current.end is not None else [])]
    wanted: dict[str, None] = {UID: None} if task.number == 0 or task.last else {}
    written: set[str] = set()
    for step in steps:
        wanted |= dict.fromkeys(name for name in step.operator.reads() if name not in written)
        written |= set(step.operator.writes())
    wanted.pop(ROW, None)
    return list(wanted)


def _scores(task: CurateTask, columns: Sequence[str]) -> dict[str, Path]:
    """Where the scores that this pass reads are, for this table."""
    assets = task.plan.pipeline().assets
    found = {}
    for column in columns:
        if column.startswith(PREFIX):
            index, folder = read_index(assets, column.removeprefix(PREFIX))
            file = index.files[task.sha256]
            path = folder / file.name
            if not path.is_file() or sha256_file(path) != file.sha256:
                raise PipelineError(
                    f"{path} is not the file that {folder}/{INDEX} names; copy the whole folder of "
                    "scores, or run datacomp score again"
                )
            found[column] = path
    return found


def read_index(assets: Assets, name: str) -> tuple[Index, Path]:
    """The index of scores of this name, and the folder that it lies in."""
    path = assets.path(f"{name}/{INDEX}")
    try:
        return Index.model_validate_json(path.read_bytes()), path.parent
    except ValidationError:
        raise PipelineError(f"{path} is no index of scores; run datacomp score again") from None


def _with_uids(task: CurateTask, batch: Batch, read: Tally) -> Batch:
    """The rows that have a uid; what has none stops the run, or is counted with `quarantine`."""
    column = batch.column(UID)
    if not pa.types.is_large_string(column.type):
        raise PipelineError(f"{task.name}: the column 'uid' holds {column.type}, expected strings")
    _, _, bad = kernels.uids.parse(column)
    if not bad.any():
        return batch
    place = int(np.flatnonzero(bad)[0])
    if not task.plan.quarantine:
        raise PipelineError(
            f"{task.plan.input_uri}/{task.name}, row {int(batch.rows[place])}: the uid is "
            f"{column[place].as_py()!r}, expected 32 lower-case hexadecimal digits; repair the "
            "table, or run with --quarantine to leave such rows out"
        )
    read.errors += int(bad.sum())
    return batch.keep(~bad)


def _decide(task: CurateTask, store: Store, tally: Tally) -> Ints:
    """Places of the rows that the Select before this pass keeps."""
    assert task.verdict is not None
    assert task.rows is not None
    assert task.scores is not None
    rows, scores = load_array(store, task.rows), load_array(store, task.scores)
    pipeline = task.plan.pipeline()
    end = pipeline.passes()[task.number - 1].end
    assert end is not None
    below, no_score = end.operator.reasons
    missing = np.isnan(scores)
    stays = task.verdict.cut(task.shard).keep(scores, np.ones(len(scores), np.int64))
    tally.enter(Amount(len(rows), 0, 0))
    tally.because(no_score, int(missing.sum()))
    tally.because(below, int((~stays & ~missing).sum()))
    tally.leave(Amount(int(stays.sum()), 0, 0))
    return rows[stays]  # type: ignore[no-any-return]


def _through(operator: Any, batch: Batch, tally: Tally) -> Batch:
    if isinstance(operator, Modifier):
        result = operator.modify(batch)
        columns = result.value if isinstance(result, Counted) else result
        return batch.write(columns).drop(operator.drops())
    assert isinstance(operator, Filter)
    cases = operator.cases(batch) if has_cases(operator) else ()
    found = choose(cases) if cases else operator.reject(batch)
    if isinstance(found, Counted):
        tally.count(found.counts)
        found = found.value
    for case in cases:
        tally.measure(case)
    if found.null_count == len(found):
        return batch
    gone = found.is_valid().to_numpy(zero_copy_only=False)
    for reason, number in _counts(found):
        tally.because(reason, number)
    return batch.keep(~gone)


def _counts(reasons: pa.Array) -> list[tuple[str, int]]:
    counted = reasons.drop_null().value_counts()
    return [(one["values"], one["counts"]) for one in counted.to_pylist()]


# ---- the end


def _finish(
    store: Store,
    pool: Pool,
    work: Any,
    parents: dict[str, str],
    stats: RunStats,
    seconds: dict[str, float],
    parts: Sequence[Done],
    started: str,
    clock: float,
) -> Result:
    total = sum(one.files[0].num_rows or 0 for one in parts)
    with store.create(SUBSET_FILE) as out:
        out.write(npy_header(total))
        for one in parts:
            with store.open(one.files[0].name) as file:
                while data := file.read(8 << 20):
                    out.write(data)
    subset = out.file(num_rows=total)
    record = DatasetRecord.seal(
        work=work,
        parents=parents,
        outputs=[subset],
        counts={"rows_in": stats.rows_in, "rows_out": stats.rows_out, "errors": stats.errors},
        made_by=made_by(started, locations={"pool": pool.uri, "out": store.uri}),
    )
    summary = RunSummary(
        stats=stats,
        seconds=seconds,
        cpu_seconds=round(sum(seconds.values()), 3),
        wall_seconds=round(time.monotonic() - clock, 3),
    )
    write_bytes(store, STATS, summary.model_dump_json(indent=2).encode())
    write_chain(store, [pool.record])
    write_bytes(store, RECORD, record.to_json())
    for folder in WORK:
        for entry in list(store.list(f"{folder}/")):
            store.remove(entry.name)
    return Result(record, summary, skipped=False)


def _named(done: Done, role: str) -> str | None:
    place = done.stats["r"].get(role)
    return None if place is None else done.files[place].name


def _map(title: str, function: Any, tasks: Sequence[Any], map_tasks: MapTasks) -> list[Done]:
    """Run what is not done yet, with a bar."""
    store = open_store(tasks[0].uri)
    standing = {entry.name for entry in store.list("done/")}
    found: dict[str, Done] = {}
    for task in tasks:
        if f"done/{task.key}.json" in standing:
            done = find_done(store, task.key)
            if done is not None:
                found[task.key] = done
    missing = [task for task in tasks if task.key not in found]
    with progress_step(title, total=len(tasks), unit="tables") as bar:
        bar.advance(len(found))
        fresh = map_tasks(function, missing, on_result=lambda *_: bar.advance())
    for task, done in zip(missing, fresh, strict=True):
        found[task.key] = done
    return [found[task.key] for task in tasks]


def _add(seconds: dict[str, float], done: Sequence[Done]) -> None:
    for one in done:
        for number, value in one.timings.items():
            seconds[number] = round(seconds.get(number, 0.0) + value, 4)
