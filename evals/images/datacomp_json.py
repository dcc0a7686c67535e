"""The results file of DataComp: one JSON object per dataset, as its own evaluation writes it.

    {"key": "vtab/dtd", "dataset": "Describable Textures", "metrics": {"main_metric": 0.4, ...}}

`aggregate_results` computes the reference's columns: ImageNet, the mean of six shifts, VTAB's
thirteen, retrieval's three, and the mean over exactly the 38 datasets that have a main metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import orjson

from evals.tasks import EvalError, Task, load_task, task_names
from pipelines.errors import DataError
from pipelines.records import File
from pipelines.storage.base import Store, write_bytes

RESULTS = "eval_results.jsonl"
COLUMNS = {
    "ImageNet": "imagenet",
    "ImageNet dist. shifts": "shifts",
    "VTAB": "vtab",
    "Retrieval": "retrieval",
    "Average": "average",
}
"""Columns of the reference's table, and the groups of tasks behind them."""

Metrics = dict[str, float | None]


def datacomp_tasks() -> dict[str, Task]:
    """The 40 tasks of DataComp by the key of their dataset."""
    loaded = [load_task(name) for name in task_names()]
    return {task.key: task for task in loaded if task.key and "datacomp" in task.groups}


def write_results(store: Store, tasks: Sequence[Task], measured: Mapping[str, Metrics]) -> File:
    """Write the metrics of tasks as the reference does; a dataset without main metric has null."""
    lines = []
    for task in tasks:
        if task.name not in measured:
            continue
        metrics = measured[task.name]
        main = metrics[task.metric] if task.ranks else None
        told = {**metrics, "main_metric": main}
        lines.append(
            orjson.dumps(
                {"key": task.key or task.name, "dataset": task.title or task.name, "metrics": told}
            )
        )
    return write_bytes(store, RESULTS, b"\n".join(lines) + b"\n")


def read_results(data: bytes, *, source: str) -> dict[str, Metrics]:
    """The metrics by key of the dataset. DataError names the line that is wrong."""
    found: dict[str, Metrics] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = orjson.loads(line)
            key, metrics = row["key"], row["metrics"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{where}: no result of a dataset ({error})") from None
        if "main_metric" not in metrics:
            raise DataError(f"{where}: {key} has no main_metric")
        if key in found:
            raise DataError(f"{where}: {key} stands twice; keep one of the lines")
        found[key] = metrics
    return found


def aggregate_results(main: Mapping[str, float | None]) -> dict[str, float]:
    """The reference's columns from main metrics by key. EvalError names datasets that are missing.

    Datasets without a main metric (FairFace, UTKFace) count nowhere; unknown keys are refused.
    """
    tasks = datacomp_tasks()
    unknown = sorted(set(main) - set(tasks))
    if unknown:
        raise EvalError(f"unknown datasets: {', '.join(unknown)}; known: {', '.join(tasks)}")
    return {name: _mean(name, group, tasks.values(), main) for name, group in COLUMNS.items()}


def _mean(
    column: str, group: str, tasks: Iterable[Task], main: Mapping[str, float | None]
) -> float:
    members = [task for task in tasks if group in task.groups]
    missing = [task.key for task in members if main.get(task.key) is None]
    if missing:
        raise EvalError(
            f"{column} is over {len(members)} datasets; {len(missing)} have no result: "
            f"{', '.join(missing)}; evaluate these too"
        )
    return float(np.mean([main[task.key] for task in members]))
