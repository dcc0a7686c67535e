"""`cross`: datasets at several budgets. Where do two cross, and what is a filter worth?

Every dataset, and always the unfiltered pool, is trained at fractions and multiples of the scale's
budget under a recipe that differs in nothing else: each budget has a whole schedule of its own,
since a model in the middle of a long schedule is not one at the end of a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from pydantic import Field

from evals.suite import load_suite
from leaderboard import rules
from leaderboard.board.crossing import Crossing, Point, Price, crossing, prices, spread
from leaderboard.board.crossing_plot import crossing_plot
from leaderboard.board.flips import Flip, flips
from leaderboard.board.intervals import CONFIDENCE, student_quantile
from leaderboard.rounds import round as stages
from leaderboard.rounds.experiments import experiment, scores_of, seeds_for, with_baseline
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.noise import own_noise
from leaderboard.rounds.workspace import Curated, Round
from leaderboard.rules import Noise
from leaderboard.submissions.results import BASELINE
from pipelines.console import table
from pipelines.errors import RuleError
from pipelines.execution.progress import short
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen


class Curves(Frozen):
    """Scores of datasets by budget, and what they say."""

    benchmark: str
    scale: str
    metric: str
    higher_is_better: bool
    unit: str
    points: dict[str, tuple[Point, ...]] = Field(description="by method")
    errors: dict[str, tuple[float, ...]] = Field(description="half the 95% interval of each point")
    crossings: tuple[Crossing, ...]
    prices: dict[str, tuple[Price, ...]] = Field(description="by method, in unfiltered data")


def budgets_of(text: str) -> list[float]:
    """`0.25,0.5,1,2`: parts of the scale's budget. RuleError for anything else."""
    try:
        budgets = [float(part) for part in text.split(",")]
    except ValueError:
        budgets = []
    if len(set(budgets)) < 4 or min(budgets) <= 0:
        raise RuleError(
            f"--budgets {text}: expected at least four different parts of the scale's budget, as "
            "0.25,0.5,1,2"
        )
    return sorted(set(budgets))


def curves(
    current: Round,
    pipelines: Sequence[Pipeline],
    budgets: Sequence[float],
    *,
    repeat: int,
    where_to_train: Launch,
) -> Curves:
    """Train everything at every budget; finished runs stay."""
    suite = load_suite(stages.suite_name(current))
    metric = suite.headline
    if repeat < 2 and _noise(current, metric) is None:
        raise RuleError(
            f"with one seed a budget, and no noise known at {current.scale.name}, no difference "
            "can be distinguished from chance; give --repeat 2 or more, or measure the scale "
            "with `noise`"
        )
    everything = with_baseline(current, pipelines)
    if len({pipeline.name for pipeline in everything}) < len(everything):
        raise RuleError("two pipelines have one name; a curve is named by its pipeline")
    datasets = [stages.curate(current, pipeline) for pipeline in everything]
    seeds = seeds_for(current.recipe, repeat)
    higher = suite.higher_is_better
    by_method: dict[str, list[Point]] = {dataset.method: [] for dataset in datasets}
    for budget in budgets:
        recipe = current.recipe
        if budget != 1:
            recipe = current.stages.changed(recipe, budget=budget)
        chosen = experiment(current, recipe, seeds)
        records = scores_of(chosen, datasets, seeds, where_to_train)
        for dataset, of_dataset in zip(datasets, records, strict=True):
            values = tuple(record.results.aggregates[metric].value for record in of_dataset)
            seen = float(current.stages.budget(chosen[0].recipe))
            by_method[dataset.method].append(Point(budget=seen, scores=values))
    return judged(current, by_method, metric=metric, higher_is_better=higher)


