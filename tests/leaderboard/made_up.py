"""Submissions of models that never were: sealed records and logs that keep every rule.

A model answers each question rightly with the chance `skill`. The validator cannot tell such a
bundle from one of a trained model: only a rerun can, which is what `leaderboard recheck` is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

import evals.run
from evals.aggregate import aggregate_suite
from evals.pins import pin_of
from evals.run import score_task
from evals.suite import Suite
from evals.tasks import (
    MIN_IMAGES,
    OF_GENERATORS,
    Task,
)
from leaderboard import rules
from leaderboard.benchmark import INTERMEDIATE, load_stages
from leaderboard.rules import Benchmark, PoolRule, Scale
from leaderboard.submissions import uids
from leaderboard.submissions.bundle import (
    MANIFEST,
    RECORD,
    SCORES,
    UIDS,
    CurvePoint,
    DocumentList,
    OverlapOf,
    Place,
    checkpoint_folder,
    manifest_of,
    write_zip,
)
from leaderboard.submissions.case import suite_of_checkpoints
from leaderboard.submissions.curves import kept_on_the_way
from leaderboard.submissions.results import BASELINE
from leaderboard.submissions.validate import official_suite
from pipelines.records import (
    AssetRef,
    DatasetRecord,
    DatasetWork,
    File,
    MadeBy,
    ModelRecord,
    ModelWork,
    PackedRecord,
    PackedWork,
    PoolRecord,
    PoolSource,
    PoolWork,
    Record,
    ScoresRecord,
    ScoresResults,
    ScoresWork,
    Submission,
    SubmissionWork,
    TaskRef,
    digest,
)
from tests.leaderboard.made_up_logs import answered, log_of, parquet_bytes

MADE_BY = MadeBy(
    revision="0" * 40,
    dirty=False,
    python="3.11.7",
    platform="made up",
    host="nowhere",
    versions={},
    started="2026-11-01T10:00:00Z",
    finished="2026-11-01T11:00:00Z",
)
STEPS = [
    {"operator": "stop_words", "parameters": {"min_stop_words": 2}},
    {"operator": "exact_dedup", "parameters": {}},
]


Edit = Callable[[Task, pa.Table], pa.Table]


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def suite_of(benchmark: str, scale: str) -> Suite:
    return official_suite(rules.load_benchmark(benchmark), scale)


CLEAN = 5000
"""Clean images of a made-up pool, and of a dataset unless it says otherwise."""
IN_POOL = {"images": 10 * CLEAN, "clean": CLEAN, "corrupted": 9 * CLEAN}


def make_folder(
    out: Path,
    *,
    method: str = "a method",
    team: str = "a team",
    skill: float = 0.5,
    benchmark: str = "dclm",
    scale: str = "tiny",
    track: str = "",
    seeds: Sequence[int] | None = None,
    rows: int = 60,
    pool: str = "",
    chance: int = 0,
    url: str = "",
    dataset_text: str | None = None,
    dataset: Place = Place(),
    checkpoint: str = "",
    steps: Sequence[dict[str, Any]] | None = None,
    changed: dict[str, Any] | None = None,
    tries: int | None = None,
    edit: Edit | None = None,
    documents: DocumentList | None = None,
    overlap: dict[str, OverlapOf] | None = None,
    clean: int = CLEAN,
    reach: int = 8,
) -> Path:
    """The folder of a made-up submission below `out`; `changed` overrides fields of the claim.

    `edit(task, log)` changes the log of a task before anything is computed from it: a fraud that is
    consistent from there on. `pool` is the pool's name; empty: one that the scale accepts. `clean`
    is how many clean images the dataset has, where images are corrupted. Of a speedrun, every
    checkpoint before number `reach` is much worse than the final model, the others are nearly as
    good.
    """
    book = rules.load_benchmark(benchmark)
    rung = book.scale(scale)
    recipe = load_stages(benchmark).recipe(rung.recipe)
    track = track or book.tracks_of(scale)[0]
    rule = book.track(track)
    race = rung.speedrun if rule.speedrun else None
    if race is not None:
        recipe = load_stages(benchmark).changed(recipe, checkpoints=race.checkpoints)
    if steps is None:  # a baseline's name belongs to its pipeline
        steps = () if method == BASELINE or rule.pipeline else STEPS
    chain = _data(book, rung, recipe, method, pool, chance, steps, clean)
    packed = chain[-1]
    assert isinstance(packed, PackedRecord)
    files: dict[str, bytes] = {}
    parents = {}
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    for seed in seeds or recipe.seeds[:1]:
        model = _model(packed, benchmark, scale, recipe, seed)
        if race is not None:
            model = _with_checkpoints(model, load_stages(benchmark).checkpoint_steps(recipe))
        asked = Asked(seed, skill, rows, chance, edit, rule.settings)
        scores = _scores(model.id, suite_of(benchmark, scale), asked, files, f"questions/{seed}")
        if race is not None:
            suite = suite_of_checkpoints(book, scale, track)
            curves[str(seed)] = _curve(model, suite, asked, files, reach)
        chain += [model, scores]
        parents[f"scores/{seed}"] = scores.id
    claim: dict[str, Any] = {
        "benchmark": benchmark,
        "benchmark_version": book.version,
        "scale": scale,
        "track": track,
        "method": method,
        "team": team,
        "url": url,
    }
    if tries is not None:
        claim["tries"] = tries
    record = Submission.seal(
        work=SubmissionWork(**(claim | (changed or {}))), parents=parents, made_by=MADE_BY
    )
    record = record.model_copy(update={"chain": tuple(chain)})
    files[RECORD] = record.to_json()
    checkpoints = {
        str(link.work.seed): Place(location=checkpoint, sha256=link.outputs[0].sha256)
        for link in chain
        if checkpoint and isinstance(link, ModelRecord)
    }
    uid_list = None
    if book.dataset_format == "uids":
        uid_list = _uid_files(files, chance, chain[1].counts["rows_out"])
    manifest = manifest_of(
        record,
        files.items(),
        dataset=dataset,
        checkpoints=checkpoints,
        uids=uid_list,
        documents=documents,
        overlap=overlap,
        curves=curves,
    )
    files[MANIFEST] = orjson.dumps(manifest.model_dump(mode="json"))
    folder = out / record.id
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Asked:
    """How a made-up model answers."""

    seed: int
    skill: float
    rows: int
    chance: int
    edit: Edit | None = None
    settings: Sequence[str] = ()
    number: int = 0
    """Of the checkpoint, from 1; 0: the final model."""


def _with_checkpoints(model: ModelRecord, steps: Sequence[int]) -> ModelRecord:
    """The model with the weights that it had after these steps."""
    names = [f"step-{step:08d}" for step in steps]
    kept = [_file(f"{INTERMEDIATE}/{name}.safetensors", model.id, name) for name in names]
    return ModelRecord.seal(
        work=model.work,
        parents=model.parents,
        outputs=[*model.outputs, *kept],
        counts=model.counts,
        results=model.results,
        made_by=MADE_BY,
    )


def _curve(
    model: ModelRecord, suite: Suite, final: Asked, files: dict[str, bytes], reach: int
) -> tuple[CurvePoint, ...]:
    """Scores and logs of every checkpoint of a model, put into `files`; its curve."""
    points = []
    for number, name in enumerate(kept_on_the_way(model), 1):
        skill = final.skill * (0.5 if number <= reach else 0.98)
        folder = checkpoint_folder(model.work.seed, name)
        asked = replace(final, skill=skill, number=number)
        scores = _scores(digest([model.id, name]), suite, asked, files, folder)
        files[f"{folder}/{SCORES}"] = scores.to_json()
        score = scores.results.aggregates[suite.headline]
        points.append(CurvePoint(checkpoint=name, value=score.value, stderr=score.stderr))
    return tuple(points)


def make_zip(out: Path, **options: Any) -> Path:
    """The same, as one zip."""
    folder = make_folder(out, **options)
    return write_zip(folder, folder.with_suffix(".zip"))


def _uid_files(files: dict[str, bytes], chance: int, count: int) -> uids.UidList:
    """A list of `count` uids that nobody has: its description, and the sample next to it."""
    rng = np.random.default_rng([7, chance])
    ids = np.empty(count, uids.RECORDS)
    for half in ("f0", "f1"):
        ids[half] = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    ids = np.sort(ids)
    uid_list = uids.describe(ids)
    files[UIDS] = parquet_bytes(uids.choose(ids, uid_list.sha256))
    return uid_list


def accepted_pool(rung: Scale, name: str, *, images: bool = False) -> PoolRecord:
    """A pool as the scale's rule of that name wants it, else its first; or of another name."""
    known = (PoolRule(name="a pool"),) if rung.pools == "open" else rung.pools
    rule = next((rule for rule in known if rule.name == name), known[0])
    named = name or rule.name
    sources = [
        PoolSource(name=source, version="1", sha256=sha256, licence="CC0")
        for source, sha256 in rule.sources.items()
    ]
    while len(sources) < (rule.num_sources or 1):
        label = f"{named} {len(sources)}"
        sources.append(PoolSource(name=label, version="1", sha256=sha(label), licence="CC0"))
    return PoolRecord.seal(
        work=PoolWork(
            name=named,
            variant=rule.variant or "extracted",
            sources=tuple(sources),
            parameters=rule.parameters,
        ),
        parents={},
        counts=IN_POOL if images else {},
        made_by=MADE_BY,
    )


