"""The one validator, for the command that makes a bundle and for the service that takes it.

`check` reads the record alone: names, links of the chain, pool, recipe, budget, suite.
`check_bundle` does that and then everything that the files allow: every file is the one that the
manifest and the records name; every task's score is computed again from its questions, every
aggregate from its tasks. What it computed on the way is what the board shows: nothing on the board
is taken from what a participant wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evals.aggregate import aggregate_suite
from evals.run import score_task
from evals.suite import Suite, load_suite
from evals.tasks import EvalError, Task, load_task
from leaderboard import rules
from leaderboard.rules import Benchmark
from leaderboard.submissions import uids
from leaderboard.submissions.bundle import MANIFEST, RECORD, UIDS, Bundle
from leaderboard.submissions.chain import PARENT_OF, chain_of, seeds_of
from leaderboard.submissions.faults import BundleError, Fault, Words, fault
from leaderboard.submissions.results import Measured, measured_of
from pipelines import installed
from pipelines.errors import DataError, RuleError
from pipelines.records import (
    DatasetRecord,
    PackedRecord,
    PoolRecord,
    ScoresRecord,
    Submission,
    TaskScore,
)

TOLERANCE = 1e-9  # of a score computed again from the same numbers in the same order
MAX_ROWS = 5_000_000  # questions in one file
COUNTED = ("multiple_choice", "schema", "language_modeling", "generation")
CHOICES = ("multiple_choice", "schema", "image_classification")
MAX_TEXT = {"method": 120, "team": 120, "url": 500}
UNREAD = ("contexts", "options", "shots", "losses", "generated", "top5", "generation")


@dataclass(frozen=True)
class Checked:
    """What a check found. `measured` is None when there are faults."""

    faults: tuple[Fault, ...]
    measured: Measured | None


# ---- the record


def check(record: Submission, benchmark: Benchmark) -> list[Fault]:
    """Every broken rule that the record alone shows. Empty when all hold."""
    for part in (_names, _links):
        faults = list(part(record, benchmark))
        if faults:
            return faults
    return [*_stages(record, benchmark), *_scores(record, benchmark)]


def _names(record: Submission, benchmark: Benchmark) -> Iterator[Fault]:
    work = record.work
    if work.benchmark != benchmark.name:
        yield fault(RECORD, "work.benchmark", work.benchmark, benchmark.name)
        return
    if work.benchmark_version != benchmark.version:
        yield fault(RECORD, "work.benchmark_version", work.benchmark_version, benchmark.version)
    scales, tracks = ([one.name for one in these] for these in (benchmark.scales, benchmark.tracks))
    for field, name, known in (("scale", work.scale, scales), ("track", work.track, tracks)):
        if name not in known:
            yield fault(RECORD, f"work.{field}", name, known)
    if not work.method.strip():
        yield fault(RECORD, "work.method", work.method, Words("a name"))
    for field, most in MAX_TEXT.items():
        value: str = getattr(work, field)
        if len(value) > most:
            yield fault(RECORD, f"work.{field}", value, Words(f"at most {most} characters"))
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            yield fault(RECORD, f"work.{field}", value, Words("a text without control characters"))
    if work.url and not work.url.startswith(("https://", "http://")):
        yield fault(RECORD, "work.url", work.url, Words("an address that starts with https://"))


def _links(record: Submission, benchmark: Benchmark) -> Iterator[Fault]:
    """Each record's parents are there and of the right kind; there is one line up to one pool."""
    known = {one.id: one for one in record.chain}
    kinds = chain_of(record)
    if len(known) != len(record.chain):
        yield fault(RECORD, "chain", Words("a record twice"), Words("each once"))
    for kind in ("pool", "dataset", "packed"):
        if len(kinds.get(kind, [])) != 1:
            yield fault(RECORD, "chain", Words(f"{len(kinds.get(kind, []))} {kind} records"), 1)
    for role, id_ in record.parents.items():
        if id_ not in known or known[id_].kind != "scores":
            yield fault(RECORD, f"parents.{role}", id_, Words("a scores record of the chain"))
    if not record.parents:
        yield fault(RECORD, "parents", Words("nothing"), Words("scores"))
    named = set(record.parents.values())
    for one in kinds.get("scores", []):
        if one.id not in named:
            yield fault(
                RECORD,
                f"scores {one.id}",
                Words("scores that are not submitted"),
                Words("only those that `parents` names"),
            )
    for one in record.chain:
        if one.status != "done":
            yield fault(RECORD, f"{one.kind} {one.id}: status", one.status, "done", one.error or "")
        for role, kind in PARENT_OF.get(one.kind, {}).items():
            parent = known.get(one.parents.get(role, ""))
            if parent is None or parent.kind != kind:
                found = one.parents.get(role, Words("nothing"))
                yield fault(
                    RECORD,
                    f"{one.kind} {one.id}: parents.{role}",
                    found,
                    Words(f"a {kind} record of the chain"),
                )
    for id_ in sorted(set(known) - _needed(record)):
        yield fault(
            RECORD,
            f"{known[id_].kind} {id_}",
            Words("a record that nothing needs"),
            Words("only what led to the scores"),
        )


