"""The row of one submission on the board, and its resamples, from the submission alone.

A row has every aggregate of its suite for every seed, so it can be ranked by any of them. Its rank
is computed by `leaderboard.board.ranking`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evals.aggregate import aggregate_draws
from evals.suite import Suite
from leaderboard import rules
from leaderboard.benchmark import load_stages
from leaderboard.rules import Benchmark
from leaderboard.submissions.bundle import Bundle, Profile
from leaderboard.submissions.case import official_suite
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.counts import LOST, lost
from leaderboard.submissions.evaluations import evaluations_of
from leaderboard.submissions.lineage import data_of
from leaderboard.submissions.sample_grids import shows_images
from pipelines.records import (
    DatasetRecord,
    Frozen,
    ModelRecord,
    PoolRecord,
    ScoresRecord,
    Submission,
    TaskScore,
    digest,
)

Draws = Mapping[str, npt.NDArray[Any]]
BASELINE = "no_filter"


class Headline(Frozen):
    metric: str
    value: float
    stderr: float | None
    higher_is_better: bool


class Budget(Frozen):
    unit: str
    seen: int | None


class Size(Frozen):
    size: int | None
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
    stderr: float | None
    num_items: int | None
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


class Figure(Frozen):
    """One aggregate of a row: its value for each seed, and the error of its items."""

    values: tuple[float, ...]
    item_error: float | None = Field(description="None: not known, as there are no questions")
    higher_is_better: bool

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def stderr(self) -> float | None:
        if self.item_error is None:
            return None
        return combined_error(self.values, self.item_error)


class Costs(Frozen):
    """What a dataset and its models cost, as reported in the records; no check can verify it."""

    curation_cpu_seconds: float | None = Field(None, description="of the pipeline's run")
    curation_gpu_seconds: float | None = Field(
        None, description="the same, times the number of GPUs"
    )
    training_seconds: float | None = Field(
        None, description="times the number of processes, one for each GPU; the mean over seeds"
    )
    dataset_bytes: int | None = Field(None, description="of the dataset's files")


class Overlap(Frozen):
    """How many items of the suite occur in the dataset, and the headline without them."""

    num_items: int
    num_found: int
    clean: float | None = Field(
        description="the headline over the other items; None if there are none"
    )


class Row(Frozen):
    """One line of the board. Rank and what depends on it are set by `ranking.rank`."""

    kind: Literal["submission", "imported", "reference"] = "submission"
    benchmark: str
    scale: str
    track: str
    pool_id: str
    pool_name: str
    pool_changed: tuple[str, ...] = Field((), description="sources that are not the pinned ones")
    suite_version: str
    suite: str
    data_id: str = Field("", description="hash over the data of all tasks")
    method: str
    team: str
    submission_id: str
    dataset_id: str
    settings_id: str = ""  # hash of what else was the participant's, as a solver
    rank: int = 0
    tied_with_leader: bool | None = Field(False, description="None: not known")
    headline: Headline
    behind_leader: Difference | None = None
    over_baseline: Difference | None = Field(None, description="positive: better than the baseline")
    baseline: str | None = Field(None, description="the submission that it is compared with")
    budget: Budget
    dataset: Size
    kept_fraction: float | None
    params: int | None = None
    flops: float | None = Field(None, description="of training; 6 per parameter and token")
    evaluations: float | None = Field(
        None, description="of the model, for a restored sample; None: nothing is restored, or old"
    )
    seeds: tuple[SeedScore, ...]
    tasks: tuple[TaskValue, ...]
    aggregates: dict[str, float]
    figures: dict[str, Figure]
    url: str = ""
    date: str = Field("", description="when it was finished, as 2026-11-23")
    source: str = Field("", description="of imported and reference rows: where the figures are")
    recheck: Literal["none", "sampled", "full"] = "none"
    checkpoint_public: bool = False
    dataset_public: bool = False
    ranked: bool = Field(True, description="False: a proxy's row, in a list without ranks")
    unpinned: tuple[str, ...] = Field((), description="tasks whose data nobody pinned")
    baseline_of: str = Field("", description="the baseline whose pipeline this is, by its steps")
    tries: int | None = Field(None, description="datasets tried for this one; None: not reported")
    overlap: Overlap | None = Field(None, description="None: not measured")
    profile: Profile | None = Field(None, description="simple statistics of the documents")
    sampled: float | None = Field(
        None, description="the fraction of the pool that is kept, where a random sample decides it"
    )
    family: str = Field("", description="hash of the pipeline's steps without the seeds of samples")
    costs: Costs = Field(Costs(), description="None in it: not known")
    detectable: float | None = Field(
        None,
        description="the smallest gap that so many seeds per arm show with 80% power",
    )
    superseded_by: str = Field("", description="the row of the same dataset with more seeds")
    from_memory: bool = Field(
        False, description="the figures were written down from memory of the source, not checked"
    )
    same_result: tuple[str, ...] = Field(
        (), description="other rows with this result, which are not listed"
    )
    word: str = Field("", description="what distinguishes it from other rows of the same name")
    shows_images: bool = Field(False, description="whether each seed has a grid of its samples")


@dataclass(frozen=True)
class Measured:
    """A row with its resamples: of every aggregate, and of every task, each the mean over seeds."""

    row: Row
    draws: dict[str, npt.NDArray[np.float32]]
    task_draws: dict[str, npt.NDArray[np.float32]]


def combined_error(values: Sequence[float], item_error: float) -> float:
    """Standard error of a mean over seeds: between seeds, and of the items all seeds share.

    sqrt(s^2 / n + e^2): the items are the same for every seed, so more seeds do not shrink e.
    With one seed the first part is unknown and left out.
    """
    seeds = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return math.sqrt(seeds + item_error**2)


def _settings_id(scores: ScoresRecord, names: Sequence[str]) -> str:
    """The hash of the settings that a track leaves to its participants; empty where it has none."""
    model = scores.work.parameters.get("model")
    own = {name: model.get(name) for name in names} if isinstance(model, dict) else {}
    return digest(own) if own else ""


def _data_id(scores: ScoresRecord, suite: Suite) -> str:
    """The hash over the data of all tasks except the optional ones."""
    tasks = [task for task in scores.work.tasks if task.name not in suite.optional]
    return digest(sorted((task.name, data_of(task)) for task in tasks))


def measured_of(
    bundle: Bundle,
    benchmark: Benchmark,
    suite: Suite,
    scores: Mapping[int, Sequence[TaskScore]],
    draws: Mapping[int, Draws],
    *,
    unpinned: tuple[str, ...] = (),
    clean: Mapping[int, float] | None = None,
) -> Measured:
    """The row of a bundle from the scores and resamples of its tasks, by seed."""
    record = bundle.record
    kinds = chain_of(record)
    [pool], [dataset], [packed] = kinds["pool"], kinds["dataset"], kinds["packed"]
    by_seed = seeds_of(record)
    first = next(iter(by_seed.values()))
    names = [task.name for task in first.work.tasks]
    seeds = list(by_seed)
    task_draws = {
        name: np.mean([draws[seed][name] for seed in seeds], axis=0).astype(np.float32)
        for name in names
    }
    aggregate: dict[str, npt.NDArray[np.float32]] = {}
    figures = {}
    for suite_aggregate in suite.aggregates:
        members = suite.members(suite_aggregate)
        drawn = [aggregate_draws(suite_aggregate, members, draws[seed]) for seed in seeds]
        mean = np.mean(drawn, axis=0)
        aggregate[suite_aggregate.name] = mean.astype(np.float32)
        seed_scores = [
            scores_.results.aggregates[suite_aggregate.name] for scores_ in by_seed.values()
        ]
        figures[suite_aggregate.name] = Figure(
            values=tuple(score.value for score in seed_scores),
            item_error=float(mean.std(ddof=1)),
            higher_is_better=seed_scores[0].higher_is_better,
        )
    model: ModelRecord = kinds["model"][0]
    rows_in = dataset.counts.get("rows_in", 0)
    params = model.counts.get("params")
    seen = _seen(model, benchmark)
    head = figures[suite.headline]
    row = Row(
        benchmark=benchmark.name,
        scale=record.work.scale,
        track=record.work.track,
        pool_id=pool.id,
        pool_name=pool.work.name,
        pool_changed=tuple(
            f"{source.name} ({source.status})"
            for source in pool.work.sources
            if source.status != "pinned"
        ),
        suite=first.work.suite,
        suite_version=first.work.suite_version,
        data_id=_data_id(first, official_suite(benchmark, record.work.scale)),
        method=record.work.method,
        team=record.work.team,
        submission_id=record.id,
        dataset_id=dataset.id,
        settings_id=_settings_id(first, benchmark.track(record.work.track).settings),
        headline=Headline(
            metric=suite.headline,
            value=head.value,
            stderr=head.stderr,
            higher_is_better=head.higher_is_better,
        ),
        budget=Budget(unit=benchmark.budget_unit, seen=seen),
        dataset=Size(size=packed.counts[benchmark.size_count], unit=benchmark.size_unit),
        kept_fraction=dataset.counts["rows_out"] / rows_in if rows_in else None,
        params=params,
        flops=flops_of(model, benchmark, record.work.scale),
        evaluations=evaluations_of(bundle, seeds, names),
        seeds=tuple(
            SeedScore(seed=seed, value=value)
            for seed, value in zip(seeds, head.values, strict=True)
        ),
        tasks=_tasks(scores, task_draws),
        aggregates={name: figure.value for name, figure in figures.items()},
        figures=figures,
        url=record.work.url,
        date=max(scores_.made_by.finished for scores_ in by_seed.values())[:10],
        checkpoint_public=_public_checkpoints(bundle, record),
        dataset_public=bool(bundle.manifest.dataset.location),
        ranked=benchmark.scale(record.work.scale).ranked,
        unpinned=unpinned,
        baseline_of=_baseline_of(benchmark, record, pool, dataset),
        tries=record.work.tries,
        overlap=_overlap(bundle, clean or {}, seeds),
        profile=bundle.manifest.profile,
        costs=_costs(dataset, kinds["model"]),
        sampled=_sampled(dataset),
        family=_family(dataset),
        shows_images=shows_images(bundle),
    )
    return Measured(row, aggregate, task_draws)


def _costs(dataset: DatasetRecord, models: Sequence[ModelRecord]) -> Costs:
    figures = [model.made_by.figures for model in models]
    trained = [_positive(own.get("seconds"), own.get("num_processes", 1.0)) for own in figures]
    known = [seconds for seconds in trained if seconds is not None]
    num_bytes = sum(file.num_bytes for file in dataset.outputs)
    return Costs(
        curation_cpu_seconds=_positive(dataset.made_by.figures.get("cpu_seconds")),
        curation_gpu_seconds=_positive(dataset.made_by.figures.get("gpu_seconds")),
        training_seconds=sum(known) / len(known) if len(known) == len(trained) and known else None,
        dataset_bytes=num_bytes if num_bytes > 0 else None,
    )


def _positive(value: float | None, times: float = 1.0) -> float | None:
    """`value * times` if it is finite and positive, as a cost must be; else None."""
    if value is None or not math.isfinite(value * times) or value * times <= 0:
        return None
    return value * times


SAMPLE = "hash_sample"


def _sampled(dataset: DatasetRecord) -> float | None:
    """The fraction of the pool that is kept, if a random sample decides it; else None."""
    steps = dataset.work.pipeline.get("steps") or []
    rows_in = dataset.counts.get("rows_in", 0)
    if not rows_in or all(step["operator"] != SAMPLE for step in steps):
        return None
    return dataset.counts["rows_out"] / rows_in


def _family(dataset: DatasetRecord) -> str:
    """A hash shared by all random draws of one sampled method and by nothing else."""
    steps = [
        [step["operator"], {k: v for k, v in step["parameters"].items() if k != "seed"}]
        if step["operator"] == SAMPLE
        else [step["operator"], step.get("parameters", {})]
        for step in dataset.work.pipeline.get("steps") or []
    ]
    return digest(["family", steps])


def _overlap(bundle: Bundle, clean: Mapping[int, float], seeds: Sequence[int]) -> Overlap | None:
    report = bundle.manifest.overlap
    if report is None:
        return None
    return Overlap(
        num_items=sum(overlap.num_items for overlap in report.values()),
        num_found=sum(len(overlap.found) for overlap in report.values()),
        clean=sum(clean.values()) / len(seeds) if len(clean) == len(seeds) else None,
    )


def _baseline_of(
    benchmark: Benchmark, record: Submission, pool: PoolRecord, dataset: DatasetRecord
) -> str:
    """The baseline with the same steps as the dataset, whatever the method's name; or empty."""
    track = benchmark.track(record.work.track)
    if dataset.work.external or track.pool == "any" or lost(pool, dataset)[0] > LOST:
        return ""
    names = rules.baselines(benchmark.name)
    pipeline = dataset.work.pipeline
    return next((n for n in names if rules.is_baseline(benchmark.name, n, pipeline)), "")