def _data(
    book: Benchmark,
    rung: Scale,
    recipe: Any,
    method: str,
    pool: str,
    chance: int,
    steps: Sequence[dict[str, Any]],
    clean: int = CLEAN,
) -> list[Record]:
    pool_record = accepted_pool(rung, pool, images=book.modality == "image")
    rows_in = 1_000_000 if book.dataset_format == "parquet" else 50_000
    rows_out = rows_in * 6 // 10 if steps else rows_in
    counts = {"rows_in": rows_in, "rows_out": rows_out, "errors": 0}
    for number, step in enumerate(steps[:2], 1):
        left = (3, 1)[number - 1] if len(steps) > 1 else 4  # tenths that a step takes out
        counts[f"rejected/{number}/{step['operator']}/not_good"] = rows_in * left // 10
    dataset = DatasetRecord.seal(
        work=DatasetWork(pipeline={"name": method, "steps": list(steps)}),
        parents={"pool": pool_record.id},
        outputs=[_file("data/0.parquet", method, chance, rows=rows_out)],
        counts=counts,
        made_by=MADE_BY,
    )
    if book.modality == "text":
        work = _text_packing(recipe)
        size = {"documents": rows_out, "tokens": rows_out * 700 + chance}
    elif book.size_unit == "images":
        shape = {"resolution": recipe.resolution, "channels": recipe.channels}
        work = PackedWork(mode="ambient", layout="arrays", parameters=shape)
        size = {"images": rows_out, "images/none": clean, "images/gaussian": rows_out - clean}
    else:
        work = PackedWork(
            mode="reshard", layout="webdataset", parameters={"shard_size": recipe.shard_size}
        )
        size = {"samples": rows_out}
    packed = PackedRecord.seal(
        work=work,
        parents={"dataset": dataset.id},
        outputs=[_file("data/0.npy", method, chance, "packed")],
        counts=size,
        made_by=MADE_BY,
    )
    return [pool_record, dataset, packed]