def _needed(record: Submission) -> set[str]:
    """The ids of everything behind the scores, assets included."""
    known = {one.id: one for one in record.chain}
    found: set[str] = set()
    waiting = list(record.parents.values())
    while waiting:
        id_ = waiting.pop()
        if id_ in known and id_ not in found:
            found.add(id_)
            waiting += known[id_].parents.values()
    return found | {one.id for one in record.chain if one.kind == "asset"}


def _stages(record: Submission, benchmark: Benchmark) -> Iterator[Fault]:
    work = record.work
    scale = benchmark.scale(work.scale)
    kinds = chain_of(record)
    pool: PoolRecord = kinds["pool"][0]
    dataset: DatasetRecord = kinds["dataset"][0]
    packed: PackedRecord = kinds["packed"][0]
    given = work.track == "filtering"
    if given and "any" not in scale.pools and pool.id not in scale.pools:
        yield fault(
            RECORD,
            "pool: id",
            pool.id,
            list(scale.pools),
            f"the pools that scale {scale.name} accepts",
        )
    if given and dataset.work.external:
        yield fault(
            RECORD,
            f"dataset {dataset.id}: work.external",
            True,
            False,
            "the filtering track needs a dataset that was curated from the pool here",
        )
    for module in dataset.work.modules:
        if hashlib.sha256(module.text.encode()).hexdigest() != module.sha256:
            yield fault(
                RECORD,
                f"dataset {dataset.id}: module {module.name}",
                Words("a text with another sha256"),
                module.sha256,
            )
    package = rules.load_package(benchmark.name)
    recipe = package.recipe(scale.recipe)
    expected = recipe.model_dump(mode="json")
    seeds = [model.work.seed for model in kinds.get("model", [])]
    if len(set(seeds)) != len(seeds):
        yield fault(RECORD, "models", Words(f"the seeds {sorted(seeds)}"), Words("each once"))
    for model in kinds.get("model", []):
        name = f"model {model.id}"
        asked, wanted = (model.work.benchmark, model.work.scale), (benchmark.name, scale.name)
        if asked != wanted:
            yield fault(RECORD, f"{name}: work", " ".join(asked), " ".join(wanted))
        elif model.work.recipe != expected:
            for key in sorted(set(expected) | set(model.work.recipe)):
                found = model.work.recipe.get(key)
                if found != expected.get(key):
                    yield fault(
                        RECORD,
                        f"{name}: work.recipe.{key}",
                        found,
                        expected.get(key),
                        f"the recipe of scale {scale.name} is frozen",
                    )
        elif model.work.seed not in recipe.seeds:
            yield fault(RECORD, f"{name}: work.seed", model.work.seed, list(recipe.seeds))
        else:
            for text in package.check_training(packed, model, recipe):
                yield fault(RECORD, name, Words(text), Words("the rules of packing and training"))


