"""Who is ahead, and whether to believe it: rows, ranks, ties, intervals.

Rows are compared only within one benchmark, scale, track, pool and suite version. A row's score is
the mean over its seeds; its standard error holds the variance between seeds and the variance of the
items that were asked. Two rows tie when the paired 95% interval of their difference holds zero:
paired over seeds, and over items, since all models were asked the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import Field

from evals.aggregate import aggregate_draws
from evals.run import score_task
from evals.suite import Suite, load_suite
from evals.tasks import load_task
from leaderboard import rules
from leaderboard.submission import Entry, chain_of, seeds_of
from pipelines.records import Frozen

CONFIDENCE = 0.95


class Headline(Frozen):
    metric: str
    value: float
    stderr: float
    higher_is_better: bool


class Budget(Frozen):
    unit: str
    seen: int


class Size(Frozen):
    size: int
    unit: str


class SeedScore(Frozen):
    seed: int
    value: float


class TaskValue(Frozen):
    """A task's mean over seeds, with its standard error."""

    task: str
    category: str | None
    metric: str
    value: float
    stderr: float
    num_items: int
    higher_is_better: bool
    random_baseline: float | None


class Difference(Frozen):
    """Another row minus this one, where positive means that this row is better."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


class Row(Frozen):
    """One line of the board."""

    benchmark: str
    scale: str
    track: str
    pool_id: str
    pool_name: str
    pool_changed: tuple[str, ...] = Field(description="sources that are not the pinned ones")
    suite_version: str
    suite: str
    method: str
    team: str
    submission_id: str
    dataset_id: str
    rank: int
    tied_with_leader: bool
    headline: Headline
    behind_leader: Difference | None
    budget: Budget
    dataset: Size
    kept_fraction: float | None
    seeds: tuple[SeedScore, ...]
    tasks: tuple[TaskValue, ...]
    aggregates: dict[str, float]


def board(entries: Sequence[Entry]) -> list[Row]:
    """All submissions as rows, grouped by what may be compared, best first."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(_group(entry), []).append(entry)
    rows = []
    for key in sorted(groups):
        rows += _ranked(groups[key])
    return rows


def _group(entry: Entry) -> tuple[str, ...]:
    work = entry.record.work
    [pool] = chain_of(entry.record)["pool"]
    scores = next(iter(seeds_of(entry.record).values()))
    return (work.benchmark, work.scale, work.track, pool.id, scores.work.suite_version)


def _ranked(entries: Sequence[Entry]) -> list[Row]:
    rows = [_row(entry) for entry in entries]
    sign = -1 if rows[0].headline.higher_is_better else 1
    order = sorted(
        range(len(rows)), key=lambda i: (sign * rows[i].headline.value, rows[i].submission_id)
    )
    leader = entries[order[0]]
    ranked = []
    for rank, index in enumerate(order, start=1):
        row = rows[index]
        if rank == 1:
            ranked.append(row.model_copy(update={"rank": 1, "tied_with_leader": False}))
            continue
        behind = difference(leader, entries[index])
        ranked.append(
            row.model_copy(
                update={
                    "rank": rank,
                    "behind_leader": behind,
                    "tied_with_leader": behind.holds_zero,
                }
            )
        )
    return ranked


def _row(entry: Entry) -> Row:
    record = entry.record
    work = record.work
    benchmark = rules.load_benchmark(work.benchmark)
    kinds = chain_of(record)
    [pool], [dataset], [packed] = kinds["pool"], kinds["dataset"], kinds["packed"]
    by_seed = seeds_of(record)
    first = next(iter(by_seed.values()))
    suite = suite_for(entry)
    values = [scores.results.aggregates[suite.headline].value for scores in by_seed.values()]
    items = headline_draws(entry, suite).mean(axis=0).std(ddof=1)
    aggregate = first.results.aggregates[suite.headline]
    model = kinds["model"][0]
    rows_in = dataset.counts.get("rows_in", 0)
    return Row(
        benchmark=work.benchmark,
        scale=work.scale,
        track=work.track,
        pool_id=pool.id,
        pool_name=pool.work.name,
        pool_changed=tuple(
            f"{source.name} ({source.status})"
            for source in pool.work.sources
            if source.status != "pinned"
        ),
        suite=first.work.suite,
        suite_version=first.work.suite_version,
        method=work.method,
        team=work.team,
        submission_id=record.id,
        dataset_id=dataset.id,
        rank=0,
        tied_with_leader=False,
        headline=Headline(
            metric=suite.headline,
            value=float(np.mean(values)),
            stderr=combined_error(values, float(items)),
            higher_is_better=aggregate.higher_is_better,
        ),
        behind_leader=None,
        budget=Budget(
            unit=benchmark.budget_unit, seen=int(model.results[f"{benchmark.budget_unit}_seen"])
        ),
        dataset=Size(size=packed.counts[benchmark.size_count], unit=benchmark.size_unit),
        kept_fraction=dataset.counts["rows_out"] / rows_in if rows_in else None,
        seeds=tuple(
            SeedScore(seed=seed, value=value) for seed, value in zip(by_seed, values, strict=True)
        ),
        tasks=_task_values(entry),
        aggregates={
            name: float(np.mean([s.results.aggregates[name].value for s in by_seed.values()]))
            for name in first.results.aggregates
        },
    )


