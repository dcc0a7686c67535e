"""DCLM's figures, and the evaluation file of its repository: written from a record, and read.

`aggregate` computes CORE, EXTENDED, the means by category and every named group of tasks from bare
accuracies, for version 1 or 2 of the random baselines. In the file, names are the reference's, with
its spelling (`downstream_perpexity`) and its habit of storing lists and missing figures as text, so
that its own tools read what is written here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import orjson
from pydantic import Field, ValidationError

from evals.aggregate import Version, baseline
from evals.metrics import centered
from evals.result_formats import ResultFormat
from evals.suite import load_suite
from evals.tasks import EvalError, LanguageTask, load_task, task_names
from pipelines.records import Frozen, ScoresRecord

GROUPS = {
    "rw_small": "rw_small",
    "ci95_above": "95%_CI_above",
    "ci99_above": "99%_CI_above",
    "core": "low_variance_datasets",
}


SUITE = "dclm/extended"


class Aggregates(Frozen):
    """DCLM's figures over one model's accuracies.

    `core` and `extended` are None when one of their tasks is missing; the names of the missing
    ones are next to them. The other means are over the tasks that are present, as in the reference.
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


def dclm_tasks() -> dict[str, LanguageTask]:
    """The 53 tasks of EXTENDED by name."""
    loaded = [load_task(name) for name in task_names()]
    return {
        task.name: task
        for task in loaded
        if isinstance(task, LanguageTask) and "extended" in task.groups
    }


class DclmEval(Frozen):
    """What one evaluation file says."""

    name: str
    uuid: str
    model: str
    model_uuid: str | None = None
    icl: dict[str, float] = Field(min_length=1)


def read_dclm(data: bytes, *, source: str) -> DclmEval:
    """Read an evaluation file. EvalError names `source` and what is wrong."""
    try:
        value = orjson.loads(data)
        fields = {name: value[name] for name in ("name", "uuid", "model") if name in value}
        fields["icl"] = value["eval_metrics"]["icl"]
        result = DclmEval.model_validate(fields | {"model_uuid": value.get("model_uuid")})
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise EvalError(f"{source} is not an evaluation file of DCLM: {error}") from None
    for task, score in result.icl.items():
        if not 0 <= score <= 1:
            raise EvalError(f"{source}: the score of {task} is {score}, not an accuracy")
    return result


def to_dclm(record: ScoresRecord, *, model: str) -> dict[str, Any]:
    """The evaluation file of a record; `model` is the name that the file shall carry.

    EvalError when the record holds no score of DCLM's 53 tasks.
    """
    icl = {score.task: score.value for score in record.results.tasks}
    finished = datetime.fromisoformat(record.made_by.finished.replace("Z", "+00:00"))
    pacific = finished.astimezone(ZoneInfo("America/Los_Angeles"))
    latest = aggregate(icl, "v2")
    return {
        "name": f"eval/{record.work.suite}",
        "uuid": str(uuid.UUID(record.id)),
        "model": model,
        "creation_date": pacific.strftime("%Y_%m_%d-%H_%M_%S"),
        "eval_metrics": {"icl": icl},
        **figures(latest),
        **figures_of_version(aggregate(icl, "v1")),
        **figures_of_version(latest),
        "Core": figures_of_version(latest)["Core_v2"],
        "Extended": figures_of_version(latest)["Extended_v2"],
        "eval_version": "v2",
        "model_uuid": str(uuid.UUID(record.parents["model"])),
    }


def figures(ours: Aggregates) -> dict[str, Any]:
    """The means under the reference's names."""
    named: dict[str, Any] = {
        "missing tasks": str(_in_order(ours.missing_extended)),
        "aggregated_task_categories_centered": ours.categories,
        "aggregated_centered_results": ours.centered_mean,
        "aggregated_results": ours.mean,
    }
    for group, name in GROUPS.items():
        if group in ours.groups:
            named[name] = ours.groups[group]
            named[f"{name}_centered"] = ours.centered_groups[group]
    return named


def figures_of_version(ours: Aggregates) -> dict[str, float | str]:
    """CORE and EXTENDED of one version; a text says which tasks are missing."""
    named: dict[str, float | str] = {}
    for name, value, missing in (
        ("Core", ours.core, ours.missing_core),
        ("Extended", ours.extended, ours.missing_extended),
    ):
        text = f"N/A due to missing tasks: {_in_order(missing)}"
        named[f"{name}_{ours.version}"] = text if value is None else value
    return named


def _in_order(missing: tuple[str, ...]) -> list[str]:
    return [name for name in load_suite(SUITE).tasks if name in missing]


class DclmFormat(ResultFormat):
    """The evaluation file of the DCLM repository."""

    name: ClassVar[str] = "dclm"

    def from_record(self, record: ScoresRecord, *, model: str) -> dict[str, Any]:
        return to_dclm(record, model=model)

    def figures(self, data: bytes, *, source: str, version: Version) -> dict[str, Any]:
        ours = aggregate(read_dclm(data, source=source).icl, version)
        return figures(ours) | figures_of_version(ours)