def official_suite(benchmark: Benchmark, scale: str) -> Suite:
    """The installed suite that ranks at a scale."""
    rung = benchmark.scale(scale)
    return load_suite(installed.folder(benchmark.name) / "suites" / f"{rung.suite}.yaml")


def _scores(record: Submission, benchmark: Benchmark) -> Iterator[Fault]:
    scale = benchmark.scale(record.work.scale)
    for scores in chain_of(record).get("scores", []):
        name = f"scores {scores.id}"
        found = (scores.work.benchmark, scores.work.suite, scores.work.suite_version)
        wanted = (benchmark.name, scale.suite, scale.suite_version)
        if found != wanted:
            yield fault(RECORD, f"{name}: suite", " ".join(found), " ".join(wanted))
            continue
        suite = official_suite(benchmark, scale.name)
        if scores.work.parameters.get("suite", suite.model_dump(mode="json")) != suite.model_dump(
            mode="json"
        ):
            yield fault(
                RECORD,
                f"{name}: work.parameters.suite",
                Words("an edited suite"),
                Words(f"suite {suite.name} version {suite.version} as installed"),
            )
        asked = [task.name for task in scores.work.tasks]
        if asked != list(suite.tasks):
            yield fault(
                RECORD,
                f"{name}: work.tasks",
                Words(", ".join(asked)),
                Words(", ".join(suite.tasks)),
            )
            continue
        if [task.task for task in scores.results.tasks] != asked:
            yield fault(
                RECORD,
                f"{name}: results.tasks",
                Words("other tasks than were asked"),
                Words(", ".join(asked)),
            )
        for ref in scores.work.tasks:
            task = load_task(ref.name)
            if ref.definition != task.definition():
                yield fault(
                    RECORD,
                    f"{name}: task {ref.name}",
                    Words("another definition"),
                    Words("the installed one; evaluate with this version"),
                )
            if not ref.verified or (task.sha256 is not None and ref.data != task.sha256):
                yield fault(
                    RECORD,
                    f"{name}: task {ref.name}",
                    Words("unverified data"),
                    Words("the recorded data"),
                    "a score on other data cannot rank",
                )


# ---- the files


def check_bundle(bundle: Bundle, benchmark: Benchmark | None = None) -> Checked:
    """Check a bundle against every rule, and compute what the board will show of it."""
    faults = list(_manifest(bundle))
    if faults:
        return Checked(tuple(faults), None)
    try:
        book = benchmark or rules.load_benchmark(bundle.record.work.benchmark)
    except RuleError as error:
        return Checked(
            (fault(RECORD, "work.benchmark", Words(str(error)), list(installed.packages())),), None
        )
    faults = check(bundle.record, book) or list(_uid_list(bundle, book))
    if faults:
        return Checked(tuple(faults), None)
    by_seed, draws = {}, {}
    for seed, scores in seeds_of(bundle.record).items():
        found, tasks, seed_draws = _recomputed(bundle, seed, scores)
        faults += found
        by_seed[seed], draws[seed] = tasks, seed_draws
    if faults:
        return Checked(tuple(faults), None)
    suite = official_suite(book, bundle.record.work.scale)
    for seed, scores in seeds_of(bundle.record).items():
        faults += _aggregates(suite, scores, by_seed[seed], draws[seed])
    if faults:
        return Checked(tuple(faults), None)
    return Checked((), measured_of(bundle, book, suite, by_seed, draws))


