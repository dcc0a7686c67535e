"""One submission as its checks see it: the bundle with the rules it falls under, looked up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evals.suite import Suite, load_suite
from leaderboard.benchmark import load_stages
from leaderboard.rules import Benchmark, Scale, Track
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.facts import NOTHING, Known
from pipelines.installed import folder
from pipelines.records import (
    DatasetRecord,
    ModelRecord,
    PackedRecord,
    PoolRecord,
    ScoresRecord,
    Submission,
)


def official_suite(benchmark: Benchmark, scale: str) -> Suite:
    """The installed suite that ranks at a scale."""
    rung = benchmark.scale(scale)
    return load_suite(folder(benchmark.name) / "suites" / f"{rung.suite}.yaml")


@dataclass(frozen=True)
class Case:
    """A submission under one rule book. Everything else follows from these and is kept.

    `bundle` is None while only the record is checked. Properties may be asked for once the form of
    the record was checked: that its scale is known and its chain is whole.
    """

    record: Submission
    book: Benchmark
    bundle: Bundle | None = None
    known: Known = NOTHING

    @cached_property
    def scale(self) -> Scale:
        return self.book.scale(self.record.work.scale)

    @cached_property
    def track(self) -> Track:
        return self.book.track(self.record.work.track)

    @cached_property
    def suite(self) -> Suite:
        """The suite that was asked: the scale's, less optional tasks that its scores lack."""
        suite = official_suite(self.book, self.scale.name)
        asked = {task.name for scores in self.by_seed.values() for task in scores.work.tasks}
        return suite.without([name for name in suite.optional if name not in asked])

    @cached_property
    def package(self) -> Any:
        return load_stages(self.book.name)

    @cached_property
    def recipe(self) -> Any:
        """The frozen recipe of the scale; its own `scale` is the recipe's name.

        A speedrun's keeps more weights on the way, and is the same in everything else.
        """
        recipe = self.package.recipe(self.scale.recipe)
        if self.track.speedrun and self.scale.speedrun is not None:
            return self.package.changed(recipe, checkpoints=self.scale.speedrun.checkpoints)
        return recipe

    @cached_property
    def kinds(self) -> Mapping[str, list[Any]]:
        return chain_of(self.record)

    @property
    def pool(self) -> PoolRecord:
        result: PoolRecord = self.kinds["pool"][0]
        return result

    @property
    def dataset(self) -> DatasetRecord:
        result: DatasetRecord = self.kinds["dataset"][0]
        return result

    @property
    def packed(self) -> PackedRecord:
        result: PackedRecord = self.kinds["packed"][0]
        return result

    @property
    def models(self) -> list[ModelRecord]:
        return list(self.kinds.get("model", []))

    @cached_property
    def by_seed(self) -> dict[int, ScoresRecord]:
        return seeds_of(self.record)
