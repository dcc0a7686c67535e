"""The evaluation file of the DCLM repository: written from a record, and read.

Names are the reference's, with its spelling (`downstream_perpexity`) and its habit of storing
lists and missing figures as text, so that its own tools read what is written here.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from pydantic import Field, ValidationError

from evals.aggregate import Aggregates, aggregate
from evals.suite import load_suite
from evals.tasks import EvalError
from pipelines.records import Frozen, ScoresRecord

GROUPS = {
    "rw_small": "rw_small",
    "ci95_above": "95%_CI_above",
    "ci99_above": "99%_CI_above",
    "core": "low_variance_datasets",
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
    return [name for name in load_suite("dclm/extended").tasks if name in missing]