def _manifest(bundle: Bundle) -> Iterator[Fault]:
    """Every file is listed, with its hash; nothing else is there."""
    manifest = bundle.manifest
    if manifest.format != 1:
        yield fault(MANIFEST, "format", manifest.format, 1)
    if manifest.submission != bundle.record.id:
        yield fault(MANIFEST, "submission", manifest.submission, bundle.record.id)
    listed = {one.name: one for one in manifest.files}
    there = set(bundle.sizes) - {MANIFEST}
    for name in sorted(there - set(listed)):
        yield fault(MANIFEST, "files", Words(f"{name} is not listed"), Words("every file"))
    for name, one in sorted(listed.items()):
        if name not in there:
            yield fault(MANIFEST, "files", Words(f"{name}, which is not there"), Words("its bytes"))
        elif bundle.sizes[name] != one.num_bytes:
            yield fault(name, "size", bundle.sizes[name], one.num_bytes)
    for seed in manifest.checkpoints:
        if f"scores/{seed}" not in bundle.record.parents:
            yield fault(
                MANIFEST,
                f"checkpoints.{seed}",
                Words("a seed without scores"),
                list(bundle.record.parents),
            )
    for name, place in [("dataset", manifest.dataset), *manifest.checkpoints.items()]:
        if place.location and not place.location.startswith(PUBLIC):
            yield fault(MANIFEST, f"{name}.location", place.location, list(PUBLIC))


PUBLIC = ("https://", "http://", "s3://", "hf://", "gs://")


def _uid_list(bundle: Bundle, benchmark: Benchmark) -> Iterator[Fault]:
    told = bundle.manifest.uids
    if told is None and benchmark.dataset_format == "uids":
        hint = "submit with --uids LIST"
        yield fault(MANIFEST, "uids", Words("nothing"), Words("the dataset's list of uids"), hint)
    if (told is None) != (UIDS not in bundle.sizes):
        yield fault(MANIFEST, "uids", Words("one of description and sample"), Words("both or none"))
        return
    if told is None:
        return
    [dataset] = chain_of(bundle.record)["dataset"]
    if told.count != dataset.counts.get("rows_out"):
        yield fault(
            MANIFEST,
            "uids.count",
            told.count,
            dataset.counts.get("rows_out"),
            "the count of the dataset's record",
        )
    try:
        table = read_parquet(bundle, UIDS, columns=None)
    except BundleError as error:
        yield from error.faults
        return
    wanted = min(told.count, uids.SAMPLE)
    if table.schema.remove_metadata() != uids.SCHEMA:
        yield fault(UIDS, "schema", str(table.schema), str(uids.SCHEMA))
    elif table.num_rows != wanted:
        yield fault(UIDS, "rows", table.num_rows, wanted)


