"""What steps over the whole pool will remove, guessed from parts of a sample.

How many rows of a pool are copies cannot be known from a sample of rows: of a pair of copies, a
sample of one percent holds both with a probability of 1 in 10,000 (Charikar et al. 2000, Towards
Estimation Error Guarantees for Distinct Values, theorem 1, shows that no estimate escapes this). So
the pipeline is run over a quarter, a half and the whole of the sample. The odds of being removed,
r / (1 - r), grow with the number of rows n as n ** b; b is between 0 (each row has its copies
beside it) and 1 (each pair of rows is a pair of copies with the same small probability), and the
three runs say where. The prediction continues with that b; its bounds are those of b = 0 and b = 1,
each with the error of counting so few copies. They are bounds of the two models, no confidence
interval.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.engine.run import run
from pipelines.engine.run_folder import RunSummary
from pipelines.execution.executors import map_here
from pipelines.execution.progress import quiet
from pipelines.formats.pool import Pool, open_pool
from pipelines.formats.writers import write_table
from pipelines.operators import Fold, Select
from pipelines.pipeline import Pipeline, Step
from pipelines.schema import ROW
from pipelines.storage.open import open_store

PARTS = (4, 2, 1)  # every fourth row of the sample, every second, all
Z = 1.96  # 97.5 % of a normal distribution
UNSEEN = 3.0  # none of n rows: at most this many of them are expected, with 95 % (Hanley 1983)


@dataclass(frozen=True)
class Share:
    """What one step keeps of what reaches it, with its bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Growth:
    """Of each step over the whole pool, by its number from 0: the shares of rows and of bytes kept.

    `cpu_seconds`: per row of the pool, by the function of the engine that takes them (`run_shard`
    reads, runs row-wise steps and makes the keys of a deduplication). `groups`: into how many tasks
    a fold can be cut.
    """

    rows: dict[int, Share]
    text_bytes: dict[int, Share]
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    groups: int = 1


Measure = Callable[[Pipeline, int], tuple[RunSummary, dict[str, float]]]
"""Runs a pipeline over every n-th part of a sample: its counts, and CPU-seconds by function."""


def growth(pipeline: Pipeline, measure: Measure, *, pool_rows: float) -> Growth:
    """Run the pipeline over parts of a sample. `pool_rows`: of the whole pool, about."""
    steps = [step for step in pipeline.steps if not isinstance(step.operator, Select)]
    numbers = [step.number for step in steps]
    plain = Pipeline(
        pipeline.name,
        tuple(Step(n, step.name, step.operator) for n, step in enumerate(steps)),
        pipeline.modules,
        assets=pipeline.assets,
    )
    summaries, sizes, took = [], [], []
    for every in PARTS:
        summary, cpu = measure(plain, every)
        summaries.append(summary)
        took.append(cpu)
        sizes.append(summary.stats.rows_in)
    rows, text_bytes = {}, {}
    for step, number in zip(steps, numbers, strict=True):
        if step.operator.kind not in ("dedup", "fold"):
            continue
        seen = [summary.stats.step(plain.steps[steps.index(step)].number) for summary in summaries]
        factor = pool_rows / max(sizes[-1], 1)
        came = seen[-1].rows_in
        rows[number] = _share([(s.rows_in, s.rows_out) for s in seen], sizes, factor, came)
        text = [(s.bytes_in, s.bytes_out) for s in seen]
        text_bytes[number] = _share(text, sizes, factor, came)
    folds = [step.operator.groups for step in steps if isinstance(step.operator, Fold)]
    seconds = {name: _per_row([cpu.get(name, 0.0) for cpu in took], sizes) for name in took[-1]}
    return Growth(rows, text_bytes, seconds, min(folds, default=1))


def of_rows(
    tables: Sequence[pa.Table], pipeline: Pipeline, every: int
) -> tuple[RunSummary, dict[str, float]]:
    """A `Measure` of documents: every n-th row of these tables."""
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder, quiet():
        store = open_store(f"{folder}/pool")
        for number, table in enumerate(tables):
            rows = table.take(np.arange(0, table.num_rows, every))
            rows = rows.drop_columns([ROW]) if ROW in rows.column_names else rows
            write_table(store, f"{number:05d}.jsonl.zst", rows, kind="jsonl.zst")
        return counted(pipeline, open_pool(f"{folder}/pool"), f"{folder}/out")


def counted(
    pipeline: Pipeline, pool: Pool, out: str, *, format: str = "parquet"
) -> tuple[RunSummary, dict[str, float]]:
    """A run's counts, and the CPU-seconds of each kind of task."""
    cpu: dict[str, float] = {}

    def noted(function: Callable[[Any], Any], items: Sequence[Any], **options: Any) -> list[Any]:
        started = time.process_time()
        done = map_here(function, items, **options)
        name = function.__name__
        cpu[name] = cpu.get(name, 0.0) + time.process_time() - started
        return done

    result = run(pipeline, pool, out=out, map_tasks=noted, quarantine=True, format=format)
    return result.summary, cpu


def _per_row(seconds: Sequence[float], sizes: Sequence[int]) -> float:
    """CPU-seconds a row, without what any run takes however small it is."""
    mean = seconds[-1] / max(sizes[-1], 1)
    further = (seconds[-1] - seconds[0]) / max(sizes[-1] - sizes[0], 1)
    return min(further, mean) if further > 0 else mean


def _share(
    seen: Sequence[tuple[int, int]], sizes: Sequence[int], factor: float, num_rows: int
) -> Share:
    """What is kept of a pool `factor` times the sample, by how much of its parts was removed.

    `seen`: what came and what stayed, of parts of so many `sizes`; `num_rows` came of the largest.
    """
    came, stayed = seen[-1]
    if not came or factor <= 1:
        share = stayed / came if came else 1.0
        return Share(share, share, share)
    removed = [1 - left / into if into else 0.0 for into, left in seen]
    error = Z * float(np.sqrt(removed[-1] / num_rows))  # of a count of copies, as Poisson's
    least, most = (
        max(removed[-1] - error, 0.0),
        min(max(removed[-1] + error, UNSEEN / num_rows), 1.0),
    )
    exponent = 0.0
    known = np.array([0 < share < 1 for share in removed])
    if known.sum() > 1:
        share = np.array(removed)[known]
        slope = np.polyfit(np.log(np.array(sizes)[known]), np.log(share / (1 - share)), 1)[0]
        exponent = float(np.clip(slope, 0.0, 1.0))
    return Share(
        1 - _grown(removed[-1], factor**exponent),
        1 - _grown(most, factor),
        1 - least,
    )


def _grown(share: float, factor: float) -> float:
    """The share whose odds are `factor` times those of `share`."""
    return 1.0 if share >= 1 else share * factor / (share * factor + 1 - share)