def _seen(model: ModelRecord, benchmark: Benchmark) -> int:
    name = benchmark.budget_unit.replace(" ", "_")
    return int(model.results[name if name.endswith("_seen") else f"{name}_seen"])


def flops_of(model: ModelRecord, benchmark: Benchmark, scale: str) -> float | None:
    """FLOPs of training: from the record, 6 N D for language models (Kaplan et al. 2020), or those
    of the scale's recipe.
    """
    params, seen = model.counts.get("params"), _seen(model, benchmark)
    if "flops" in model.results:
        return float(model.results["flops"])
    if benchmark.modality == "text" and params is not None:
        return 6.0 * params * seen
    stages = load_stages(benchmark.name)
    return stages.operations(stages.recipe(benchmark.scale(scale).recipe))


def _public_checkpoints(bundle: Bundle, record: Submission) -> bool:
    places = bundle.manifest.checkpoints
    seeds = {role.removeprefix("scores/") for role in record.parents}
    return all(seed in places and places[seed].location for seed in seeds)


def _tasks(scores: Mapping[int, Sequence[TaskScore]], draws: Draws) -> tuple[TaskValue, ...]:
    task_values = []
    for number, task in enumerate(next(iter(scores.values()))):
        values = [tasks[number].value for tasks in scores.values()]
        task_values.append(
            TaskValue(
                task=task.task,
                category=task.category,
                metric=task.metric,
                value=float(np.mean(values)),
                stderr=combined_error(values, float(draws[task.task].std(ddof=1))),
                num_items=task.num_items,
                higher_is_better=task.higher_is_better,
                random_baseline=task.random_baseline,
            )
        )
    return tuple(task_values)
