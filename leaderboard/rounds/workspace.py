"""One scale of one benchmark in one workspace: where the stages put their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard import rules
from leaderboard.benchmark import RecipeLike, Stages, desk, load_stages
from leaderboard.rules import Benchmark, Scale
from pipelines.errors import RuleError
from pipelines.execution.executors import MapTasks
from pipelines.records import DatasetRecord, Frozen, digest
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

if TYPE_CHECKING:
    from pipelines.formats.pool import Pool


@dataclass(frozen=True)
class Round:
    """One scale of one benchmark, worked in one workspace."""

    benchmark: Benchmark
    scale: Scale
    workspace: str
    map_tasks: MapTasks
    recipe: RecipeLike  # the benchmark's own type
    official: bool  # whether the recipe is the rule book's
    data: str | None = None  # evaluation data, where it is not the workspace's own
    own_track: str = ""  # the track, where it has pools of its own

    @property
    def stages(self) -> Stages[RecipeLike]:
        return load_stages(self.benchmark.name)

    @property
    def home(self) -> str:
        return f"{self.workspace}/{self.benchmark.name}-{self.scale.name}"

    @property
    def desk(self) -> Path:
        """The local folder of this scale's small files."""
        return desk(self.workspace) / f"{self.benchmark.name}-{self.scale.name}"

    @property
    def eval_data(self) -> str:
        """Where the evaluation data of this scale is."""
        if self.data is not None:
            return self.data
        return self.stages.eval_data(self.scale.name, workspace=self.workspace, **self._own)

    def open_pool(self) -> Pool:
        """The pool of this scale, or of its track where that has one of its own."""
        return self.stages.open_pool(
            self.scale.name, workspace=self.workspace, map_tasks=self.map_tasks, **self._own
        )

    @property
    def _own(self) -> dict[str, str]:
        """A benchmark without such tracks need not know the argument."""
        return {"own_track": self.own_track} if self.own_track else {}

    @property
    def recipe_name(self) -> str:
        """`recipe`, or for an experimental one `recipe-<hash>`."""
        if self.official:
            return "recipe"
        return f"recipe-{digest(self.recipe.model_dump(mode='json'))[:8]}"


READ_ONLY = ("hf://", "http://", "https://")


def open_round(
    benchmark: str,
    scale: str,
    *,
    workspace: str,
    map_tasks: MapTasks,
    recipe: str | None = None,
    data: str | None = None,
    track: str | None = None,
) -> Round:
    """Read the rules and the recipe of a scale. RuleError for an unknown one, or such a track."""
    if workspace.startswith(READ_ONLY):
        raise RuleError(f"--workspace {workspace} can only be read; name a folder or s3:// prefix")
    book = rules.load_benchmark(benchmark)
    rung = book.scale(scale)
    chosen = load_stages(benchmark).recipe(recipe or rung.recipe)
    own_track = track if track and book.track(track).pool_parameters else ""
    return Round(
        book, rung, workspace.rstrip("/"), map_tasks, chosen, recipe is None, data, own_track
    )


class Curated(Frozen):
    """A curated dataset in its place."""

    method: str
    home: str
    record: DatasetRecord

    @property
    def dataset(self) -> str:
        return f"{self.home}/dataset"


def is_done(folder: str) -> bool:
    """Whether a stage's folder is finished, with its ancestors next to it."""
    store = open_store(folder)
    return store.exists(RECORD) and store.exists("chain.json")
