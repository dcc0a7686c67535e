"""`noise`: how far a score moves when nothing of the method does.

One dataset is trained with every seed in every order of its data, and random samples of the pool
are trained once each. The components (`leaderboard.board.components`) of every aggregate of the
suite go into `<workspace>/<benchmark>-<scale>/noise.json`, where `plan` and `run` read them until
the rule book has them; its lines are printed for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from evals.suite import load_suite
from leaderboard import rules
from leaderboard.benchmark import desk
from leaderboard.board.components import Component, draw, seed_and_order
from leaderboard.rounds import round as stages
from leaderboard.rounds.experiments import Experiment, experiment, scores_of, seeds_for
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.workspace import Round
from leaderboard.rules import Noise
from pipelines.console import table
from pipelines.errors import RuleError
from pipelines.execution.progress import say
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen, ScoresRecord

FILE = "noise.json"


class Measured(Frozen):
    """The noise of one aggregate, with the scores that it was computed from."""

    metric: str
    scores: tuple[tuple[float, ...], ...] = Field(description="a row a seed, a column an order")
    samples: tuple[float, ...] = Field((), description="random samples of the pool, trained once")
    components: tuple[Component, ...]
    questions: float | None = Field(
        None, description="standard error of one run from the choice of its questions"
    )
    noise: Noise | None = Field(description="for the rule book; None where nothing moved")


class NoiseReport(Frozen):
    """All aggregates of one scale; the headline first."""

    benchmark: str
    scale: str
    pipeline: str
    seeds: tuple[int, ...]
    orders: int
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Design:
    """Which runs are made."""

    seeds: int = 3
    orders: int = 3
    draws: int = 3


def measure_noise(
    current: Round,
    pipeline: Pipeline,
    design: Design,
    *,
    sample: Pipeline | None,
    where_to_train: Launch | None = None,
) -> NoiseReport:
    """Train `pipeline`'s dataset by seeds and orders, and draws of `sample`; finished runs stay.

    `sample` is a pipeline that draws at random; None measures no draw. RuleError for fewer than two
    seeds, and where the benchmark's seed orders the data too and orders were asked for.
    """
    if design.seeds < 2:
        raise RuleError(f"--seeds {design.seeds}: the noise of seeds needs at least two of them")
    where_to_train = where_to_train or Launch(how="here")
    seeds = seeds_for(current.recipe, design.seeds)
    rounds = _in_every_order(current, seeds, design.orders)
    curated = stages.curate(current, pipeline)
    columns = [scores_of(chosen, [curated], seeds, where_to_train)[0] for chosen in rounds]
    drawn: list[list[ScoresRecord]] = []
    share = None
    if sample is not None and design.draws > 1:
        samples = [stages.curate(current, part) for part in stages.draws_of(sample, design.draws)]
        counts = samples[0].record.counts
        share = counts["rows_out"] / counts["rows_in"]
        drawn = scores_of(rounds[0], samples, seeds[:1], where_to_train)
    headline = load_suite(stages.suite_name(current)).headline
    names = sorted(columns[0][0].results.aggregates, key=lambda name: (name != headline, name))
    report = NoiseReport(
        benchmark=current.benchmark.name,
        scale=current.scale.name,
        pipeline=pipeline.name,
        seeds=tuple(seeds),
        orders=len(rounds),
        measured=tuple(
            _measured(name, columns, [part[0] for part in drawn], share, pipeline) for name in names
        ),
    )
    path = noise_file(current.benchmark.name, current.scale.name, current.workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.model_dump_json(indent=2))
    return report


def noise_file(benchmark: str, scale: str, workspace: str) -> Path:
    """Where a workspace keeps the noise that was measured in it."""
    return desk(workspace) / f"{benchmark}-{scale}" / FILE


def own_noise(benchmark: str, scale: str, metric: str, workspace: str) -> Noise | None:
    """What `noise` measured in a workspace; None where it did not.

    RuleError for a file that another version wrote.
    """
    path = noise_file(benchmark, scale, workspace)
    if not path.is_file():
        return None
    try:
        report = TypeAdapter(NoiseReport).validate_json(path.read_bytes())
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise RuleError(
            f"{path} is not a table of noise ({message}); remove it, and run: {benchmark} noise "
            f"--scale {scale}"
        ) from None
    return next((entry.noise for entry in report.measured if entry.metric == metric), None)


def _in_every_order(current: Round, seeds: Sequence[int], orders: int) -> list[Experiment]:
    """The round in every order of the data that the benchmark has."""
    rounds = [experiment(current, current.recipe, seeds)]
    for number in range(1, orders):
        other = current.stages.in_other_order(current.recipe, number)
        if other is None:
            say(
                f"{current.benchmark.name} has no order of the data beside the seed, which orders "
                "it too: its noise is in the seeds"
            )
            break
        rounds.append(experiment(current, other, seeds))
    return rounds


def _measured(
    metric: str,
    columns: Sequence[Sequence[ScoresRecord]],
    samples: Sequence[ScoresRecord],
    share: float | None,
    pipeline: Pipeline,
) -> Measured:
    """The components of one aggregate. `columns` are the orders, each with its seeds."""
    by_order = [
        [record.results.aggregates[metric].value for record in column] for column in columns
    ]
    by_seed = [list(row) for row in zip(*by_order, strict=True)]
    seed, order = seed_and_order(by_seed)
    components = [seed] if order is None else [seed, order]
    values = [record.results.aggregates[metric].value for record in samples]
    sampled = draw(values, order) if len(values) > 1 else None
    if sampled is not None:
        components.append(sampled)
    errors = [record.results.aggregates[metric].stderr for column in columns for record in column]
    known = [error for error in errors if error is not None]
    source = f"{pipeline.name}: {len(by_seed)} seeds in {len(by_order)} orders" + (
        f", {len(values)} random samples" if values else ""
    )
    return Measured(
        metric=metric,
        scores=tuple(tuple(row) for row in by_seed),
        samples=tuple(values),
        components=tuple(components),
        questions=(sum(error**2 for error in known) / len(known)) ** 0.5 if known else None,
        noise=None
        if seed.sd == 0
        else Noise(
            metric=metric,
            seed_sd=_figures(seed.sd),
            seed_freedom=seed.freedom,
            order_sd=0.0 if order is None else _figures(order.sd),
            order_freedom=0 if order is None else order.freedom,
            draw_sd=0.0 if sampled is None else _figures(sampled.sd),
            draw_freedom=0 if sampled is None else sampled.freedom,
            draw_fraction=0.1 if share is None else _figures(share),
            source=source,
        ),
    )


def _figures(value: float) -> float:
    """Three significant figures: more are not known."""
    return float(f"{value:.3g}")


def noise_text(report: NoiseReport) -> str:
    """The report for a terminal, with the lines for the rule book."""
    rows: list[tuple[object, ...]] = []
    for entry in report.measured:
        for component in entry.components:
            interval = f"[{component.low:.4f}, {component.high:.4f}]"
            rows.append(
                (entry.metric, component.name, f"{component.sd:.4f}", interval, component.freedom)
            )
        if entry.questions is not None:
            rows.append((entry.metric, "questions", f"{entry.questions:.4f}", "", ""))
    header = ("metric", "noise", "standard deviation", "95%", "degrees of freedom")
    number = len(report.seeds)
    lines = [
        f"{report.benchmark} at {report.scale}: {report.pipeline} with {number} seeds in "
        f"{report.orders} order{'s' * (report.orders != 1)} of its data",
        "",
        table(rows, header=header),
        "",
        "For `noise` in the rule book:",
        *(_rule_lines(entry.noise) for entry in report.measured[:1] if entry.noise is not None),
    ]
    return "\n".join(lines)


def _rule_lines(noise: Noise) -> str:
    values = noise.model_dump(exclude_defaults=True)
    return str(yaml.safe_dump([values], sort_keys=False, width=100)).rstrip()


def random_sample(benchmark: str) -> str | None:
    """The baseline that draws at random, where a benchmark has one."""
    names = rules.baselines(benchmark)
    return "random_same_size" if "random_same_size" in names else None
