"""Runs beside the official ones: other orders, budgets and rates, never submitted.

An experimental recipe is written into the workspace as a YAML file, named by its content, so that
workers on other machines can read it and a run that was stopped continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import yaml

from leaderboard.benchmark import RecipeLike
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.training import Trained
from leaderboard.rounds.workspace import Curated, Round
from leaderboard.submissions.results import BASELINE
from pipelines.pipeline import Pipeline
from pipelines.records import ScoresRecord, parse_record
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

Experiment = tuple[Round, str]
"""A round with its recipe, and the recipe's name or file, as `training.train` takes it."""


def seeds_for(recipe: RecipeLike, number: int) -> list[int]:
    """The recipe's first seeds; where it allows fewer, further ones, for experiments only."""
    known = list(recipe.seeds)
    return (known + [max(known) + 1 + extra for extra in range(number)])[:number]


def experiment(current: Round, recipe: RecipeLike, seeds: Sequence[int]) -> Experiment:
    """The round under another recipe that allows these seeds; the official one where it is that."""
    if not set(seeds) <= set(recipe.seeds):
        changed = recipe.model_dump(mode="json") | {"seeds": list(seeds)}
        recipe = type(recipe).model_validate(changed)  # type: ignore[attr-defined]
    if recipe == current.recipe and current.official:
        return current, current.scale.recipe
    other = replace(current, recipe=recipe, official=False)
    current.desk.mkdir(parents=True, exist_ok=True)
    path = current.desk / f"{other.recipe_name}.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    return other, str(path.absolute())


def train_all(
    chosen: Experiment, datasets: Sequence[Curated], seeds: Sequence[int], where_to_train: Launch
) -> list[Trained]:
    """Train every dataset with every seed. Finished models stay."""
    current, recipe = chosen
    arms = [(curated, stages.pack(current, curated)) for curated in datasets]
    run = launch.round_trainer(where_to_train, training.run_training)
    return training.train(current, arms, seeds=seeds, recipe=recipe, run=run)


def scores_of(
    chosen: Experiment, datasets: Sequence[Curated], seeds: Sequence[int], where_to_train: Launch
) -> list[list[ScoresRecord]]:
    """Train and evaluate every dataset with every seed; a list a dataset. Finished runs stay."""
    current, _ = chosen
    trained = train_all(chosen, datasets, seeds, where_to_train)
    stages.evaluate(current, trained, spread=where_to_train.spread(current.map_tasks))
    return [
        [
            read_scores(
                Trained(method=curated.method, home=curated.home, seed=seed).scores(current)
            )
            for seed in seeds
        ]
        for curated in datasets
    ]


def with_baseline(current: Round, pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """The pipelines, and before them the unfiltered pool's where it is not one of them."""
    if any(pipeline.name == BASELINE for pipeline in pipelines):
        return list(pipelines)
    return [stages.find_pipeline(current, BASELINE), *pipelines]


def read_scores(folder: str) -> ScoresRecord:
    """The record of a finished evaluation."""
    store = open_store(folder)
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    assert isinstance(record, ScoresRecord)
    return record
