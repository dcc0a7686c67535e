"""Rows of results that were published elsewhere, and the tables they are read from."""

from __future__ import annotations

import csv
import io
import math
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from evals.tasks import Task
from leaderboard.submissions.results import (
    Budget,
    Figure,
    Headline,
    Row,
    SeedScore,
    Size,
    TaskValue,
)
from pipelines.errors import DataError
from pipelines.records import digest
from pipelines.retries import HTTP, passes, patiently

MAX_BYTES = 64 << 20  # of a table; the published ones have less than 1 MB
POOL = "published"


def _fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read(MAX_BYTES + 1))


def _may_pass(error: Exception) -> bool:
    return passes(error.code) if isinstance(error, HTTPError) else isinstance(error, OSError)


def read_table(source: str) -> list[dict[str, str]]:
    """The lines of a CSV file, or of the one at an address. DataError when it cannot be read."""
    if source.startswith(("https://", "http://")):
        data = patiently(
            lambda: _fetched(source), what=source, may_pass=_may_pass, patience=lambda: HTTP
        )
        if len(data) > MAX_BYTES:
            raise DataError(f"{source} is longer than {MAX_BYTES:,} bytes; get it by hand")
    elif Path(source).is_file():
        data = Path(source).read_bytes()
    else:
        raise FileNotFoundError(f"there is no {source}; name a file, an address, or `official`")
    try:
        lines = list(csv.DictReader(io.StringIO(data.decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} is not a CSV file: {error}") from None
    if not lines:
        raise DataError(f"{source} has no rows")
    return lines


def accuracy(text: str, where: str) -> float:
    """A printed accuracy in [0, 1]. DataError names where it was read."""
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise DataError(f"{where}: {value} is not an accuracy")
    return value


def binomial(value: float, rows: int | None) -> float | None:
    """The standard error of an accuracy over `rows` questions; None where they are unknown."""
    return math.sqrt(value * (1 - value) / rows) if rows else None


def task_value(task: Task, value: float, *, error: bool = True) -> TaskValue:
    """The value of one task; `error=False` where the metric is not a plain accuracy."""
    return TaskValue(
        task=task.name,
        category=task.category,
        metric=task.metric,
        value=value,
        stderr=binomial(value, task.rows) if error else None,
        num_items=task.rows,
        higher_is_better=task.higher_is_better,
        random_baseline=task.random_baseline.v2,
    )


def figure(value: float) -> Figure:
    """A printed figure: one value, no known error."""
    return Figure(values=(value,), item_error=None, higher_is_better=True)


def published_row(
    *,
    kind: str,
    benchmark: str,
    scale: str,
    track: str,
    pool: str,
    suite: str,
    suite_version: str,
    method: str,
    headline: str,
    figures: dict[str, Figure],
    unit: str,
    seen: int | None,
    size: int | None,
    params: int | None,
    flops: float | None,
    source: str,
    tasks: tuple[object, ...] = (),
    team: str = "",
    date: str = "",
    identity: str = "",
    from_memory: bool = False,
) -> Row:
    """A row that was published elsewhere. Its id is a hash of what it says."""
    head = figures[headline]
    id_ = digest(
        [
            kind,
            benchmark,
            scale,
            track,
            method,
            identity,
            seen,
            source,
            {name: figure_.values for name, figure_ in figures.items()},
        ]
    )
    return Row.model_validate(
        {
            "kind": kind,
            "benchmark": benchmark,
            "scale": scale,
            "track": track,
            "pool_id": pool,
            "pool_name": f"{pool} figures, not a pool of this board",
            "suite": suite,
            "suite_version": suite_version,
            "method": method if len(method) <= 120 else f"{method[:110]}~{digest(method)[:8]}",
            "team": team,
            "submission_id": id_,
            "dataset_id": "",
            "headline": Headline(
                metric=headline,
                value=head.value,
                stderr=head.stderr,
                higher_is_better=head.higher_is_better,
            ),
            "budget": Budget(unit=unit, seen=seen),
            "dataset": Size(size=size, unit=unit),
            "kept_fraction": None,
            "params": params,
            "flops": flops,
            "seeds": (SeedScore(seed=0, value=head.value),),
            "tasks": tasks,
            "aggregates": {name: figure_.value for name, figure_ in figures.items()},
            "figures": figures,
            "date": date,
            "source": source,
            "from_memory": from_memory,
        }
    )
