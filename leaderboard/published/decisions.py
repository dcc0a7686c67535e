"""Decision accuracy: of all pairs of methods, how many does a small scale order as a large one?

Computed from DCLM's published model database (a row a trained model). A method is a dataset; where
it was trained several times at a scale, its median counts. A pair that is equal at either scale is
half right. The interval resamples methods, since pairs of one method hang together; it is wide
where few methods were trained at both scales. (The name is that of DataDecide, Magnusson et al.
2025.)
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import Field

from evals.tasks import load_task
from pipelines.errors import DataError
from pipelines.records import Frozen

DRAWS = 1000
FEWEST = 4  # methods at both scales: with fewer there are at most three pairs
CHANCE_ERRORS = 2.0  # standard errors above guessing below which a task tells nothing
COLUMNS = ("Dataset", "params", "tokens", "Core")


class Decision(Frozen):
    """How one metric at a small scale decides as at a large one."""

    small: str
    large: str
    metric: str
    num_methods: int
    num_pairs: int
    accuracy: float
    low: float = Field(description="95%, by resampling methods")
    high: float
    at_chance: bool = Field(description="no method is above guessing at the small scale")


def decisions(path: Path, *, metrics: tuple[str, ...] = ("Core",)) -> list[Decision]:
    """Every two scales that share enough methods. DataError for a table without the columns."""
    by_scale = _by_scale(path, metrics)
    ordered = sorted(by_scale, key=_compute)
    results = []
    for small, large in combinations(ordered, 2):
        for metric in metrics:
            a, b = by_scale[small].get(metric, {}), by_scale[large].get(metric, {})
            if len(set(a) & set(b)) >= FEWEST:
                results.append(decide(a, b, small=small, large=large, metric=metric))
    return results


def decide(
    small_values: Mapping[str, float],
    large_values: Mapping[str, float],
    *,
    small: str = "",
    large: str = "",
    metric: str = "",
) -> Decision:
    """The decision accuracy of the methods that are in both."""
    methods = sorted(set(small_values) & set(large_values))
    a = np.array([small_values[name] for name in methods])
    b = np.array([large_values[name] for name in methods])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        chosen = rng.integers(0, len(methods), len(methods))
        if len(set(chosen.tolist())) > 1:
            drawn.append(_accuracy(a[chosen], b[chosen], chosen))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Decision(
        small=small,
        large=large,
        metric=metric,
        num_methods=len(methods),
        num_pairs=len(methods) * (len(methods) - 1) // 2,
        accuracy=_accuracy(a, b, np.arange(len(methods))),
        low=float(low),
        high=float(high),
        at_chance=_at_chance(metric, a),
    )


def _accuracy(
    a: np.ndarray[tuple[int], np.dtype[np.float64]],
    b: np.ndarray[tuple[int], np.dtype[np.float64]],
    number: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> float:
    """Pairs of different methods that have one order in both; ties are half right."""
    upper = np.triu_indices(len(a), 1)
    different = (number[:, None] != number[None, :])[upper]
    x = np.sign(a[:, None] - a[None, :])[upper][different]
    y = np.sign(b[:, None] - b[None, :])[upper][different]
    return float((x * y + 1).mean() / 2)


def _at_chance(metric: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    try:
        task = load_task(metric)
    except ValueError:
        return False  # an aggregate
    chance = task.random_baseline.v2
    if chance is None or not task.rows:
        return False
    error = math.sqrt(max(chance * (1 - chance), 1e-4) / task.rows)
    return bool(values.max() < chance + CHANCE_ERRORS * error)


def _by_scale(path: Path, metrics: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {*COLUMNS, *metrics} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path} has no column {sorted(missing)[0]!r}: not the model database")
        for line in reader:
            scale = _scale_name(float(line["params"]), float(line["tokens"]))
            for metric in metrics:
                if line[metric]:
                    by_method = values.setdefault(scale, {}).setdefault(metric, {})
                    by_method.setdefault(line["Dataset"], []).append(float(line[metric]))
    return {
        scale: {
            metric: {method: median(runs) for method, runs in methods.items()}
            for metric, methods in by_metric.items()
        }
        for scale, by_metric in values.items()
    }


def _scale_name(params: float, tokens: float) -> str:
    return f"{params / 1e9:.1f}B on {tokens / 1e9:.0f}B"


def _compute(scale: str) -> float:
    params, _, tokens = scale.partition(" on ")
    return float(params.rstrip("B")) * float(tokens.rstrip("B"))
