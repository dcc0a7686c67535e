"""DataComp's results file and columns: one JSON object per dataset, as its own evaluation writes.

    {"key": "vtab/dtd", "dataset": "Describable Textures", "metrics": {"main_metric": 0.4, ...}}

`aggregate_results` computes the reference's columns: ImageNet, the mean of six shifts, VTAB's
thirteen, retrieval's three, and the mean over exactly the 38 datasets that have a main metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import orjson

from evals.items import Metrics
from evals.result_formats import ResultFormat
from evals.tasks import EvalError, ImageTask, Task, load_task, task_names
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


def datacomp_tasks() -> dict[str, ImageTask]:
    """The 40 tasks of DataComp by the key of their dataset."""
    loaded = [load_task(name) for name in task_names()]
    return {
        task.key: task
        for task in loaded
        if isinstance(task, ImageTask) and task.key and "datacomp" in task.groups
    }


def write_results(store: Store, tasks: Sequence[Task], measured: Mapping[str, Metrics]) -> File:
    """Write the metrics of tasks as the reference does; a dataset without main metric has null."""
    lines = []
    for task in tasks:
        if task.name not in measured or not isinstance(task, ImageTask):
            continue
        metrics = measured[task.name]
        main = metrics[task.metric] if task.ranks else None
        shown = {**metrics, "main_metric": main}
        lines.append(
            orjson.dumps(
                {"key": task.key or task.name, "dataset": task.title or task.name, "metrics": shown}
            )
        )
    return write_bytes(store, RESULTS, b"\n".join(lines) + b"\n")


def read_results(data: bytes, *, source: str) -> dict[str, Metrics]:
    """The metrics by key of the dataset. DataError names the line that is wrong."""
    results: dict[str, Metrics] = {}
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
        if key in results:
            raise DataError(f"{where}: {key} is there twice; keep one of the lines")
        results[key] = metrics
    return results


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
    column: str, group: str, tasks: Iterable[ImageTask], main: Mapping[str, float | None]
) -> float:
    members = [task for task in tasks if group in task.groups]
    missing = [task.key for task in members if main.get(task.key) is None]
    if missing:
        raise EvalError(
            f"{column} is over {len(members)} datasets; {len(missing)} have no result: "
            f"{', '.join(missing)}; evaluate these too"
        )
    return float(np.mean([main[task.key] for task in members]))


class DataCompFormat(ResultFormat):
    """`eval_results.jsonl`, written next to the record of every suite of this benchmark."""

    name: ClassVar[str] = "datacomp"

    def write(
        self, store: Store, tasks: Sequence[Task], measured: Mapping[str, Metrics]
    ) -> list[File]:
        return [write_results(store, tasks, measured)]
