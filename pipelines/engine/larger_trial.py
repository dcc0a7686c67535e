"""A participant's operator tried on up to two whole batches: what 64 rows cannot show.

The rows go through it in batches as a run cuts them, and then in small pieces of uneven sizes from
the last to the first. An operator that counts rows, or does otherwise once a batch is large, gives
other answers for the same rows; a run would give them wherever its shards are cut otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.contract import equal, outcome_of
from pipelines.engine.repeat import repeat
from pipelines.formats.readers import read_shard
from pipelines.job import Plan
from pipelines.operators import Dedup, Operator
from pipelines.pipeline import Pipeline, Step
from pipelines.schema import TEXT, number_of
from pipelines.storage.open import open_store

MAX_ROWS = 2000  # two of a run's batches: what a counter of the first does to the second is seen
MAX_PIECE_ROWS = 64
TRIAL_SECONDS = 2.0
"""What an operator's larger trial may take of a run. A slow operator is tried on fewer rows."""

Outcome = dict[str, pa.Array]


def try_larger(
    operator: Operator,
    step: Step,
    first: Sequence[Batch],
    pipeline: Pipeline,
    *,
    seconds_before: float,
) -> tuple[int, str | None]:
    """How many of the pool's `first` rows it was tried on, and what differs.

    The number doubles while the time lasts, which the `seconds_before` that a trial on
    MAX_PIECE_ROWS rows took (its eight evaluations) let one foresee.
    """
    before = pipeline.steps[: pipeline.steps.index(step)]
    num_tried, foreseen, spent = 0, seconds_before / 2, 0.0
    num_rows, num_first = MAX_PIECE_ROWS, sum(batch.num_rows for batch in first)
    while num_rows < num_first and foreseen + spent <= TRIAL_SECONDS:
        started = time.monotonic()
        num_rows *= 2
        batches = list(_inputs(list(_cut_to(first, num_rows)), before, pipeline.assets))
        problem = difference(operator, batches, seed=step.label)
        num_tried = sum(batch.num_rows for batch in batches)
        if problem:
            return num_tried, problem
        seconds = time.monotonic() - started
        foreseen, spent = seconds * 2, spent + seconds
    return num_tried, None


def difference(operator: Operator, batches: Sequence[Batch], *, seed: str) -> str | None:
    """What differs between answers for whole batches and for small pieces, last piece first."""
    wholes = [outcome_of(operator, batch) for batch in batches]
    for batch, whole in reversed(list(zip(batches, wholes, strict=True))):
        for start, end in reversed(_pieces(batch.num_rows, seed)):
            piece = outcome_of(operator, batch.slice(start, end - start))
            if not equal(_part(operator, whole, start, end), piece):
                rows = [number_of(int(row)) for row in batch.rows[[start, end - 1]]]
                return (
                    f"rows {rows[0]} to {rows[1]} get other answers in a batch of "
                    f"{batch.num_rows} rows than in one of {end - start}: it counts rows, or "
                    "depends on the size of a batch or on what came before"
                )
    return None


def first_rows(plan: Plan) -> list[Batch]:
    """The pool's first batches, as a run reads them."""
    assert plan.like is not None
    batches, num_rows = [], 0
    for chunk in read_shard(open_store(plan.input_uri), plan.like, shard=0):
        batches.append(Batch(chunk.table.slice(0, MAX_ROWS - num_rows)))
        num_rows += batches[-1].num_rows
        if num_rows >= MAX_ROWS:
            break
    return batches


def _inputs(batches: Sequence[Batch], before: Sequence[Step], assets: Assets) -> Iterator[Batch]:
    """The rows that reach the step after these."""
    for batch in batches:
        if batch.has(TEXT):
            batch = batch.keep(batch.text.is_valid().to_numpy(zero_copy_only=False))
        batch = repeat(before, batch, assets).kept
        if batch.num_rows:
            yield batch


def _cut_to(batches: Sequence[Batch], num_rows: int) -> Iterator[Batch]:
    for batch in batches:
        if num_rows > 0:
            yield batch.slice(0, min(num_rows, batch.num_rows))
        num_rows -= batch.num_rows


def _pieces(num_rows: int, seed: str) -> list[tuple[int, int]]:
    """Borders of pieces whose sizes are hashed, so that no period of an operator fits them."""
    pieces = []
    start = 0
    while start < num_rows:
        size = 1 + xxhash.xxh3_64_intdigest(f"{seed}:{start}".encode()) % MAX_PIECE_ROWS
        pieces.append((start, min(start + size, num_rows)))
        start += size
    return pieces


def _part(operator: Operator, outcome: Outcome, start: int, end: int) -> Outcome:
    """The answers for some rows of a batch; a dedup has any number a row, with its position."""
    if not isinstance(operator, Dedup):
        return {name: values.slice(start, end - start) for name, values in outcome.items()}
    position = np.asarray(outcome["position"])
    chosen = (position >= start) & (position < end)
    part = {name: values.filter(pa.array(chosen)) for name, values in outcome.items()}
    return {**part, "position": pa.array(position[chosen] - start)}