def _task_values(entry: Entry) -> tuple[TaskValue, ...]:
    by_seed = seeds_of(entry.record)
    found = []
    for number, task in enumerate(next(iter(by_seed.values())).results.tasks):
        scores = [one.results.tasks[number] for one in by_seed.values()]
        values = [score.value for score in scores]
        items = np.mean([task_draws(entry, seed, task.task) for seed in by_seed], axis=0)
        found.append(
            TaskValue(
                task=task.task,
                category=task.category,
                metric=task.metric,
                value=float(np.mean(values)),
                stderr=combined_error(values, float(items.std(ddof=1))),
                num_items=task.num_items,
                higher_is_better=task.higher_is_better,
                random_baseline=task.random_baseline,
            )
        )
    return tuple(found)


def suite_for(entry: Entry) -> Suite:
    """The suite that a submission's scores were made with, as its record embeds it."""
    scores = next(iter(seeds_of(entry.record).values()))
    embedded = scores.work.parameters.get("suite")
    if embedded is not None:
        return Suite.model_validate(embedded)
    return load_suite(f"{scores.work.benchmark}/{scores.work.suite}")


# ---- errors and intervals


def combined_error(values: Sequence[float], item_error: float) -> float:
    """Standard error of a mean over seeds: between seeds, and of the items all seeds share.

    sqrt(s^2 / n + e^2): the items are the same for every seed, so more seeds do not shrink e.
    With one seed the first part is unknown and left out.
    """
    seeds = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return math.sqrt(seeds + item_error**2)


@lru_cache(maxsize=4096)
def _draws_of(path: Path, task: str) -> npt.NDArray[np.float64]:
    return score_task(load_task(task), pq.read_table(path))[1]


def task_draws(entry: Entry, seed: int, task: str) -> npt.NDArray[np.float64]:
    """The task's score on resamples of its items; the same items in each draw for every model."""
    return _draws_of(entry.questions(seed, task), task)


def headline_draws(entry: Entry, suite: Suite) -> npt.NDArray[np.float64]:
    """The headline on resamples of the items, shape (seeds, draws)."""
    wanted = next(one for one in suite.aggregates if one.name == suite.headline)
    tasks = suite.members(wanted)
    return np.stack(
        [
            aggregate_draws(
                wanted, tasks, {task.name: task_draws(entry, seed, task.name) for task in tasks}
            )
            for seed in seeds_of(entry.record)
        ]
    )


def difference(better: Entry, other: Entry) -> Difference:
    """How far `other` is behind `better` on the headline, with a paired 95% interval.

    Seeds that both have are paired; without two of them, the seeds are taken as independent.
    """
    suite = suite_for(better)
    sign = 1.0 if _higher(better, suite) else -1.0
    a, b = _values(better, suite), _values(other, suite)
    common = sorted(set(a) & set(b))
    draws_a = headline_draws(better, suite).mean(axis=0)
    draws_b = headline_draws(other, suite).mean(axis=0)
    items = float((draws_a - draws_b).std(ddof=1))
    value = sign * (float(np.mean(list(a.values()))) - float(np.mean(list(b.values()))))
    if len(common) >= 2 and len(common) == len(a) == len(b):
        seeds = [sign * (a[seed] - b[seed]) for seed in common]
        seed_variance, freedom = float(np.var(seeds, ddof=1)) / len(seeds), len(seeds) - 1
    else:
        seed_variance, freedom = _unpaired(a, b)
    low, high = interval(value, seed_variance, freedom, items**2)
    return Difference(value=value, low=low, high=high)


def interval(
    value: float, seed_variance: float, freedom: int, item_variance: float
) -> tuple[float, float]:
    """A 95% interval around `value`. Student's t with Welch-Satterthwaite degrees of freedom.

    The seed part rests on few runs, `freedom` of them free; the item part on many draws.
    """
    total = seed_variance + item_variance
    if total == 0:
        return value, value
    if seed_variance == 0 or freedom < 1:
        degrees = 1e9
    else:
        degrees = total**2 / (seed_variance**2 / freedom)
    reach = student_quantile(0.5 + CONFIDENCE / 2, degrees) * math.sqrt(total)
    return value - reach, value + reach


def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t, by bisection on its distribution (Abramowitz, Stegun 26.7)."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        if _student_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_cdf(t: float, degrees: float) -> float:
    if degrees > 1e6:
        return 0.5 * (1 + math.erf(t / math.sqrt(2)))
    angle = np.linspace(0.0, math.atan(t / math.sqrt(degrees)), 2001)
    density = np.cos(angle) ** (degrees - 1)
    area = float(np.trapezoid(density, angle))
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    return 0.5 + area * scale / math.sqrt(math.pi)


def _unpaired(a: dict[int, float], b: dict[int, float]) -> tuple[float, int]:
    parts = [
        float(np.var(list(x.values()), ddof=1)) / len(x) if len(x) > 1 else 0.0 for x in (a, b)
    ]
    return sum(parts), max(min(len(a), len(b)) - 1, 0)


def _values(entry: Entry, suite: Suite) -> dict[int, float]:
    return {
        seed: scores.results.aggregates[suite.headline].value
        for seed, scores in seeds_of(entry.record).items()
    }


def _higher(entry: Entry, suite: Suite) -> bool:
    scores = next(iter(seeds_of(entry.record).values()))
    return scores.results.aggregates[suite.headline].higher_is_better
