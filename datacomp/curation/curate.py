"""Curation of image-text pairs: a pipeline over the tables of a pool, to a sorted list of uids.

The run is the engine's own (`pipelines.engine.run`), with uids as its output: rows travel between
passes as their places in the tables, only the columns that steps read are read, and the uids of all
tables are sorted part by part, so memory does not grow with the pool.
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

    `out` gets `subset.npy` (sorted records of `u8,u8`, one for each row that is kept, twice where
    the pool has a uid twice), the record and what every run has: counts, rejected rows, samples.
    With `quarantine`, rows whose uid is not one are set aside; without, they stop the run.
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
