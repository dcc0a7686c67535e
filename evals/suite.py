"""Suites: an ordered list of tasks with a version, and what is reported about them together.

A suite is a YAML file in a benchmark's folder `suites/`. Its version is part of the name of every
score: scores of different versions are never compared.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from evals.tasks import EvalError, Task, load_task
from pipelines import installed
from pipelines.records import Frozen
from pipelines.yaml_text import load_plain


class Aggregate(Frozen):
    """One figure over several tasks of a suite: the named ones, a group, a category, or all."""

    name: str
    how: Literal["task", "centered_mean", "mean"] = Field(
        description="the score of the one task, the mean of centered accuracies, or of scores"
    )
    tasks: tuple[str, ...] = Field((), description="tasks by name")
    group: str | None = Field(None, description="tasks of the suite that belong to this group")
    category: str | None = Field(None, description="tasks of the suite in this category")
    baselines: Literal["v1", "v2"] = Field("v2", description="which random baselines to subtract")
    higher_is_better: bool = True

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if sum(map(bool, (self.tasks, self.group, self.category))) > 1:
            raise ValueError(f"aggregate {self.name!r}: give one of tasks, group and category")
        if self.how == "task" and len(self.tasks) != 1:
            raise ValueError(f"aggregate {self.name!r} is the score of one task: name that task")
        return self


class Suite(Frozen):
    """Tasks in the order they run, and the figures computed from them."""

    name: str
    version: str
    benchmark: str
    description: str
    window: int = Field(2048, gt=1, description="tokens that a context and its answer may have")
    tasks: tuple[str, ...] = Field(min_length=1)
    optional: tuple[str, ...] = Field(
        (), description="tasks that are left out, with a message, when their data is missing"
    )
    aggregates: tuple[Aggregate, ...]
    headline: str = Field(description="the aggregate that ranks")

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("a task is listed twice")
        names = [aggregate.name for aggregate in self.aggregates]
        if unknown_optional := sorted(set(self.optional) - set(self.tasks)):
            raise ValueError(f"optional tasks {unknown_optional} are not in the suite")
        if self.headline not in names:
            raise ValueError(f"the headline {self.headline!r} is not one of the aggregates {names}")
        for aggregate in self.aggregates:
            unknown = sorted(set(aggregate.tasks) - set(self.tasks))
            if unknown:
                raise ValueError(
                    f"aggregate {aggregate.name!r} names {unknown}, which are not in the suite"
                )
            if not self.members(aggregate):
                raise ValueError(f"aggregate {aggregate.name!r} matches no task of the suite")
        return self

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher headline is better."""
        return next(a.higher_is_better for a in self.aggregates if a.name == self.headline)

    def without(self, missing: Collection[str]) -> Suite:
        """This suite without the `missing` tasks, and without the aggregates that name them."""
        if not missing:
            return self
        remaining = [a for a in self.aggregates if not set(a.tasks) & set(missing)]
        return Suite.model_validate(
            self.model_dump()
            | {
                "tasks": [name for name in self.tasks if name not in missing],
                "optional": [name for name in self.optional if name not in missing],
                "aggregates": [aggregate.model_dump() for aggregate in remaining],
            }
        )

    def to_record(self) -> dict[str, Any]:
        """The suite as embedded in a ScoresRecord: everything but which tasks were optional."""
        return self.model_dump(mode="json", exclude={"optional"})

    def load_tasks(self) -> list[Task]:
        """The definitions of the tasks, in order."""
        return [load_task(name) for name in self.tasks]

    def members(self, aggregate: Aggregate) -> list[Task]:
        """The tasks that one aggregate is computed from, in the order of the suite."""
        tasks = self.load_tasks()
        if aggregate.tasks:
            return [task for task in tasks if task.name in aggregate.tasks]
        if aggregate.group:
            return [task for task in tasks if aggregate.group in task.groups]
        if aggregate.category:
            return [task for task in tasks if task.category == aggregate.category]
        return tasks


def load_suite(name: str | Path) -> Suite:
    """The suite in a YAML file, or the installed one of this name.

    `name` may be a path that ends in `.yaml`, `benchmark/suite`, or `suite` alone where only one
    benchmark has a suite of that name. EvalError for an unknown name or an invalid file.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = _installed(str(name))
    try:
        return Suite.model_validate(load_plain(path.read_text()))
    except FileNotFoundError:
        raise EvalError(f"there is no suite file {path}") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise EvalError(f"{path}: {error}") from None


def suite_files() -> dict[str, Path]:
    """The suites of all installed benchmarks, as `benchmark/suite`."""
    return {
        f"{benchmark}/{path.stem}": path
        for benchmark in sorted(installed.packages())
        for path in sorted((installed.folder(benchmark) / "suites").glob("*.yaml"))
    }


def _installed(name: str) -> Path:
    known = suite_files()
    matches = [path for full, path in known.items() if name in (full, full.partition("/")[2])]
    if len(matches) == 1:
        return matches[0]
    problem = "is in several benchmarks" if matches else "is unknown"
    raise EvalError(f"suite {name!r} {problem}; choose one of {', '.join(known)}")
