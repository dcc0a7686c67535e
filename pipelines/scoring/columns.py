"""Scores of a pool's documents as columns in a separate folder, for any pipeline to read.

Scoring is a pipeline run (the steps that add columns, then `only_scores`), so it works at any size,
on any number of workers and on a cluster, resumes, and has a record with every parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.errors import UsageError
from pipelines.execution.executors import MapTasks
from pipelines.formats.pool import Pool
from pipelines.operators import Modifier
from pipelines.pipeline import Pipeline, Step
from pipelines.schema import EXTRA, ROW, TEXT
from pipelines.text.score_columns import OnlyScores

ID_DIGITS = 16  # of a pool's id: enough to name it in a column of scores


def score(
    pipeline: Pipeline,
    pool: Pool,
    *,
    out: str,
    columns: Sequence[str] | None,
    map_tasks: MapTasks,
    quarantine: bool = False,
    max_failed_shards: int = 0,
    overwrite: bool = False,
) -> Result:
    """Run the scorers over the pool in one pass and keep only the columns they write.

    `columns` selects some of them; the default is all new ones. UsageError for steps that are not
    modifiers, and for columns that no step writes.
    """
    for step in pipeline.steps:
        if not isinstance(step.operator, Modifier):
            raise UsageError(
                f"{pipeline.name}: {step.label} is a {step.operator.kind}; scores are columns that "
                "modifiers add: put filters into the pipeline that reads the scores"
            )
    schema = [name for name in pool.schema().names if name != ROW]
    written = {n for step in pipeline.steps for n in step.operator.writes()} - {TEXT, EXTRA}
    kept = sorted(written if columns is None else columns)
    missing = [name for name in kept if name not in written and name not in schema]
    if not kept or missing:
        what = f"no step writes {', '.join(missing)}" if missing else "no step writes a column"
        raise UsageError(f"{pipeline.name}: {what}; the steps write {', '.join(sorted(written))}")
    drop = tuple(sorted(({*schema, *written, TEXT, EXTRA}) - set(kept)))
    last = OnlyScores(pool=pool.record.id[:ID_DIGITS], drop=drop)
    steps = (*pipeline.steps, Step(len(pipeline.steps), "only_scores", last))
    scoring = Pipeline(pipeline.name, steps, pipeline.modules, assets=pipeline.assets)
    return run(
        scoring,
        pool,
        out=out,
        map_tasks=map_tasks,
        quarantine=quarantine,
        max_failed_shards=max_failed_shards,
        overwrite=overwrite,
    )
