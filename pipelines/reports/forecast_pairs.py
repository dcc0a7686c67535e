"""What a pipeline over pairs will keep and take, estimated from whole tables of the pool.

Published pools are cut into tables by a hash of the uid, so a few tables are a sample; of others
the error says how much tables differ. Row-wise steps run over each of at most 16 pieces, steps over
the whole pool over a quarter, a half and all of the sample (`forecast_growth`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from pipelines.engine.run_folder import RunSummary
from pipelines.execution.progress import quiet
from pipelines.formats.pool import InputShard, Pool
from pipelines.job import UIDS
from pipelines.pipeline import Pipeline
from pipelines.reports.forecast import MAX_SHARDS, Forecast, Unit, of_units, row_wise
from pipelines.reports.forecast_growth import PARTS, counted


def forecast_pairs(
    pipeline: Pipeline, pool: Pool, *, fraction: float, workers: int = 1
) -> Forecast:
    """Run the pipeline over a sample of the pool's tables, at least four. ValueError for none.

    `fraction` is of the tables. PipelineError for a pipeline that cannot run over pairs.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--sample {fraction}: expected a share above 0 and up to 1 (or 100%)")
    pipeline.check_ready()
    many = min(len(pool.shards), max(max(PARTS), round(fraction * len(pool.shards))))
    numbers = np.unique(np.linspace(0, len(pool.shards) - 1, many).round().astype(int))
    sample = [pool.shards[number] for number in numbers.tolist()]
    plain, step_numbers = row_wise(pipeline)
    units = []
    for piece in np.array_split(np.arange(len(sample)), min(MAX_SHARDS, len(sample))):
        shards = [sample[number] for number in piece.tolist()]
        summary, cpu = _run(pool, shards, plain, 1)
        stats = summary.stats
        units.append(
            Unit(
                file_bytes=sum(shard.num_bytes for shard in shards),
                rows_in=stats.rows_in,
                rows_out=stats.rows_out,
                text_bytes=0,
                cpu_seconds=sum(cpu.values()),
                steps={n: s.rows_out for n, s in zip(step_numbers, stats.steps[1:], strict=True)},
            )
        )
    return of_units(pipeline, pool, units, measure=partial(_run, pool, sample), workers=workers)


def _run(
    pool: Pool, shards: Sequence[InputShard], pipeline: Pipeline, every: int
) -> tuple[RunSummary, dict[str, float]]:
    """The pipeline over every n-th of these tables."""
    part = replace(pool, shards=tuple(shards[::every]))
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder, quiet():
        return counted(pipeline, part, folder, format=UIDS)