def _text_packing(recipe: Any) -> PackedWork:
    return PackedWork(
        tokenizer=AssetRef(
            name=recipe.tokenizer.name, sha256=recipe.tokenizer.sha256 or sha("tokenizer")
        ),
        sequence_length=recipe.model.seq_len,
        seed=recipe.data_seed,
        mode="lossless",
        layout="npy",
        parameters={
            "end_of_text": recipe.tokenizer.end_of_text,
            "pad": recipe.tokenizer.pad,
            "vocab_size": recipe.model.vocab_size,
        },
    )


def _file(name: str, *about: object, rows: int | None = None, size: int = 1000) -> File:
    return File(name=name, sha256=sha(name, *about), num_bytes=size, num_rows=rows)


def _model(packed: PackedRecord, benchmark: str, scale: str, recipe: Any, seed: int) -> ModelRecord:
    del scale  # a model's record names its recipe, which several scales may share
    if benchmark == "datacomp":
        from datacomp import recipe as datacomp

        counts = {"steps": datacomp.num_steps(recipe), "params": 10_000_000}
        results = {"samples_seen": datacomp.samples_seen(recipe)}
    elif benchmark == "ambient":
        from ambient import recipe as ambient

        counts = {"steps": ambient.num_steps(recipe), "params": 100_000}
        results = {"images_seen": ambient.images_seen(recipe)}
    else:
        from dclm.recipe import num_steps

        steps = num_steps(recipe)
        counts = {"steps": steps, "params": recipe.model.num_params}
        results = {"tokens_seen": steps * recipe.global_batch_size * recipe.model.seq_len}
    return ModelRecord.seal(
        work=ModelWork(
            benchmark=benchmark,
            scale=recipe.scale,
            recipe=recipe.model_dump(mode="json"),
            seed=seed,
        ),
        parents={"packed": packed.id},
        outputs=[_file("checkpoint.safetensors", packed.id, seed, size=4 * counts["params"])],
        counts=counts,
        results=results,
        made_by=MADE_BY,
    )


