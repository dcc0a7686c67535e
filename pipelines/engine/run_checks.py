"""Checks of a pool, an output folder and the shards' counts, before a run starts or continues."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.engine.run_folder import RunFailed
from pipelines.errors import PipelineError
from pipelines.formats.pool import Pool
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON
from pipelines.schema import EXTRA, ROW, TEXT
from pipelines.stats import READ, RunStats
from pipelines.storage.chain import RECORD
from pipelines.storage.commits import Done
from pipelines.storage.open import open_store
from pipelines.text.aggregates import ValueCounts, summary_of
from pipelines.text.score_columns import ChosenRows, RowFolder, ScoreColumns

log = logging.getLogger(__name__)


def check_has_text(pipeline: Pipeline, pool: Pool, *, external: bool) -> None:
    """PipelineError when external data has no column of texts and no step writes one."""
    schema = pool.schema()
    made = any(TEXT in step.operator.writes() for step in pipeline.steps)
    if external and TEXT not in schema.names and not made:
        raise PipelineError(
            f"{pool.uri} has no column 'text'; its columns are {', '.join(schema.names)}: name the "
            "one with the text by --text-field"
        )


def check_rows(pipeline: Pipeline, pool: Pool) -> None:
    """PipelineError when a step joins scores, or chosen rows, of another pool."""
    for step in pipeline.steps:
        operator = step.operator
        if isinstance(operator, ScoreColumns | ChosenRows):
            record = pipeline.assets.path(f"{operator.of}/{RECORD}")
            of_pool = RowFolder(record, ()).pool
            if not pool.record.id.startswith(of_pool):
                raise PipelineError(
                    f"{step.label}: the rows of {record.parent} are of the pool {of_pool}..., "
                    f"not of {pool.uri} ({pool.record.id}); score this pool"
                )


def check_any_text(stats: RunStats, pool: Pool, *, allow_empty: bool) -> None:
    """PipelineError when the pool has no rows, or no row has a text: this is never intended.

    `allow_empty` accepts a pool without rows, as a program's table may be.
    """
    read = stats.step(READ)
    if not read.rows_in:
        if allow_empty:
            return
        raise PipelineError(
            f"{pool.uri} has no rows: {len(pool.shards):,} shards were read and all are empty; "
            "check the program that wrote them"
        )
    textless = sum(step.reasons.get("no_text", 0) for step in stats.steps)
    if textless == read.rows_in:  # at the reader, or after the step that should have added texts
        fields = sorted({*pool.fields(), *pool.schema().names} - {ROW, EXTRA, TEXT})
        raise PipelineError(
            f"none of the {read.rows_in:,} rows of {pool.uri} has a text; the fields are "
            f"{', '.join(fields) or 'none'}: name the one that holds it with --text-field, "
            "or begin the pipeline with rename_field"
        )


def warn_of_nothing(stats: RunStats) -> None:
    """Log a warning when no row is left, naming the step that rejected most rows."""
    if stats.rows_in and not stats.rows_out:
        taker = max(stats.steps, key=lambda step: step.rejected + step.errors)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in taker.reasons.items())
        log.warning(
            "none of the %s rows is left: step %d (%s) took %s (%s)",
            f"{stats.rows_in:,}",
            taker.number + 1,
            taker.name,
            f"{taker.rejected + taker.errors:,}",
            reasons or "set aside",
        )


def aggregates_of(pipeline: Pipeline, stats: RunStats) -> dict[str, dict[str, JSON]]:
    """The summaries computed by `value_counts` steps, by step number and field."""
    return {
        f"{step.number + 1}": {
            step.operator.by: summary_of(
                stats.step(step.number).counters, step.operator.by, step.operator.statistic
            )
        }
        for step in pipeline.steps
        if isinstance(step.operator, ValueCounts) and step.operator.statistic is not None
    }


def check_places(pool: Pool, out: str) -> None:
    """RunFailed when the output is inside the pool, where the next run would read it."""
    source, target = open_store(pool.uri).uri, open_store(out).uri
    if not pool.single and (target == source or target.startswith(source.rstrip("/") + "/")):
        raise RunFailed(
            f"--out {out} is inside the pool {pool.uri}, whose next run would read it; choose a "
            "folder next to the pool"
        )


def check_kinds(step: Step, done: Sequence[Done], names: Sequence[str]) -> None:
    """PipelineError when a column that a step compares has other types in other shards.

    The tables of a pool have one type each; the fields of JSON lines have any.
    """
    first: dict[str, tuple[str, str]] = {}
    for result, shard in zip(done, names, strict=True):
        for name, kind in result.stats.get("kinds", {}).items():
            before, where = first.setdefault(name, (kind, shard))
            if kind != before:
                raise PipelineError(
                    f"{step.label}: {name} compares {before} in {where} and {kind} in {shard}; "
                    "make the column one type in all shards"
                )
