"""A submission: the whole chain of records behind a claim, with the per-question logs, checked.

A submission is a folder: `submission.json` (the Submission record with its chain) and
`questions/<seed>/<task>.parquet`. The same `check` runs when it is made and when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaderboard import rules
from leaderboard.rules import Benchmark, RuleError
from pipelines.chain import read_chain
from pipelines.records import (
    DatasetRecord,
    ModelRecord,
    PackedRecord,
    PoolRecord,
    Record,
    ScoresRecord,
    Submission,
    SubmissionWork,
    made_by,
    now,
    parse_record,
)
from pipelines.storage import LocalStore, Store, copy_into, open_store, write_bytes

FILE = "submission.json"
PARENT_OF = {
    "dataset": {"pool": "pool"},
    "packed": {"dataset": "dataset"},
    "model": {"packed": "packed"},
    "scores": {"model": "model"},
}


@dataclass(frozen=True)
class Entry:
    """A submission and the folder it lies in."""

    record: Submission
    folder: Path

    def questions(self, seed: int, task: str) -> Path:
        """The log of one task of the model trained with this seed."""
        return self.folder / "questions" / str(seed) / f"{task}.parquet"


def submit(
    benchmark: Benchmark,
    *,
    scale: str,
    track: str,
    method: str,
    scores: Sequence[str],
    out: Path,
    team: str = "",
    url: str = "",
) -> Entry:
    """Gather the chain behind folders of scores, check it, and write the submission below `out`.

    RuleError lists every broken rule. Submitting the same again gives the same submission.
    """
    chain: dict[str, Record] = {}
    parents = {}
    stores: dict[int, tuple[Store, ScoresRecord]] = {}
    for folder in scores:
        store = open_store(folder)
        records = read_chain(store)
        last = records[-1]
        if not isinstance(last, ScoresRecord):
            raise RuleError(f"{folder} holds a {last.kind} record; expected scores")
        chain |= {record.id: record for record in records}
        model = next(record for record in records if isinstance(record, ModelRecord))
        parents[f"scores/{model.work.seed}"] = last.id
        stores[model.work.seed] = (store, last)
    work = SubmissionWork(
        benchmark=benchmark.name,
        benchmark_version=benchmark.version,
        scale=scale,
        track=track,
        method=method,
        team=team,
        url=url,
    )
    record = Submission.seal(work=work, parents=parents, made_by=made_by(now()))
    record = record.model_copy(update={"chain": tuple(chain.values())})
    faults = check(record, benchmark)
    if faults:
        raise RuleError(f"{method} cannot be submitted: " + "; ".join(faults))
    folder_ = out / record.id
    place = LocalStore(folder_)
    for seed, (store, last) in stores.items():
        for file in last.outputs:
            task = Path(file.name).parent.name
            name = f"questions/{seed}/{task}.parquet"
            _copy_log(store, last, task, place, name)
    if not place.exists(FILE):
        write_bytes(place, FILE, record.to_json())
    return read_entry(folder_)


def _copy_log(store: Store, scores: ScoresRecord, task: str, place: LocalStore, name: str) -> None:
    """One task's log as one file (a scores folder may hold it in parts)."""
    if place.exists(name):
        return
    parts = [file.name for file in scores.outputs if file.name.startswith(f"logs/{task}/")]
    if len(parts) == 1:
        with store.open(parts[0]) as source, place.create(name) as target:
            copy_into(source, target)
        return
    from evals.run import read_log
    from pipelines.writers import write_table

    write_table(place, name, read_log(store, parts))


def read_entry(folder: Path) -> Entry:
    """A submission's folder. RecordError when its file is missing, edited or of another kind."""
    path = folder / FILE
    record = parse_record(LocalStore(folder).read_bytes(FILE), source=str(path))
    if not isinstance(record, Submission):
        raise RuleError(f"{path} holds a {record.kind} record; expected a submission")
    return Entry(record, folder)