def judged(
    current: Round,
    by_method: dict[str, list[Point]],
    *,
    metric: str,
    higher_is_better: bool,
) -> Curves:
    """What the points say, with the scale's known noise."""
    name, scale = current.benchmark.name, current.scale
    noise = _noise(current, metric)
    known = None
    if noise is not None:
        known = (noise.seed_sd**2, noise.seed_freedom)
    order = 0.0 if noise is None else noise.order_sd**2
    crossings = [
        crossing(
            by_method[first],
            by_method[second],
            names=(first, second),
            higher_is_better=higher_is_better,
            known=known,
            order=order,
        )
        for first, second in combinations(by_method, 2)
    ]
    worth = {
        method: tuple(
            prices(by_method[BASELINE], points, higher_is_better=higher_is_better, known=known)
        )
        for method, points in by_method.items()
        if method != BASELINE
    }
    return Curves(
        benchmark=name,
        scale=scale.name,
        metric=metric,
        higher_is_better=higher_is_better,
        unit=rules.load_benchmark(name).budget_unit,
        points={method: tuple(points) for method, points in by_method.items()},
        errors=_errors(by_method, known, order),
        crossings=tuple(crossings),
        prices=worth,
    )


def _errors(
    by_method: dict[str, list[Point]], known: tuple[float, int] | None, order: float
) -> dict[str, tuple[float, ...]]:
    variance, freedom = spread([p for points in by_method.values() for p in points], known)
    reach = student_quantile(0.5 + CONFIDENCE / 2, freedom)
    return {
        method: tuple(reach * (variance / len(p.scores) + order) ** 0.5 for p in points)
        for method, points in by_method.items()
    }


def curves_plot(made: Curves) -> str:
    """The curves as an SVG."""
    return crossing_plot(
        made.points,
        made.errors,
        made.crossings,
        metric=made.metric,
        unit=made.unit,
        title=f"{made.metric} over budgets at {made.benchmark} {made.scale}",
    )


def curves_text(made: Curves) -> str:
    """The curves for a terminal: a table, the verdicts, the prices."""
    budgets = [point.budget for point in next(iter(made.points.values()))]
    rows = [
        (method, *(f"{point.mean:.4f}" for point in points))
        for method, points in made.points.items()
    ]
    header = (made.metric, *(f"{short(budget)} {made.unit}" for budget in budgets))
    lines = [table(rows, header=header), ""]
    lines += [f"- {entry.sentence(made.unit)}" for entry in made.crossings]
    lines.append("")
    for method, worth in made.prices.items():
        lines += [f"- {method}, {price.sentence(made.unit)}" for price in worth]
    return "\n".join(lines).rstrip()


def _noise(current: Round, metric: str) -> Noise | None:
    """The rule book's, or what was measured in the workspace."""
    name, scale = current.benchmark.name, current.scale
    return scale.noise_of(metric) or own_noise(name, scale.name, metric, current.workspace)


# ---- the low-rate check


LOW = 0.1
"""The part of the learning rate that the check trains with (as arXiv 2512.24503 proposes)."""


def check_low_rate(current: Round, *, num_methods: int, num_seeds: int) -> None:
    """RuleError, before hours are spent, where the check could not say anything."""
    if num_methods < 2:
        raise RuleError("--recipe-check low-rate compares: name at least two pipelines")
    metric = load_suite(stages.suite_name(current)).headline
    if num_seeds < 2 and _noise(current, metric) is None:
        raise RuleError(
            f"--recipe-check low-rate: with one seed, and no noise known at {current.scale.name}, "
            "no difference can be distinguished from chance; give --repeat 2 or more"
        )


def low_rate(
    current: Round,
    datasets: Sequence[Curated],
    *,
    seeds: Sequence[int],
    where_to_train: Launch,
) -> list[Flip]:
    """Train the datasets again at a tenth of the learning rate: does their order stay?"""
    suite = load_suite(stages.suite_name(current))
    metric = suite.headline
    higher = suite.higher_is_better
    values = []
    for recipe in (current.recipe, current.stages.changed(current.recipe, rate=LOW)):
        records = scores_of(experiment(current, recipe, seeds), datasets, seeds, where_to_train)
        values.append(
            {
                dataset.method: [record.results.aggregates[metric].value for record in of_dataset]
                for dataset, of_dataset in zip(datasets, records, strict=True)
            }
        )
    noise = _noise(current, metric)
    known = None if noise is None else (noise.seed_sd**2, noise.seed_freedom)
    return flips(values[0], values[1], higher_is_better=higher, known=known)
