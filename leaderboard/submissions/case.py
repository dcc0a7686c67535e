"""One submission as its checks see it: the bundle with the rules it falls under, looked up once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evals.suite import Suite, load_suite
from leaderboard.benchmark import load_stages
from leaderboard.rules import Benchmark, Scale, Track
from leaderboard.submissions.bundle import RECORD, SCORES, Bundle, checkpoint_folder
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.facts import NOTHING, Known
from pipelines.installed import folder
from pipelines.records import (
    DatasetRecord,
    ModelRecord,
    PackedRecord,
    PoolRecord,
    RecordError,
    ScoresRecord,
    Submission,
    parse_record,
)

MAX_SCORES_BYTES = 1 << 20  # of the scores of one checkpoint; a suite of 60 tasks takes 40 KB


def official_suite(benchmark: Benchmark, scale: str) -> Suite:
    """The installed suite that ranks at a scale."""
    return _installed(benchmark, benchmark.scale(scale).suite)


def suite_of_checkpoints(benchmark: Benchmark, scale: str, track: str) -> Suite:
    """The suite that checkpoints are measured by: the scale's, or its speedrun's."""
    rung = benchmark.scale(scale)
    rule = rung.speedrun if benchmark.track(track).speedrun else None
    return _installed(benchmark, rung.suite if rule is None else rule.suite)


def _installed(benchmark: Benchmark, suite: str) -> Suite:
    return load_suite(folder(benchmark.name) / "suites" / f"{suite}.yaml")


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

    @property
    def scores_file(self) -> str:
        """The file of the bundle that the scores are in."""
        return RECORD

    @cached_property
    def checkpoints(self) -> tuple[CheckpointCase, ...]:
        """The checkpoints whose scores and logs a speedrun's bundle has, by seed and step.

        Those whose scores cannot be read are left out; `checkpoints.readable` reports them.
        """
        if self.bundle is None or not self.track.speedrun or self.scale.speedrun is None:
            return ()
        cases = []
        for seed, checkpoint in self.bundle.checkpoints:
            try:
                scores = scores_at(self.bundle, seed, checkpoint)
            except RecordError:
                continue
            cases.append(
                CheckpointCase(
                    self.record,
                    self.book,
                    replace(self.bundle, checkpoint=checkpoint),
                    self.known,
                    seed=seed,
                    checkpoint=checkpoint,
                    scores=scores,
                )
            )
        return tuple(cases)


@dataclass(frozen=True)
class CheckpointCase(Case):
    """The evaluation of a checkpoint on the way, as the checks of final scores see one.

    Its bundle reads the logs of the checkpoint, its suite is the speedrun's.
    """

    seed: int = 0
    checkpoint: str = ""
    scores: ScoresRecord | None = None

    @cached_property
    def suite(self) -> Suite:
        suite = suite_of_checkpoints(self.book, self.scale.name, self.track.name)
        asked = {task.name for task in self.by_seed[self.seed].work.tasks}
        return suite.without([name for name in suite.optional if name not in asked])

    @cached_property
    def by_seed(self) -> dict[int, ScoresRecord]:
        assert self.scores is not None
        return {self.seed: self.scores}

    @property
    def scores_file(self) -> str:
        return f"{checkpoint_folder(self.seed, self.checkpoint)}/{SCORES}"

    @property
    def label(self) -> str:
        """As people call it."""
        return f"{self.checkpoint} of seed {self.seed}"


def scores_at(bundle: Bundle, seed: int, checkpoint: str) -> ScoresRecord:
    """The scores of a checkpoint in a bundle. RecordError says why they cannot be read."""
    name = f"{checkpoint_folder(seed, checkpoint)}/{SCORES}"
    size = bundle.sizes.get(name)
    if size is None:
        raise RecordError(f"{name}: no such file")
    if size > MAX_SCORES_BYTES:
        raise RecordError(f"{name}: {size:,} bytes, at most {MAX_SCORES_BYTES:,}")
    record = parse_record(bundle.read(name), source=name)
    if not isinstance(record, ScoresRecord):
        raise RecordError(f"{name}: a {record.kind} record")
    return record
