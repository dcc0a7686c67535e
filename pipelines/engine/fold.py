"""A Fold over groups of shards: a state is carried through each group; groups run in parallel.

One task is one group, and a group is the unit of restart: its state is never stored.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import numpy as np
from pydantic import Field

from pipelines.batch import Batch
from pipelines.engine.rejections import Rejections
from pipelines.engine.row_steps import check_all_written
from pipelines.execution.once import once
from pipelines.formats.writers import TableWriter, write_row_list
from pipelines.global_steps.duplicate_record import Removed
from pipelines.job import Held, Plan, loaded
from pipelines.operators import Fold, choose
from pipelines.pipeline import Step
from pipelines.records import Frozen
from pipelines.sources import held_rows, held_schema
from pipelines.stats import Tally, add_counts
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name


class FoldTask(Frozen):
    """One group: neighbouring shards in order, their names, and the location of their rows."""

    plan: Plan
    step: int
    key: str
    group: int
    shards: tuple[int, ...]
    names: tuple[str, ...]
    inputs: tuple[Held, ...] = Field(default=())

    @property
    def uri(self) -> str:
        return self.plan.output_uri


def groups_of(num_shards: int, groups: int) -> list[tuple[int, ...]]:
    """Shards in at most `groups` runs of neighbours, as even as possible; none is empty."""
    bounds = np.linspace(0, num_shards, min(groups, max(num_shards, 1)) + 1).round().astype(int)
    return [tuple(range(a, b)) for a, b in pairwise(bounds.tolist())]


@once
def run_fold(task: FoldTask, store: Store) -> Done:
    """Run one group and commit the tables of all its shards together."""
    pipeline = task.plan.pipeline()
    step = pipeline.steps[task.step]
    operator = loaded(step, pipeline.assets)
    assert isinstance(operator, Fold)
    tally = Tally(step.number, step.name, "fold")
    rejections = Rejections()
    state = operator.start()
    files = []
    removed: dict[str, int] = {}
    for shard, rows_in in zip(task.shards, task.inputs, strict=True):
        lost = Removed(task.names[shard - task.shards[0]])
        state, file = _one_shard(
            task, store, shard, rows_in, step, operator, state, tally, rejections, lost
        )
        files.append(file)
        removed = add_counts(removed, lost.by_source)
    roles = {f"table/{shard}": number for number, shard in enumerate(task.shards)}
    if rejections.num_rows:
        name = attempt_name(f"rejected/fold{step.number}-{task.group:05d}", ".parquet")
        roles["rejected"] = len(files)
        files.append(write_row_list(store, name, rejections.table()))
    stats = {
        "roles": roles,
        "steps": [tally.freeze().model_dump()],
        "removed": removed,
        "state": dict(operator.describe(state)),
    }
    return Done(key=task.key, files=tuple(files), stats=stats)


def _one_shard(
    task: FoldTask,
    store: Store,
    shard: int,
    rows_in: Held,
    step: Step,
    operator: Fold,
    state: Any,
    tally: Tally,
    rejections: Rejections,
    removed: Removed,
) -> tuple[Any, Any]:
    """Carry the state over one shard; returns the next state and the shard's stored table."""
    table: TableWriter | None = None
    name = attempt_name(f"work/fold{task.step}-{shard:05d}", ".parquet")
    empty = Batch(held_schema(rows_in, store, task.plan).empty_table())
    try:
        for batch in chain([empty], held_rows(rows_in, store, task.plan, shard)):
            tally.enter(batch.amount())
            state, columns = operator.step(state, batch)
            check_all_written(step, removed.shard, method="step", written=columns)
            before, batch = batch, batch.write(columns)
            if batch.text.null_count:
                without_text = batch.text.is_null().to_numpy(zero_copy_only=False)
                reasons = choose([(without_text, operator.reasons[0])])
                rejections.add(batch, reasons, tally)
                batch = batch.keep(~without_text)
            removed.count(before, batch)
            tally.leave(batch.amount())
            if table is None:
                table = TableWriter(store, name, "parquet", batch.table.schema)
            table.write(batch.table)
    except BaseException:
        if table is not None:
            table.abandon()
        raise
    assert table is not None
    return state, table.close()
