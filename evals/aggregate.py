"""Aggregates: the figures over several tasks that a suite defines, with standard errors.

A missing score is never averaged over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from evals.metrics import centered, standard_error
from evals.suite import Aggregate, Suite
from evals.tasks import EvalError, Task
from pipelines.records import Score, TaskScore

Version = Literal["v1", "v2"]


def baseline(task: Task, version: Version) -> float:
    """The score of guessing, in this version of the baselines."""
    return task.random_baseline.v1 if version == "v1" else task.random_baseline.v2


def aggregate_suite(
    suite: Suite, scores: Sequence[TaskScore], draws: Mapping[str, np.ndarray]
) -> dict[str, Score]:
    """The suite's aggregates by name, each with a standard error from the tasks' resamples.

    `draws` holds each task's score on the same number of resamples. EvalError names the tasks
    that have no score.
    """
    by_name = {score.task: score for score in scores}
    missing = [name for name in suite.tasks if name not in by_name]
    if missing:
        raise EvalError(
            f"suite {suite.name} {suite.version} has no headline: there is no score for "
            f"{', '.join(missing)}; evaluate these tasks too"
        )
    return {
        entry.name: _one(entry, suite.members(entry), by_name, draws) for entry in suite.aggregates
    }


def aggregate_draws(
    aggregate_: Aggregate, tasks: Sequence[Task], draws: Mapping[str, np.ndarray]
) -> np.ndarray:
    """An aggregate on each resample of the items, from the draws of its tasks."""
    if aggregate_.how == "task":
        return draws[tasks[0].name]
    if aggregate_.how == "mean":
        return np.asarray(np.mean([draws[task.name] for task in tasks], axis=0))
    parts = [centered(draws[task.name], baseline(task, aggregate_.baselines)) for task in tasks]
    return np.asarray(np.mean(parts, axis=0))


def _one(
    aggregate_: Aggregate,
    tasks: Sequence[Task],
    scores: Mapping[str, TaskScore],
    draws: Mapping[str, np.ndarray],
) -> Score:
    if aggregate_.how == "task":
        only = scores[tasks[0].name]
        return Score.model_validate(only.model_dump(include=set(Score.model_fields)))
    names = [task.name for task in tasks]
    if aggregate_.how == "mean":
        metric, parts = "mean score", [scores[name].value for name in names]
    else:
        metric = "centered accuracy"
        guesses = [baseline(task, aggregate_.baselines) for task in tasks]
        parts = [
            centered(scores[name].value, guess) for name, guess in zip(names, guesses, strict=True)
        ]
    return Score(
        metric=metric,
        value=float(np.mean(parts)),
        stderr=standard_error(aggregate_draws(aggregate_, tasks, draws)),
        num_items=sum(scores[name].num_items for name in names),
        higher_is_better=aggregate_.higher_is_better,
    )
