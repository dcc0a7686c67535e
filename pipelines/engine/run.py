"""A pipeline over a pool: passes, verdicts, and the DatasetRecord at the end.

`run` may be stopped at any moment and started again, by any number of workers: every piece of work
has a key made of what it depends on, finished pieces are found by it, and the record is written
last. A folder belongs to one run; other work is refused rather than mixed in.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from pipelines.assets.catalogue import Assets
from pipelines.engine.global_end import GlobalSteps, needs_of
from pipelines.engine.overwrite import forget_run
from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run_checks import (
    aggregates_of,
    check_any_text,
    check_has_text,
    check_places,
    check_rows,
    warn_of_nothing,
)
from pipelines.engine.run_folder import (
    FOLDERS,
    RUN,
    STATS,
    Result,
    RunFailed,
    RunFile,
    RunSummary,
    finished,
    gpu_seconds,
    read_run,
)
from pipelines.engine.shard import run_shard
from pipelines.engine.shard_files import done_file, role, steps_of, written
from pipelines.engine.share import adopt
from pipelines.engine.trial import Trial, try_participants
from pipelines.execution.executors import MapTasks, WorkerLost, map_here
from pipelines.execution.monitor import Watch, failures, forget_failures
from pipelines.formats.pool import Pool, open_pool
from pipelines.formats.shard_identity import Identity
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_subset import MAX_BUCKETS, SortTask, join_uids, join_values, run_sort
from pipelines.global_steps.merged_files import Merger
from pipelines.images.pairs import check_pipeline, open_pairs
from pipelines.job import UIDS, Held, Plan, ShardTask
from pipelines.pipeline import Pipeline
from pipelines.records import (
    JSON,
    AssetRecord,
    AssetRef,
    DatasetRecord,
    DatasetWork,
    File,
    RecordError,
    digest,
    made_by,
    now,
    parse_record,
)
from pipelines.stats import RunStats, StepStats, add_counts, merge
from pipelines.storage.base import StorageError, Store, write_bytes
from pipelines.storage.chain import RECORD, write_chain
from pipelines.storage.commits import Done, all_done, is_attempt
from pipelines.storage.open import open_store
from pipelines.verdict import Verdict

PRICED = ("tokens_read", "tokens_written", "micro_dollars")
"""Counters of steps that ask a model: the record holds them, since they are part of its cost."""
PARTITION_BYTES = 256 << 20  # of the pool for each part of a global step: a part fits a worker
RECOVERABLE = (OperatorFailed, ShardError, WorkerLost, StorageError, MemoryError)
"""What one shard may fail of while the others continue."""


def run(
    pipeline: Pipeline,
    pool: Pool,
    *,
    out: str,
    map_tasks: MapTasks = map_here,
    quarantine: bool = False,
    format: str = "parquet",
    external: bool = False,
    max_failed_shards: int = 0,
    exclude_failed: bool = False,
    share: str | None = None,
    keep_work: bool = False,
    overwrite: bool = False,
    allow_empty: bool = False,
) -> Result:
    """Run `pipeline` over `pool` into the folder or bucket prefix `out`.

    Returns at once when the same work is already there. Raises PipelineError, AssetError or
    ShardError for bad input, RunFailed when `out` holds other work. `external` marks data that was
    curated elsewhere.

    When a shard fails, the run stops; with `max_failed_shards` up to that many may fail in a pass
    and all others are done before ShardsFailed is raised. Running again does only what is missing.
    `exclude_failed` leaves the shards out that failed before; the record names them.

    Passes that the run in `share` has made alike are taken from it. `keep_work` leaves the files
    between passes for that; `forget_work` removes them. `overwrite` removes the run that is in
    `out`, finished or not, when all that can be checked of this one has been. A pool without
    rows is an error unless `allow_empty`, one without a text in any row always.
    """
    pipeline.check_ready()
    if format == UIDS:
        check_pipeline(pipeline, pool)
    else:
        pipeline.check_columns(pool.schema(), inside=pool.fields())
        check_has_text(pipeline, pool, external=external)
    check_rows(pipeline, pool)
    check_places(pool, out)
    store = open_store(out)
    excluded = _failed_shards(store) if exclude_failed else ()
    work = dataset_work(
        pipeline, quarantine=quarantine, format=format, external=external, excluded=excluded
    )
    if overwrite:
        forget_run(store)
    shared = None if share is None else open_store(share)
    current = _Run(pipeline, pool, store, map_tasks, work, max_failed_shards, shared)
    current.allow_empty = allow_empty
    return current.run(keep_work=keep_work)


def retry(
    uri: str,
    *,
    assets: Assets | None = None,
    map_tasks: MapTasks = map_here,
    max_failed_shards: int = 0,
    exclude_failed: bool = False,
) -> Result:
    """Continue with the run in a folder: what is done stays, what failed or is missing is done.

    Needs nothing but the folder, which holds the pipeline and names the pool; so another person, on
    another machine, may do it. `assets` are needed where their folders differ there.
    """
    store = open_store(uri)
    known = read_run(store)
    if known.plan is None:
        raise RunFailed(
            f"{store.uri} is not a pipeline's run: give the command that began it again"
        )
    plan = known.plan
    return run(
        plan.pipeline(assets=assets),
        _pool_of(plan),
        out=uri,
        map_tasks=map_tasks,
        quarantine=plan.quarantine,
        format=plan.format,
        external=known.external,
        max_failed_shards=max_failed_shards,
        exclude_failed=exclude_failed or bool(known.excluded),
    )


def _pool_of(plan: Plan) -> Pool:
    """The pool of a run, opened again: its shards in the run's order."""
    return open_pairs(plan.input_uri) if plan.pairs else open_pool(plan.input_uri)