def read_parquet(bundle: Bundle, name: str, *, columns: Sequence[str] | None) -> pa.Table:
    """A parquet file of the bundle, its hash and its promised size checked before it is read.

    `columns` None reads all; () those that scores may be computed from.
    """
    data = bundle.read(name)
    [listed] = [one for one in bundle.manifest.files if one.name == name]
    found = hashlib.sha256(data).hexdigest()
    if found != listed.sha256:
        raise BundleError([fault(name, "sha256", found, listed.sha256)])
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows = file.metadata.num_rows
        if rows > MAX_ROWS:
            raise BundleError([fault(name, "rows", rows, Words(f"at most {MAX_ROWS:,}"))])
        wanted = list(columns) if columns else None
        if columns == ():
            wanted = [one for one in file.schema_arrow.names if one not in UNREAD]
        return file.read(columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        text = str(error).splitlines()[0]
        raise BundleError([fault(name, "", Words(text), Words("a parquet file"))]) from None


Draws = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


def read_log(
    bundle: Bundle, seed: int, task: str, *, columns: Sequence[str] | None = ()
) -> pa.Table:
    """The questions of one task, in order; BundleError when a file is not what it should be."""
    return pa.concat_tables(
        [read_parquet(bundle, name, columns=columns) for name in bundle.parts(seed, task)]
    )


def _recomputed(
    bundle: Bundle, seed: int, scores: ScoresRecord
) -> tuple[list[Fault], list[TaskScore], Draws]:
    """Every task's score again from its questions, with its resamples."""
    faults: list[Fault] = []
    tasks: list[TaskScore] = []
    draws: Draws = {}
    hashes = {one.name: one.sha256 for one in bundle.manifest.files}
    for told in scores.results.tasks:
        name, parts = f"questions/{seed}/{told.task}", bundle.parts(seed, told.task)
        prefix = f"logs/{told.task}/"
        wanted = [
            o.sha256
            for o in sorted(scores.outputs, key=lambda o: o.name)
            if o.name.startswith(prefix)
        ]
        if [hashes[part] for part in parts] != wanted or not parts:
            faults.append(
                fault(
                    name,
                    "sha256",
                    Words(f"{len(parts)} files of other bytes"),
                    Words(f"the {len(wanted)} files that scores {scores.id} names"),
                )
            )
            continue
        try:
            log = read_log(bundle, seed, told.task)
            faults += _answers(name, load_task(told.task), log)
            score, draws[told.task] = score_task(load_task(told.task), log)
        except BundleError as error:
            faults += error.faults
            continue
        except (DataError, EvalError, KeyError, pa.ArrowException, ValueError, TypeError) as error:
            faults.append(
                fault(
                    name,
                    "",
                    Words(f"{type(error).__name__}: {error}"),
                    Words(f"the log of a {load_task(told.task).kind} task"),
                )
            )
            continue
        faults += _equal(f"{name}", told, score)
        tasks.append(score)
    return faults, tasks, draws


def _answers(name: str, task: Task, log: pa.Table) -> Iterator[Fault]:
    """Every question once; `correct` says what `predicted` and `gold` say."""
    columns = set(log.column_names)
    if task.kind in COUNTED and task.rows is not None and log.num_rows != task.rows:
        yield fault(name, "rows", log.num_rows, task.rows, f"the questions of {task.name}")
    if task.kind in CHOICES and {"predicted", "gold", "correct"} <= columns:
        right = pc.equal(log["predicted"], log["gold"])
        wrong = pc.sum(pc.invert(pc.equal(right, log["correct"]))).as_py() or 0
        if wrong or right.null_count:
            yield fault(
                name,
                "correct",
                Words(f"{wrong + right.null_count} rows where it differs from predicted = gold"),
                Words("none"),
            )
    if "row" in columns and pc.count_distinct(log["row"]).as_py() != log.num_rows:
        yield fault(name, "row", Words("a question twice"), Words("each once"))


def _equal(name: str, told: TaskScore, found: TaskScore) -> Iterator[Fault]:
    for field in TaskScore.model_fields:
        a, b = getattr(told, field), getattr(found, field)
        if isinstance(a, float) and isinstance(b, float):
            if abs(a - b) <= TOLERANCE * max(1.0, abs(b)):
                continue
        elif a == b:
            continue
        yield fault(RECORD, f"{name}: {field}", a, b, "computed again from the questions")


def _aggregates(
    suite: Suite, scores: ScoresRecord, tasks: Sequence[TaskScore], draws: Draws
) -> Iterator[Fault]:
    found = aggregate_suite(suite, tasks, draws)
    told = scores.results.aggregates
    if set(told) != set(found):
        yield fault(RECORD, f"scores {scores.id}: results.aggregates", sorted(told), sorted(found))
        return
    for name, value in found.items():
        for field in ("metric", "value", "stderr", "num_items", "higher_is_better"):
            a, b = getattr(told[name], field), getattr(value, field)
            if isinstance(a, float) and isinstance(b, float):
                if abs(a - b) <= TOLERANCE * max(1.0, abs(b)):
                    continue
            elif a == b:
                continue
            yield fault(
                RECORD, f"scores {scores.id}: {name}.{field}", a, b, "computed again from the tasks"
            )
