"""Curate image-text pairs: run a pipeline over a pool's tables, to a sorted list of uids.

The run is the engine's own (`pipelines.engine.run`) with uids as its output: passes hand on
positions of rows instead of rows, only columns that steps need are read, and the uids of all tables
are sorted part by part, so memory does not grow with the pool.
"""

from __future__ import annotations

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.execution.executors import MapTasks
from pipelines.formats.pool import Pool
from pipelines.job import UIDS
from pipelines.pipeline import Pipeline


def curate(
    pipeline: Pipeline,
    pool: Pool,
    *,
    out: str,
    map_tasks: MapTasks,
    quarantine: bool = False,
    max_failed_shards: int = 0,
) -> Result:
    """Run a pipeline of filters, modifiers, selections and dedups over a pool's tables.

    Writes `subset.npy` into `out` (sorted records of `u8,u8`, one per kept row, so a uid that the
    pool has twice is there twice), the record, and the files of every run: counts, rejected rows,
    samples. Rows with a malformed uid stop the run or, with `quarantine`, are set aside.
    """
    return run(
        pipeline,
        pool,
        out=out,
        map_tasks=map_tasks,
        quarantine=quarantine,
        format=UIDS,
        max_failed_shards=max_failed_shards,
    )