def _failed_shards(store: Store) -> tuple[str, ...]:
    """The shards to leave out: those left out before, and those that failed since."""
    before = read_run(store).excluded if store.exists(RUN) else ()
    return tuple(sorted({*before, *(failure.name for failure in failures(store))}))


def dataset_work(
    pipeline: Pipeline,
    *,
    quarantine: bool,
    format: str,
    external: bool = False,
    excluded: Sequence[str] = (),
) -> DatasetWork:
    """What a dataset record says was asked for; fails early on a missing asset."""
    without: dict[str, JSON] = {"excluded": list(excluded)} if excluded else {}
    names = sorted({name for step in pipeline.steps for name in step.operator.assets()})
    return DatasetWork(
        pipeline=pipeline.spec(),
        modules=tuple(pipeline.modules[name] for name in sorted(pipeline.modules)),
        assets=tuple(_asset_ref(pipeline, name) for name in names),
        external=external,
        quarantine=quarantine,
        output={"format": format, **without},
    )


def _columns(pool: Pool, *, pairs: bool) -> dict[str, Any]:
    """What a plan says of the pool's columns: a shard that shows them, and how to read others."""
    if pairs:  # of tables of pairs only columns are read that `check_pipeline` looked at
        return {"like": pool.example()}
    together = pool.together
    return {"like": together.example, "columns": None if together.same else together.columns}


def _asset_ref(pipeline: Pipeline, name: str) -> AssetRef:
    return pipeline.assets.ref(name)