def _scores(
    model: str, suite: Suite, asked: Asked, files: dict[str, bytes], folder: str
) -> ScoresRecord:
    """The scores of a model by its id; its logs are put into `files`, below `folder`."""
    tasks = suite.load_tasks()
    scores, draws, outputs, refs = [], {}, [], []
    for number, task in enumerate(tasks):
        drawn = (asked.chance, asked.seed, number, *([asked.number] if asked.number else []))
        pin = None if task.built else pin_of(task.name)  # built data may be anything
        number = task.rows or asked.rows
        if isinstance(task, OF_GENERATORS):
            number = min(max(number, MIN_IMAGES), getattr(task, "number", number + MIN_IMAGES))
        if asked.edit is None:
            data, num_rows, score, draws[task.name] = answered(
                task, asked.skill, number, drawn, evals.run.bootstrap
            )
        else:
            log = log_of(task, asked.skill, number, np.random.default_rng(drawn))
            log = asked.edit(task, log)
            data, num_rows = parquet_bytes(log), len(log)
            score, draws[task.name] = score_task(task, log)
        files[f"{folder}/{task.name}/000000.parquet"] = data
        outputs.append(
            File(
                name=f"logs/{task.name}/000000.0.parquet",
                sha256=hashlib.sha256(data).hexdigest(),
                num_bytes=len(data),
                num_rows=num_rows,
            )
        )
        scores.append(score)
        refs.append(
            TaskRef(
                name=task.name,
                definition=task.definition(),
                data=task.sha256 or sha("data", task.name),
                verified=True,
                identity=pin.identity if pin else sha("identity", task.name),
            )
        )
    return ScoresRecord.seal(
        work=ScoresWork(
            benchmark=suite.benchmark,
            suite=suite.name,
            suite_version=suite.version,
            tasks=tuple(refs),
            parameters={
                "suite": suite.to_record(),
                "model": {name: {"name": "mine"} for name in asked.settings},
            },
        ),
        parents={"model": model},
        outputs=outputs,
        counts={"questions": sum(score.num_items for score in scores)},
        results=ScoresResults(
            tasks=tuple(scores), aggregates=aggregate_suite(suite, scores, draws)
        ),
        made_by=MADE_BY,
    )
