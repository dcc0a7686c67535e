"""Aggregates: what the scores of several tasks come to. A missing score is never averaged over.

`aggregate` computes DCLM's figures from bare accuracies: CORE, EXTENDED, the means by category and
every named group of tasks, for version 1 or 2 of the random baselines. `aggregate_suite` computes
the figures that a suite asks for, with standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from evals.metrics import centered, standard_error
from evals.suite import Aggregate, Suite
from evals.tasks import EvalError, Task, load_task, task_names
from pipelines.records import Frozen, Score, TaskScore

Version = Literal["v1", "v2"]


class Aggregates(Frozen):
    """DCLM's figures over one model's accuracies.

    `core` and `extended` are None when one of their tasks is missing; the names of the missing
    ones are beside them. The other means are over the tasks that are present, as in the reference.
    """

    version: Version
    core: float | None
    extended: float | None
    missing_core: tuple[str, ...]
    missing_extended: tuple[str, ...]
    mean: float
    centered_mean: float
    categories: dict[str, float]
    groups: dict[str, float]
    centered_groups: dict[str, float]


def aggregate(icl: Mapping[str, float], version: Version = "v2") -> Aggregates:
    """DCLM's aggregates of accuracies in [0, 1] by task name.

    Names outside EXTENDED's 53 tasks count for nothing, as in the reference. EvalError for an
    unknown version or when no known task is present.
    """
    if version not in ("v1", "v2"):
        raise EvalError(f"unknown version {version!r} of the random baselines; choose v1 or v2")
    tasks = dclm_tasks()
    present = {name: task for name, task in tasks.items() if name in icl}
    if not present:
        raise EvalError("none of the scores belongs to a task of DCLM's EXTENDED suite")
    scores = {name: centered(icl[name], baseline(task, version)) for name, task in present.items()}
    categories: dict[str, list[float]] = {}
    groups: dict[str, list[str]] = {}
    for name, task in present.items():
        categories.setdefault(task.category, []).append(scores[name])
        for group in task.groups:
            groups.setdefault(group, []).append(name)
    missing = {
        group: tuple(n for n, t in tasks.items() if group in t.groups and n not in icl)
        for group in ("core", "extended")
    }
    centered_groups = {g: float(np.mean([scores[n] for n in names])) for g, names in groups.items()}
    return Aggregates(
        version=version,
        core=None if missing["core"] else centered_groups["core"],
        extended=None if missing["extended"] else centered_groups["extended"],
        missing_core=missing["core"],
        missing_extended=missing["extended"],
        mean=float(np.mean([icl[name] for name in present])),
        centered_mean=float(np.mean(list(scores.values()))),
        categories={name: float(np.mean(values)) for name, values in sorted(categories.items())},
        groups={g: float(np.mean([icl[n] for n in names])) for g, names in groups.items()},
        centered_groups=centered_groups,
    )


def dclm_tasks() -> dict[str, Task]:
    """The 53 tasks of EXTENDED by name."""
    loaded = {name: load_task(name) for name in task_names()}
    return {name: task for name, task in loaded.items() if "extended" in task.groups}


def baseline(task: Task, version: Version) -> float:
    """What guessing scores in this version."""
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
    return {one.name: _one(one, suite.members(one), by_name, draws) for one in suite.aggregates}


def aggregate_draws(
    wanted: Aggregate, tasks: Sequence[Task], draws: Mapping[str, np.ndarray]
) -> np.ndarray:
    """An aggregate on each resample of the items, from the draws of its tasks."""
    if wanted.how == "task":
        return draws[tasks[0].name]
    if wanted.how == "mean":
        return np.asarray(np.mean([draws[task.name] for task in tasks], axis=0))
    parts = [centered(draws[task.name], baseline(task, wanted.baselines)) for task in tasks]
    return np.asarray(np.mean(parts, axis=0))


def _one(
    wanted: Aggregate,
    tasks: Sequence[Task],
    scores: Mapping[str, TaskScore],
    draws: Mapping[str, np.ndarray],
) -> Score:
    if wanted.how == "task":
        only = scores[tasks[0].name]
        return Score.model_validate(only.model_dump(include=set(Score.model_fields)))
    names = [task.name for task in tasks]
    if wanted.how == "mean":
        metric, parts = "mean score", [scores[name].value for name in names]
    else:
        metric = "centered accuracy"
        guesses = [baseline(task, wanted.baselines) for task in tasks]
        parts = [
            centered(scores[name].value, guess) for name, guess in zip(names, guesses, strict=True)
        ]
    return Score(
        metric=metric,
        value=float(np.mean(parts)),
        stderr=standard_error(aggregate_draws(wanted, tasks, draws)),
        num_items=sum(scores[name].num_items for name in names),
        higher_is_better=wanted.higher_is_better,
    )
