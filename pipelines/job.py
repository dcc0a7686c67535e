"""A run as it travels to workers: the plan, where a shard's rows are, and one task.

Nothing heavy travels: a worker builds the pipeline from its parameters, once per process.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.formats.readers import ShardError, read_shard, schema_of
from pipelines.operators import Operator
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON, Frozen, Module, canonical_json
from pipelines.storage.base import Store
from pipelines.storage.open import open_store
from pipelines.verdict import Verdict


class Plan(Frozen):
    """A run as it travels to workers: the pipeline by its parameters, and where things are."""

    name: str
    steps: tuple[dict[str, JSON], ...]
    modules: dict[str, Module] = Field(default_factory=dict)
    asset_folders: tuple[str, ...] = ()
    input_uri: str
    output_uri: str
    quarantine: bool = False
    format: str = "parquet"
    num_partitions: int = 1
    like: str | None = None  # an input shard that shows which columns the others have

    def pipeline(self, *, assets: Assets | None = None) -> Pipeline:
        """The pipeline, built once per process; another one with other `assets`."""
        if assets is not None:
            return Pipeline.from_steps(
                self.steps, name=self.name, modules=self.modules, assets=assets
            )
        return _pipeline(canonical_json(self.model_dump(mode="json")))


@lru_cache(maxsize=4)
def _pipeline(plan_json: bytes) -> Pipeline:
    plan = Plan.model_validate(orjson.loads(plan_json))
    return Pipeline.from_steps(
        plan.steps,
        name=plan.name,
        modules=plan.modules,
        assets=Assets(folders=tuple(Path(folder) for folder in plan.asset_folders)),
    )


_LOADED: weakref.WeakValueDictionary[int, Operator] = weakref.WeakValueDictionary()


def loaded(step: Step, assets: Assets) -> Operator:
    """The step's operator with its heavy state built, once per process."""
    if _LOADED.get(id(step.operator)) is not step.operator:
        step.operator.load(assets)
        _LOADED[id(step.operator)] = step.operator
    return step.operator


class Held(Frozen):
    """Where a shard's rows are between passes: a stored table, or the input, perhaps thinned."""

    work: bool = False  # a table below the run's folder, not an input shard
    name: str
    rows: str | None = None  # identities of the rows still there, when not all


class ShardTask(Frozen):
    """One pass over one shard. `verdict` is what the global step before it decided."""

    plan: Plan
    number: int
    last: bool
    shard: int
    name: str
    key: str
    held: Held
    scores: str | None = None
    verdict: Verdict | None = None
    excluded: bool = False  # the shard failed, and the run goes on without it


def held_rows(held: Held, store: Store, plan: Plan, shard: int) -> Iterator[Batch]:
    """The rows of a shard as an earlier pass left them, in batches."""
    source = store if held.work else open_store(plan.input_uri)
    wanted = None if held.rows is None else load_array(store, held.rows)
    try:
        for chunk in read_shard(source, held.name, shard=shard, keep_rows=held.work):
            batch = Batch(chunk.table)
            if wanted is not None:
                batch = batch.keep(np.isin(batch.rows, wanted, assume_unique=True))
            if batch.num_rows:
                yield batch
    except ShardError:
        if held.work or not plan.quarantine:
            raise  # else the first pass set the rest of the shard aside, at this very place


def held_schema(held: Held, store: Store, plan: Plan) -> pa.Schema:
    """The columns of those rows; of an input shard that cannot be read, those of the others."""
    if held.work:
        return schema_of(store, held.name)
    source = open_store(plan.input_uri)
    try:
        return schema_of(source, held.name)
    except ShardError:
        if plan.like is None:
            raise
        return schema_of(source, plan.like)


def load_array(store: Store, name: str) -> npt.NDArray[Any]:
    return np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False)  # type: ignore[no-any-return]
