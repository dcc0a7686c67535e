"""DCLM's model database by scale: what a small run said beside what a large one did.

Columns named `perplexity.TASK` are losses of right answers (lower is better); a task's own column
is its accuracy; `Core` is the reference's CORE in percent.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from leaderboard.published.literature import Ladder
from pipelines.errors import DataError

COLUMNS = ("Dataset", "params", "tokens", "Core")
HEADLINE = "Core"
LOSSES = "perplexity."


def ladder(path: Path, metrics: Sequence[str]) -> Ladder | None:
    """The median score of every dataset by scale and metric; None for another table.

    A metric `*` means every column of numbers. DataError for one without a column.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        if set(COLUMNS) - set(columns):
            return None
        lines = list(reader)
    names = [HEADLINE, *(name for name in metrics if name not in ("*", HEADLINE))]
    missing = [name for name in names if name not in columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}")
    if "*" in metrics:
        start = columns.index(HEADLINE)
        scored = [c for c in columns[start:] if c not in names and _numbers(lines, c)]
        names += scored
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    costs: dict[str, float] = {}
    for line in lines:
        params, tokens = float(line["params"]), float(line["tokens"])
        scale = f"{params / 1e9:.1f}B on {tokens / 1e9:.0f}B"
        costs[scale] = 6 * params * tokens
        for name in names:
            if line[name]:
                by_method = values.setdefault(scale, {}).setdefault(name, {})
                by_method.setdefault(line["Dataset"], []).append(float(line[name]))
    return Ladder(
        scales=tuple(sorted(values, key=lambda scale: costs[scale])),
        costs=costs,
        values={
            scale: {
                metric: {method: median(runs) for method, runs in methods.items()}
                for metric, methods in by_metric.items()
            }
            for scale, by_metric in values.items()
        },
        headline=HEADLINE,
        lower_is_better=tuple(name for name in names if name.startswith(LOSSES)),
    )


def _numbers(lines: Sequence[Mapping[str, str]], column: str) -> bool:
    """Whether all values of a column are numbers, and several are there."""
    given = [line[column] for line in lines if line[column]]
    try:
        return len({float(value) for value in given}) > 1
    except ValueError:
        return False
