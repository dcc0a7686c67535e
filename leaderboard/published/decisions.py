"""Decision accuracy: of all pairs of methods, how many does a small scale order as a large one?

Computed from a published table of a benchmark (its `Literature.ladder`). A method is a dataset;
where it was trained several times at a scale, its median counts. The small scale is read by one
metric, the large one by the same or by another (`target`): a loss of right answers may show more of
a large model's accuracy than a small model's accuracy does. A pair that is equal at either scale is
half right. The interval resamples methods, since pairs of one method hang together; it is wide
where few methods were trained at both scales. (The name is that of DataDecide, Magnusson et al.
2025.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from evals.tasks import load_task
from leaderboard.published.literature import Ladder, literatures
from pipelines.errors import DataError
from pipelines.records import Frozen

DRAWS = 1000  # resamples of datasets
FEW = 6  # methods: with fewer the interval reaches from nothing to all
FEWEST = 4  # methods at both scales: with fewer there are at most three pairs
CHANCE_ERRORS = 2.0  # standard errors above guessing below which a task says nothing


class Decision(Frozen):
    """How one metric at a small scale decides as at a large one."""

    small: str
    large: str
    metric: str = Field(description="read at the small scale")
    target: str = Field(description="read at the large scale")
    cost: float | None = Field(None, description="of a run at the small scale, as part of a large")
    num_methods: int
    num_pairs: int
    accuracy: float
    low: float = Field(description="95%, by resampling methods")
    high: float
    at_chance: bool = Field(description="no method is above guessing at the small scale")


def decisions(
    path: Path, *, metrics: tuple[str, ...] = (), target: str | None = None
) -> list[Decision]:
    """Every two scales that share enough methods, cheapest first.

    Without `metrics`, the headline of the table's benchmark; without `target`, each metric predicts
    itself. DataError for a table that no benchmark knows, or without a column.
    """
    ladder = read_ladder(path, metrics, target)
    return [
        decided
        for small, large in combinations(ladder.scales, 2)
        for metric in metrics or (ladder.headline,)
        if (decided := _between(ladder, small, large, metric, target or metric)) is not None
    ]


def _between(ladder: Ladder, small: str, large: str, metric: str, target: str) -> Decision | None:
    """What one metric at one scale says of another; None with fewer than four shared methods."""
    a = ladder.values[small].get(metric, {})
    b = ladder.values[large].get(target, {})
    if len(set(a) & set(b)) < FEWEST:
        return None
    falls = [name in ladder.lower_is_better for name in (metric, target)]
    sign = 1 if falls[0] == falls[1] else -1
    decided = decide(
        {name: sign * value for name, value in a.items()},
        b,
        small=small,
        large=large,
        metric=metric,
        target=target,
        at_chance=_at_chance(metric, np.array(list(a.values()))),
    )
    return decided.model_copy(update={"cost": ladder.costs[small] / ladder.costs[large]})


def every_metric(path: Path, *, target: str | None = None) -> list[Decision]:
    """What each metric of the cheapest scale says of `target` at the dearest one, best first.

    The scales are the ones furthest apart that share at least six methods, or where none do, four.
    """
    ladder = read_ladder(path, ("*",), target)
    aim = target or ladder.headline
    shared = {
        (small, large): len(
            set(ladder.values[small].get(ladder.headline, {}))
            & set(ladder.values[large].get(aim, {}))
        )
        for small, large in combinations(ladder.scales, 2)
    }
    for fewest in (FEW, FEWEST):
        wide = [pair for pair, number in shared.items() if number >= fewest]
        if wide:
            break
    else:
        return []
    small, large = min(wide, key=lambda pair: ladder.costs[pair[0]] / ladder.costs[pair[1]])
    decided = (_between(ladder, small, large, name, aim) for name in ladder.values[small])
    kept = [decision for decision in decided if decision is not None]
    return sorted(kept, key=lambda d: (d.at_chance, -d.accuracy, d.metric))


def decision_rows(
    results: Sequence[Decision],
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """A header and rows for a table in text."""
    header = ("small", "large", "metric", "predicts", "cost", "methods", "pairs", "right", "95%")
    rows: list[tuple[object, ...]] = [
        (
            decision.small,
            decision.large,
            decision.metric + (" (at chance)" if decision.at_chance else ""),
            decision.target,
            "" if decision.cost is None else f"{decision.cost:.2%}",
            decision.num_methods,
            decision.num_pairs,
            f"{decision.accuracy:.3f}",
            f"[{decision.low:.3f}, {decision.high:.3f}]",
        )
        for decision in results
    ]
    return header, rows


def read_ladder(path: Path, metrics: tuple[str, ...], target: str | None) -> Ladder:
    """The scores of a published table by scale. DataError when no benchmark knows the table."""
    names = (*metrics, *((target,) if target else ()))
    for literature in literatures().values():
        ladder = literature.ladder(path, names)
        if ladder is not None:
            return ladder
    raise DataError(
        f"{path} is not a published table of an installed benchmark: none knows its columns"
    )


def decide(
    small_values: Mapping[str, float],
    large_values: Mapping[str, float],
    *,
    small: str = "",
    large: str = "",
    metric: str = "",
    target: str | None = None,
    at_chance: bool = False,
) -> Decision:
    """The decision accuracy of the methods that are in both."""
    methods = sorted(set(small_values) & set(large_values))
    a = np.array([small_values[name] for name in methods])
    b = np.array([large_values[name] for name in methods])
    rng = np.random.default_rng(0)
    size = len(methods)
    drawn = [np.bincount(rng.integers(0, size, size), minlength=size) for _ in range(DRAWS)]
    drawn = [times for times in drawn if np.count_nonzero(times) > 1]  # else there is no pair
    low, high = np.quantile(_accuracies(a, b, np.array(drawn)), [0.025, 0.975])
    return Decision(
        small=small,
        large=large,
        metric=metric,
        target=target or metric,
        num_methods=size,
        num_pairs=size * (size - 1) // 2,
        accuracy=float(_accuracies(a, b, np.ones((1, size)))[0]),
        low=float(low),
        high=float(high),
        at_chance=at_chance,
    )


def _accuracies(
    a: np.ndarray[tuple[int], np.dtype[np.float64]],
    b: np.ndarray[tuple[int], np.dtype[np.float64]],
    times: np.ndarray[tuple[int, int], np.dtype[Any]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Pairs of different methods that have one order in both, as parts; ties are half right.

    Once per row of `times`, which says how often each method is there. Sums are of whole numbers.
    """
    orders = [np.sign(values[:, None] - values[None, :]) for values in (a, b)]
    right = orders[0] * orders[1] + 1  # 2 for one order, 1 for a tie, 0
    np.fill_diagonal(right, 0)
    times = times.astype(np.float64)
    num_pairs = times.sum(axis=1) ** 2 - (times**2).sum(axis=1)
    return ((times @ right) * times).sum(axis=1) / num_pairs / 2


def _at_chance(metric: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    try:
        task = load_task(metric)
    except ValueError:
        return False  # an aggregate
    chance, rows = task.random_baseline.v2, task.rows
    if not rows or not task.higher_is_better:
        return False
    error = math.sqrt(max(chance * (1 - chance), 1e-4) / rows)
    return bool(values.max() < chance + CHANCE_ERRORS * error)
