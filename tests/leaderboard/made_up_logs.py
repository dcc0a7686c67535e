"""Logs of questions for made-up submissions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evals.run import score_task
from evals.tasks import (
    ClipTask,
    RestorationTask,
    SamplingTask,
    Task,
)
from pipelines.records import (
    TaskScore,
)


@lru_cache(maxsize=256)  # the scales of a benchmark ask the same questions
def answered(
    task: Task, skill: float, rows: int, drawn: tuple[int, ...], bootstrap: Callable[..., Any]
) -> tuple[bytes, int, TaskScore, Any]:
    """A log as a file, its rows and its score; `bootstrap` is what a test has put there."""
    log = log_of(task, skill, rows, np.random.default_rng(drawn))
    return parquet_bytes(log), len(log), *score_task(task, log)


def log_of(task: Task, skill: float, rows: int, rng: np.random.Generator) -> pa.Table:
    """A log of `rows` questions, as evals writes it for this kind of task."""
    row = np.arange(rows)
    if task.kind == "token_loss":
        return pa.table({"row": row, "num_tokens": [20] * rows, "nats": 40.0 + rng.random(rows)})
    if task.kind in ("perplexity", "answer_loss"):
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
    if task.kind.startswith("image_"):
        return _image_log(task, skill, row, rng)
    right = rng.random(rows) < skill
    categories = [f"category {k % 3}" for k in row] if task.by_category else None
    shared = {
        "row": row,
        "index": row,
        "category": categories or pa.nulls(rows, pa.string()),
    }
    if task.kind in ("language_modeling", "generation"):
        return pa.table(shared | {"correct": right})
    gold = row % 2
    return pa.table(
        shared
        | {
            "predicted": pa.array(np.where(right, gold, 1 - gold), pa.int32()),
            "gold": pa.array(gold, pa.int32()),
            "correct": right,
            "credit": right.astype(np.float64),
        }
    )


def _image_log(task: Task, skill: float, row: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """As evals writes it; every kind with one row an image, a text or an instance."""
    rows = len(row)
    right = rng.random(rows) < skill
    if task.kind == "image_retrieval":
        half = rows // 2
        side = np.where(row < half, "text", "image")
        gold = row % half
        return pa.table(
            {
                "row": row,
                "side": side,
                "gold": gold,
                "predicted": np.where(right, gold, (gold + 1) % half),
                "rank": np.where(right, 0, max(1, half - 1)),
                "correct": right,
            }
        )
    if task.kind == "image_association":
        gold = _lists(np.tile([0, 1], (rows, 1)))
        predicted = _lists(np.column_stack([0 * row, np.where(right, 1, 2)]))
        return pa.table(
            {
                "row": row,
                "cue": [f"cue {k}" for k in row],
                "candidates": 10 + row % 3,
                "predicted": predicted,
                "gold": gold,
                "jaccard": np.where(right, 1.0, 1 / 3),
            }
        )
    if task.kind == "image_generation":
        features = rng.standard_normal((rows, 4)).astype(np.float32) + np.float32(1 - skill)
        reference = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
        return pa.table({"row": row, "features": list(features), "reference": list(reference)})
    if task.kind == "image_memorisation":
        train, held_out = 1.0 + rng.random((2, rows))
        return pa.table({"row": row, "train_distance": train, "heldout_distance": held_out})
    if isinstance(task, RestorationTask):
        error, spread = (0.2 + rng.random((2, rows))) * (1.5 - skill)
        energy = 0.4 + row % 7 / 20  # the mean square of each image: the data's, as `unaided`
        return pa.table(
            {
                "row": row,
                "unaided": 1 + row / 100,
                "error": error,
                "mse": energy * error**2,
                "spread": spread,
                "evaluations": np.full(rows, float(task.steps)),
            }
        )
    if isinstance(task, SamplingTask):
        errors = (1.5 - skill) * (0.5 + rng.random((rows, 1))) / np.array(task.steps) ** 2.0
        return pa.table({"row": row, "errors": pa.array(errors.tolist(), pa.list_(pa.float64()))})
    if isinstance(task, ClipTask):
        moved, independent = 0.1 + rng.random((2, rows))
        moved = (1.01 - skill) * moved
        return pa.table({"row": row, "moved": moved, "independent": independent})
    metadata = {"metadata": _lists(np.tile(row[:, None] % 2, (1, len(task.metadata))))}
    key = [f"{k:06d}" for k in row]
    if task.kind == "image_attributes":
        shared = {"row": row, "key": key} | metadata
        return pa.table(
            shared | {f"predicted_{name}": row % 2 for name in ("race", "gender", "age", "toxic")}
        )
    size = task.classes or 2
    gold = row % size
    predicted = np.where(right, gold, (gold + 1) % size)
    return pa.table(
        {
            "row": row,
            "key": key,
            "gold": gold,
            "predicted": predicted,
            "top5": _lists(predicted[:, None]),
            "in_top5": right,
            "margin": np.where(right, 0.0, -0.1 - rng.random(rows)).astype(np.float32),
            "correct": right,
        }
        | (metadata if task.metadata else {})
    )


def _lists(values: np.ndarray) -> pa.Array:
    """(rows, length) int64 as one list per row."""
    rows, length = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1) * length, values.ravel())


def parquet_bytes(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue().to_pybytes()
