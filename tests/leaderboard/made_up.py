"""Submissions of models that never were: sealed records and logs that keep every rule.

A model answers each question rightly with the chance `skill`. The validator cannot tell such a
bundle from one of a trained model: only a rerun can, which is what `leaderboard recheck` is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from evals.aggregate import aggregate_suite
from evals.run import score_task
from evals.suite import Suite
from evals.tasks import Task
from leaderboard import rules
from leaderboard.submissions.bundle import MANIFEST, RECORD, Place, manifest_of, write_zip
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
)

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


def sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def suite_of(benchmark: str, scale: str) -> Suite:
    return official_suite(rules.load_benchmark(benchmark), scale)


def make_folder(
    out: Path,
    *,
    method: str = "a method",
    team: str = "a team",
    skill: float = 0.5,
    benchmark: str = "dclm",
    scale: str = "tiny",
    track: str = "filtering",
    seeds: Sequence[int] | None = None,
    rows: int = 60,
    pool: str = "a pool",
    chance: int = 0,
    url: str = "",
    dataset_text: str | None = None,
    dataset: Place = Place(),
    checkpoint: str = "",
    steps: Sequence[dict[str, Any]] = STEPS,
    changed: dict[str, Any] | None = None,
) -> Path:
    """The folder of a made-up submission below `out`; `changed` overrides fields of the claim."""
    book = rules.load_benchmark(benchmark)
    rung = book.scale(scale)
    recipe = rules.load_package(benchmark).recipe(rung.recipe)
    chain = _data(recipe, method, pool, chance, steps)
    packed = chain[-1]
    assert isinstance(packed, PackedRecord)
    files: dict[str, bytes] = {}
    parents = {}
    for seed in seeds or recipe.seeds[:1]:
        model = _model(packed, benchmark, scale, recipe, seed)
        scores = _scores(model, benchmark, scale, seed, skill, rows, chance, files)
        chain += [model, scores]
        parents[f"scores/{seed}"] = scores.id
    claim = {
        "benchmark": benchmark,
        "benchmark_version": book.version,
        "scale": scale,
        "track": track,
        "method": method,
        "team": team,
        "url": url,
    }
    record = Submission.seal(
        work=SubmissionWork(**(claim | (changed or {}))), parents=parents, made_by=MADE_BY
    )
    record = record.model_copy(update={"chain": tuple(chain)})
    files[RECORD] = record.to_json()
    checkpoints = {
        str(seed): Place(location=checkpoint, sha256=sha("checkpoint", seed))
        for seed in (seeds or recipe.seeds[:1])
        if checkpoint
    }
    manifest = manifest_of(record, files.items(), dataset=dataset, checkpoints=checkpoints)
    files[MANIFEST] = orjson.dumps(manifest.model_dump(mode="json"))
    folder = out / record.id
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def make_zip(out: Path, **options: Any) -> Path:
    """The same, as one zip."""
    folder = make_folder(out, **options)
    return write_zip(folder, folder.with_suffix(".zip"))


def _data(
    recipe: Any, method: str, pool: str, chance: int, steps: Sequence[dict[str, Any]]
) -> list[Record]:
    source = PoolSource(name=pool, version="1", sha256=sha(pool), licence="CC0")
    pool_record = PoolRecord.seal(
        work=PoolWork(name=pool, sources=(source,)), parents={}, made_by=MADE_BY
    )
    rows_out = 600_000 if steps else 1_000_000
    counts = {"rows_in": 1_000_000, "rows_out": rows_out, "errors": 0}
    if steps:
        counts |= {
            "rejected/1/stop_words/too_few_stop_words": 300_000,
            "rejected/2/exact_dedup/duplicate": 100_000,
        }
    dataset = DatasetRecord.seal(
        work=DatasetWork(pipeline={"name": method, "steps": list(steps)}),
        parents={"pool": pool_record.id},
        outputs=[_file("data/0.parquet", method, chance, rows=rows_out)],
        counts=counts,
        made_by=MADE_BY,
    )
    packed = PackedRecord.seal(
        work=PackedWork(
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
        ),
        parents={"dataset": dataset.id},
        outputs=[_file("data/0.npy", method, chance, "packed")],
        counts={"documents": rows_out, "tokens": rows_out * 700 + chance},
        made_by=MADE_BY,
    )
    return [pool_record, dataset, packed]


def _file(name: str, *about: object, rows: int | None = None) -> File:
    return File(name=name, sha256=sha(name, *about), num_bytes=1000, num_rows=rows)


def _model(packed: PackedRecord, benchmark: str, scale: str, recipe: Any, seed: int) -> ModelRecord:
    from dclm.recipe import num_steps

    steps = num_steps(recipe)
    return ModelRecord.seal(
        work=ModelWork(
            benchmark=benchmark, scale=scale, recipe=recipe.model_dump(mode="json"), seed=seed
        ),
        parents={"packed": packed.id},
        outputs=[_file("checkpoint.safetensors", packed.id, seed)],
        counts={"steps": steps, "params": recipe.model.num_params},
        results={"tokens_seen": steps * recipe.global_batch_size * recipe.model.seq_len},
        made_by=MADE_BY,
    )


def _scores(
    model: ModelRecord,
    benchmark: str,
    scale: str,
    seed: int,
    skill: float,
    rows: int,
    chance: int,
    files: dict[str, bytes],
) -> ScoresRecord:
    suite = suite_of(benchmark, scale)
    tasks = suite.load_tasks()
    scores, draws, outputs, refs = [], {}, [], []
    for number, task in enumerate(tasks):
        rng = np.random.default_rng([chance, seed, number])
        log = log_of(task, skill, task.rows or rows, rng)
        data = _parquet(log)
        name = f"questions/{seed}/{task.name}/000000.parquet"
        files[name] = data
        outputs.append(
            File(
                name=f"logs/{task.name}/000000.0.parquet",
                sha256=hashlib.sha256(data).hexdigest(),
                num_bytes=len(data),
                num_rows=len(log),
            )
        )
        score, draws[task.name] = score_task(task, log)
        scores.append(score)
        refs.append(
            TaskRef(
                name=task.name,
                definition=task.definition(),
                data=task.sha256 or sha("data", task.name),
                verified=True,
            )
        )
    return ScoresRecord.seal(
        work=ScoresWork(
            benchmark=benchmark,
            suite=suite.name,
            suite_version=suite.version,
            tasks=tuple(refs),
            parameters={"suite": suite.model_dump(mode="json"), "model": {}},
        ),
        parents={"model": model.id},
        outputs=outputs,
        counts={"questions": sum(score.num_items for score in scores)},
        results=ScoresResults(
            tasks=tuple(scores), aggregates=aggregate_suite(suite, scores, draws)
        ),
        made_by=MADE_BY,
    )


def log_of(task: Task, skill: float, rows: int, rng: np.random.Generator) -> pa.Table:
    """A log of `rows` questions, as evals writes it for this kind of task."""
    row = np.arange(rows)
    if task.kind == "perplexity":
        sizes = 1000 + 10 * (row % 50)
        bits = (3.5 - 2 * skill) + 0.3 * rng.standard_normal(rows)
        return pa.table(
            {
                "row": row,
                "category": pa.nulls(rows, pa.string()),
                "num_bytes": sizes,
                "num_tokens": sizes // 4,
                "nats": bits * sizes * np.log(2),
            }
        )
    gold = row % 2
    right = rng.random(rows) < skill
    categories = [f"category {k % 3}" for k in row] if task.by_category else None
    return pa.table(
        {
            "row": row,
            "index": row,
            "category": categories or pa.nulls(rows, pa.string()),
            "predicted": pa.array(np.where(right, gold, 1 - gold), pa.int32()),
            "gold": pa.array(gold, pa.int32()),
            "correct": right,
        }
    )


def _parquet(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue().to_pybytes()