class _Run:
    def __init__(
        self,
        pipeline: Pipeline,
        pool: Pool,
        store: Store,
        map_tasks: MapTasks,
        work: DatasetWork,
        max_failed_shards: int,
        shared: Store | None = None,
    ) -> None:
        self.pipeline, self.pool, self.map_tasks = pipeline, pool, map_tasks
        self.store = store
        self.work = work
        self.allow_empty = False
        self.excluded: tuple[str, ...] = tuple(work.output.get("excluded", ()))
        self.parents = {"pool": pool.record.id}
        self.key = DatasetRecord.key_of(work=self.work, parents=self.parents)
        self.plan = Plan(
            name=pipeline.name,
            steps=tuple(
                {step.name: step.operator.model_dump(mode="json")} for step in pipeline.steps
            ),
            modules=dict(pipeline.modules),
            asset_folders=tuple(str(folder.absolute()) for folder in pipeline.assets.folders),
            input_uri=open_store(pool.uri).uri,
            **_columns(pool, pairs=work.output["format"] == UIDS),
            output_uri=self.store.uri,
            quarantine=work.quarantine,
            format=work.output["format"],
            num_partitions=1 + pool.num_bytes // PARTITION_BYTES,
        )
        self.started = now()
        self.clock = time.monotonic()
        self.watch = Watch(
            self.store,
            name=pipeline.name,
            key=self.key,
            map_tasks=map_tasks,
            failures_allowed=max_failed_shards,
            recoverable=RECOVERABLE,
            adopt=None if shared is None else partial(adopt, shared, store),
        )
        self.tried = Trial()
        self.global_steps = GlobalSteps(
            self.plan, pipeline, pool, self.store, self.watch, map_tasks
        )

    def run(self, *, keep_work: bool) -> Result:
        standing = self._standing()
        if standing is not None:
            if not keep_work:
                forget_work(self.store, standing.record)
            return standing
        self._claim()
        self.tried = try_participants(self.plan, self.pipeline)
        with self.watch:
            result = self._passes()
        if not keep_work:
            forget_work(self.store, result.record)
        return result

    def _standing(self) -> Result | None:
        if not self.store.exists(RECORD):
            return None
        result = finished(self.store)
        if result.record.key != self.key:
            raise RunFailed(
                f"{self.store.uri} holds another finished run ({result.record.key}); "
                "choose another --out, or give --overwrite to remove it"
            )
        return result

    def _claim(self) -> None:
        """Make the folder this run's, or find that it already is."""
        file = RunFile(
            key=self.key,
            pipeline=self.pipeline.name,
            input_uri=self.pool.uri,
            num_shards=len(self.pool.shards),
            num_passes=len(self.pipeline.passes()),
            started=self.started,
            plan=self.plan,
            external=self.work.external,
            excluded=self.excluded,
        )
        if self.store.put_if_absent(RUN, file.model_dump_json(indent=2).encode()):
            return
        known = read_run(self.store)
        if self.excluded and known.key == self._key_with(known.excluded):
            write_bytes(self.store, RUN, file.model_dump_json(indent=2).encode())
        elif known.key != self.key:
            raise RunFailed(
                f"{self.store.uri} holds the unfinished run of {known.pipeline!r} (key "
                f"{known.key}, this one has {self.key}): the pipeline, its assets or the pool "
                "changed; choose another --out, or give --overwrite to remove that run"
            )

    def _key_with(self, excluded: tuple[str, ...]) -> str:
        """The key of the same run with other shards left out."""
        output = {name: value for name, value in self.work.output.items() if name != "excluded"}
        if excluded:
            output["excluded"] = list(excluded)
        work = self.work.model_copy(update={"output": output})
        return DatasetRecord.key_of(work=work, parents=self.parents)

    def _passes(self) -> Result:
        stats: list[Sequence[StepStats]] = []
        inputs = [
            Held(name=s.name, identity=Identity(sha256=s.sha256, stamp=s.stamp))
            for s in self.pool.shards
        ]
        state: JSON = [self.pool.record.id, self.work.quarantine]
        names = [shard.name for shard in self.pool.shards]
        sizes = [float(shard.num_bytes) for shard in self.pool.shards]
        scores: list[str | None] = [None] * len(inputs)
        verdict: Verdict | None = None
        done: list[Done] = []
        passes = self.pipeline.passes()
        for current in passes:
            last = current is passes[-1]
            steps = [*current.steps, *([current.end] if current.end else [])]
            state = [digest(state), [step.spec() for step in steps]]
            if last:
                state.append(self.work.output)
            tasks = [
                ShardTask(
                    plan=self.plan,
                    number=current.number,
                    last=last,
                    shard=shard,
                    name=self.pool.shards[shard].name,
                    sha256=self.pool.shards[shard].sha256,
                    key=f"p{current.number}-{shard:05d}-"
                    f"{digest([state, self.pool.shards[shard].sha256])[:16]}"
                    f"{'-left-out' if names[shard] in self.excluded else ''}",
                    excluded=names[shard] in self.excluded,
                    input=inputs[shard],
                    scores=scores[shard],
                    verdict=verdict,
                )
                for shard in range(len(inputs))
            ]
            title = f"{self.pipeline.name}: pass {current.number + 1} of {len(passes)}"
            done = self.watch.stage(
                title,
                run_shard,
                tasks,
                unit="shards",
                names=names,
                weights=sizes,
                needs=needs_of(steps, self.pipeline.assets, self.map_tasks),
            )
            stats += [steps_of(result) for result in done]
            if not current.number:
                check_any_text(merge(stats), self.pool, allow_empty=self.allow_empty)
            if current.number:
                self.global_steps.note_removed(passes[current.number - 1].end, done)
            inputs = [
                self._held_after(before, result)
                for before, result in zip(inputs, done, strict=True)
            ]
            if current.end is not None:
                if self.excluded:
                    state = [state, list(self.excluded)]
                verdict, scores, inputs = self.global_steps.end(
                    current.end, state, done, inputs, stats
                )
                state = [digest(state), verdict.hash if verdict else None]
        return self._finish(merge(stats), done)

    def _held_after(self, before: Held, done: Done) -> Held:
        table = role(done, "table")
        if table is not None:
            return Held(work=True, name=table)
        return before.model_copy(
            update={"rows": role(done, "rows"), "columns": role(done, "columns")}
        )

    def _finish(self, stats: RunStats, done: Sequence[Done]) -> Result:
        stats.check()
        warn_of_nothing(stats)
        self.global_steps.write_reports(stats)
        if self.plan.pairs:
            outputs: tuple[File, ...] = self._sorted_uids(done)
        else:
            outputs = tuple(done_file(result, "table") for result in done)
        sums: dict[str, int] = {}
        for result in done:
            sums = add_counts(sums, result.stats["sums"])
        counts = {
            "rows_in": stats.rows_in,
            "rows_out": stats.rows_out,
            "errors": stats.errors,
            **({} if self.plan.pairs else {"text_bytes": stats.steps[-1].bytes_out}),
            **sums,
            **{
                f"rejected/{step.number + 1}/{step.name}/{reason}": number
                for step in stats.steps
                for reason, number in step.reasons.items()
            },
            **{
                f"{counter}/{step.number + 1}/{step.name}": step.counters[counter]
                for step in stats.steps
                for counter in PRICED
                if counter in step.counters
            },
        }
        on_gpus = gpu_seconds(self.watch.seconds)
        record = DatasetRecord.seal(
            work=self.work,
            parents=self.parents,
            outputs=outputs,
            counts=counts,
            made_by=made_by(
                self.started,
                locations={
                    "pool": self.pool.uri,
                    "out": self.store.uri,
                    **self.tried.locations(),
                },
                figures={
                    "cpu_seconds": round(self.watch.cpu_seconds, 3),
                    **({"gpu_seconds": round(on_gpus, 3)} if on_gpus else {}),
                    **self.tried.figures(),
                },
            ),
        )
        summary = RunSummary(
            stats=stats,
            seconds=self.watch.seconds,
            cpu_seconds=round(self.watch.cpu_seconds, 3),
            wall_seconds=round(time.monotonic() - self.clock, 3),
            verdicts=self.global_steps.verdicts,
            aggregates=aggregates_of(self.pipeline, stats),
        )
        write_bytes(self.store, STATS, summary.model_dump_json(indent=2).encode())
        write_chain(self.store, [self.pool.record, *self._asset_records()])
        write_bytes(self.store, RECORD, record.to_json())
        self.watch.note("finished", id=record.id)
        return Result(record, summary, skipped=False)

    def _sorted_uids(self, done: Sequence[Done]) -> tuple[File, ...]:
        """The list of uids of all shards, sorted part by part, and what goes with them."""
        parts = min(self.plan.num_partitions, MAX_BUCKETS)
        state = digest([result.key for result in done])[:16]
        values = self.plan.values
        title = f"{self.pipeline.name}: sort uids"
        merge = Merger(self.store, len(self.pipeline.steps), state, self.watch.named(title))
        files = merge("uids", [written(result, "uids") for result in done], readers=parts)
        tasks = [
            SortTask(
                uri=self.store.uri,
                key=f"sort-{part:05d}-{state}",
                part=part,
                files=tuple(files),
                values=values,
            )
            for part in range(parts)
        ]
        sorted_parts = self.watch.stage(title, run_sort, tasks, unit="parts")
        uids = join_uids(self.store, sorted_parts)
        return (uids, join_values(self.store, sorted_parts)) if values else (uids,)

    def _asset_records(self) -> list[AssetRecord]:
        """How the assets were made, of those that have a record next to them."""
        records = []
        for asset in self.work.assets:
            path = self.pipeline.assets.path(asset.name)
            beside = path.with_name(f"{path.name}.record.json")
            if beside.is_file():
                record = parse_record(beside.read_bytes(), source=str(beside))
                if [file.sha256 for file in record.outputs] != [asset.sha256]:
                    raise RecordError(
                        f"{beside} is not the record of {path}: make the asset again, or remove "
                        "the record"
                    )
                records.append(record)
        return records


def forget_work(store: Store, record: DatasetRecord) -> None:
    """Remove what only lay between a finished run's passes, and what killed attempts left."""
    kept = {file.name for file in record.outputs}
    for commit in all_done(store):
        kept |= {f.name for f in commit.files if not f.name.startswith("work/")}
    for folder in FOLDERS:
        for entry in list(store.list(f"{folder}/")):
            if entry.name not in kept and is_attempt(entry.name):
                store.remove(entry.name)
    store.discard_unfinished()
    forget_failures(store)
