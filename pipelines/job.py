"""A run as it travels to workers: the plan, where a shard's rows are, and one task.

Nothing heavy travels: a worker builds the pipeline from its parameters, once per process.
"""

from __future__ import annotations

import io
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field

from pipelines.assets.catalogue import Assets
from pipelines.errors import PipelineError, PlatformError
from pipelines.formats.pool_schema import Columns
from pipelines.formats.shard_identity import Identity
from pipelines.formats.uid_subset import VALUES
from pipelines.operators import Operator
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON, Frozen, Module, canonical_json
from pipelines.storage.base import Store
from pipelines.verdict import Verdict

UIDS = "uids"  # the output format of pipelines over tables of pairs


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
    columns: Columns | None = None  # of all shards together, where they are not the same anyway

    @property
    def pairs(self) -> bool:
        """Whether the pool is tables of pairs, and the output the list of their uids."""
        return self.format == UIDS

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that go with the uids into the list: those of VALUES that a step writes."""
        if not self.pairs:
            return ()
        steps = self.pipeline().steps
        written = {name for step in steps for name in step.operator.writes()}
        return tuple(name for name in VALUES if name in written)

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
    """The step's operator with its heavy state built, once per process.

    PipelineError names a participant's step whose `load` raises.
    """
    if _LOADED.get(id(step.operator)) is not step.operator:
        try:
            step.operator.load(assets)
        except (Exception, SystemExit) as error:
            if ":" not in step.name or isinstance(error, PlatformError):
                raise
            problem = f"{type(error).__name__}: {error}"
            raise PipelineError(f"{step.label}: its load() failed: {problem}") from error
        _LOADED[id(step.operator)] = step.operator
    return step.operator


class Held(Frozen):
    """Where a shard's rows are between passes: a stored table, or the input, perhaps thinned."""

    work: bool = False  # a table below the run's folder, not an input shard
    name: str
    identity: Identity | None = None  # of an input shard
    rows: str | None = None  # identities of the rows still there, when not all
    columns: str | None = None  # of pairs: a table of what earlier steps wrote for those rows


class ShardTask(Frozen):
    """One pass over one shard. `verdict` is what the global step before it decided."""

    plan: Plan
    number: int
    last: bool
    shard: int
    name: str
    sha256: str = ""
    key: str
    input: Held
    scores: str | None = None
    verdict: Verdict | None = None
    excluded: bool = False  # the shard failed, and the run continues without it


def load_array(store: Store, name: str) -> npt.NDArray[Any]:
    return np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False)  # type: ignore[no-any-return]