def read_entries(folder: Path) -> list[Entry]:
    """Every submission below a folder, by id."""
    return [read_entry(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]


# ---- the rules


def chain_of(record: Submission) -> dict[str, list[Any]]:
    """The records of a submission by kind."""
    kinds: dict[str, list[Any]] = {}
    for one in record.chain:
        kinds.setdefault(one.kind, []).append(one)
    return kinds


def check(record: Submission, benchmark: Benchmark) -> list[str]:
    """Every broken rule: what was found and what was expected. Empty when all hold."""
    faults = list(_names(record, benchmark))
    if faults:
        return faults
    faults = list(_links(record))
    if faults:
        return faults
    return [*_stages(record, benchmark), *_scores(record, benchmark)]


def _names(record: Submission, benchmark: Benchmark) -> Iterator[str]:
    work = record.work
    if work.benchmark != benchmark.name:
        yield f"benchmark is {work.benchmark!r}, expected {benchmark.name!r}"
        return
    if work.benchmark_version != benchmark.version:
        yield f"benchmark version is {work.benchmark_version}, expected {benchmark.version}"
    for find, name in ((benchmark.scale, work.scale), (benchmark.track, work.track)):
        try:
            find(name)
        except RuleError as error:
            yield str(error)
    if not work.method.strip():
        yield "the method has no name"


def _links(record: Submission) -> Iterator[str]:
    """Each record's parents are there and of the right kind; there is one line up to one pool."""
    known = {one.id: one for one in record.chain}
    kinds = chain_of(record)
    for kind in ("pool", "dataset", "packed"):
        if len(kinds.get(kind, [])) != 1:
            yield f"the chain holds {len(kinds.get(kind, []))} {kind} records, expected 1"
    for role, id_ in record.parents.items():
        if id_ not in known or known[id_].kind != "scores":
            yield f"{role} names {id_}, which is no scores record of the chain"
    if not record.parents:
        yield "it names no scores"
    for one in record.chain:
        if one.status != "done":
            yield f"the {one.kind} record {one.id} is of a failed run: {one.error}"
        for role, kind in PARENT_OF.get(one.kind, {}).items():
            parent = known.get(one.parents.get(role, ""))
            if parent is None or parent.kind != kind:
                yield (
                    f"the {one.kind} record {one.id} names the {role} {one.parents.get(role)}, "
                    "which is not in the chain"
                )


def _stages(record: Submission, benchmark: Benchmark) -> Iterator[str]:
    work = record.work
    scale = benchmark.scale(work.scale)
    kinds = chain_of(record)
    pool: PoolRecord = kinds["pool"][0]
    dataset: DatasetRecord = kinds["dataset"][0]
    packed: PackedRecord = kinds["packed"][0]
    if work.track == "filtering" and "any" not in scale.pools and pool.id not in scale.pools:
        yield f"pool {pool.id} is not accepted at scale {scale.name}; accepted: {scale.pools}"
    if work.track == "filtering" and dataset.work.external:
        yield "the dataset was made elsewhere; the filtering track needs one curated from the pool"
    package = rules.load_package(benchmark.name)
    recipe = package.recipe(scale.recipe)
    expected = recipe.model_dump(mode="json")
    seeds = [model.work.seed for model in kinds.get("model", [])]
    if len(set(seeds)) != len(seeds):
        yield f"a seed stands twice: {sorted(seeds)}"
    for model in kinds.get("model", []):
        if (model.work.benchmark, model.work.scale) != (benchmark.name, scale.name):
            yield (
                f"model {model.id} was trained for {model.work.benchmark} {model.work.scale}, "
                f"expected {benchmark.name} {scale.name}"
            )
        elif model.work.recipe != expected:
            changed = [key for key in expected if model.work.recipe.get(key) != expected[key]]
            yield (
                f"model {model.id} was trained under another recipe than scale {scale.name} has: "
                f"{', '.join(changed) or 'unknown fields'} differ"
            )
        elif model.work.seed not in recipe.seeds:
            yield f"seed {model.work.seed} is not allowed; allowed: {recipe.seeds}"
        else:
            yield from package.check_training(packed, model, recipe)


def _scores(record: Submission, benchmark: Benchmark) -> Iterator[str]:
    scale = benchmark.scale(record.work.scale)
    for scores in chain_of(record).get("scores", []):
        found = (scores.work.benchmark, scores.work.suite, scores.work.suite_version)
        wanted = (benchmark.name, scale.suite, scale.suite_version)
        if found != wanted:
            yield f"scores {scores.id} are of suite {' '.join(found)}, expected {' '.join(wanted)}"
        for task in scores.work.tasks:
            if not task.verified:
                yield f"task {task.name}: its data is unverified, so its score cannot rank"


def seeds_of(record: Submission) -> dict[int, ScoresRecord]:
    """The scores by training seed, in order of the seeds."""
    known = {one.id: one for one in record.chain}
    found = {}
    for scores in chain_of(record).get("scores", []):
        model = known[scores.parents["model"]]
        assert isinstance(model, ModelRecord)
        found[model.work.seed] = scores
    return dict(sorted(found.items()))
