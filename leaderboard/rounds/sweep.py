"""`sweep`: every combination of some parameters of a pipeline, trained and tabled.

All points are tries: the distance of each to the unfiltered baseline accounts for the best of so
many (`leaderboard.board.intervals.interval`), and the notebook counts them. Passes that points
share run once (`pipelines.engine.share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import yaml
from pydantic import Field, ValidationError

from leaderboard import rules
from leaderboard.board.ranking import board
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.notebook import Notebook, noted
from leaderboard.rounds.workspace import Curated, Round
from leaderboard.submissions.results import BASELINE, Difference, Row
from pipelines.console import table
from pipelines.engine.run import forget_work
from pipelines.errors import PipelineError, RuleError
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON, Frozen
from pipelines.storage.open import open_store

MOST_POINTS = 256  # each trains a model: more is taken for a mistake
FOLDER = "sweeps"


class Over(Frozen):
    """One parameter and its values, as `--over min_commas=2,4,8` says it."""

    name: str
    step: int = Field(description="number of the step, from 0")
    parameter: str
    values: tuple[JSON, ...] = Field(min_length=1)


class SweepPoint(Frozen):
    """One combination: what it keeps, what it scores, how far it is from the unfiltered pool."""

    values: dict[str, JSON]
    method: str
    rows: int
    score: float
    rank: int
    over_baseline: Difference | None = Field(description="accounts for the best of all points")


class Sweep(Frozen):
    """All points, best first."""

    pipeline: str
    metric: str
    seeds: tuple[int, ...]
    baseline: float | None
    points: tuple[SweepPoint, ...]


def parse_over(pipeline: Pipeline, text: str) -> Over:
    """`parameter=v1,v2` or `operator.parameter=v1,v2`, values as in the pipeline's YAML.

    PipelineError for a parameter that no step has or several steps have.
    """
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise PipelineError(f"--over {text}: expected NAME=VALUE,VALUE, as min_commas=2,4,8")
    operator, _, parameter = name.rpartition(".")
    having = [
        step
        for step in pipeline.steps
        if parameter in type(step.operator).model_fields and operator in ("", step.name)
    ]
    if len(having) != 1:
        labels = ", ".join(step.label for step in (having or pipeline.steps))
        what = "several steps have it" if having else "no step has it"
        raise PipelineError(
            f"--over {text}: {what}: {labels}; name one as OPERATOR.PARAMETER=VALUE,VALUE"
        )
    try:
        parsed = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError:
        raise PipelineError(f"--over {text}: {values} are no values separated by commas") from None
    if len({str(value) for value in parsed}) < len(parsed):
        raise PipelineError(f"--over {text}: a value is there twice")
    return Over(name=name, step=having[0].number, parameter=parameter, values=tuple(parsed))


def variants(pipeline: Pipeline, over: Sequence[Over]) -> list[tuple[dict[str, JSON], Pipeline]]:
    """Every combination with its values. PipelineError for a value that an operator refuses."""
    names = [entry.name for entry in over]
    if not over or len(set(names)) < len(names):
        raise PipelineError("name every parameter once, with --over NAME=VALUE,VALUE")
    number = 1
    for entry in over:
        number *= len(entry.values)
    if number > MOST_POINTS:
        raise PipelineError(f"{number} combinations; a sweep has at most {MOST_POINTS}")
    made = []
    for values in product(*(entry.values for entry in over)):
        variant = pipeline
        for entry, value in zip(over, values, strict=True):
            variant = _with(variant, variant.steps[entry.step], entry.parameter, value)
        label = "-".join(f"{e.parameter}-{v}" for e, v in zip(over, values, strict=True))
        made.append(
            (
                dict(zip(names, values, strict=True)),
                replace(variant, name=f"{pipeline.name}-{label}"),
            )
        )
    return made


def _with(pipeline: Pipeline, step: Step, parameter: str, value: JSON) -> Pipeline:
    changed = step.operator.model_dump(mode="json") | {parameter: value}
    try:
        operator = type(step.operator).model_validate(changed)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise PipelineError(f"{step.label}: {parameter}={value}: {message}") from None
    return pipeline.replace(step.number, operator)


def sweep(
    current: Round,
    pipeline: Pipeline,
    over: Sequence[Over],
    *,
    seeds: Sequence[int],
    where_to_train: Launch,
) -> Sweep:
    """Curate, train and evaluate all points and the baseline; finished ones stay.

    RuleError for an experimental recipe: its results are not compared by the board's rules.
    """
    if not current.official:
        raise RuleError("a sweep is made with the scale's own recipe")
    points = variants(pipeline, over)
    arms: list[tuple[dict[str, JSON], Curated]] = []
    if BASELINE in rules.baselines(current.benchmark.name):
        arms.append(({}, stages.curate(current, stages.find_pipeline(current, BASELINE))))
    shared: str | None = None
    for values, variant in points:
        curated = stages.curate(current, variant, share=shared, keep_work=True)
        shared = curated.dataset
        arms.append((values, curated))
    for values, curated in arms:
        if values:
            forget_work(open_store(curated.dataset), curated.record)
    packed = [(curated, stages.pack(current, curated)) for _, curated in arms]
    book = Notebook(current.workspace, current.benchmark.name, current.scale.name)
    starts = [book.start(c.method, c.record, tuple(seeds)) for values, c in arms if values]
    run = launch.round_trainer(where_to_train, training.run_training)
    with noted(book, starts):
        trained = training.train(current, packed, seeds=seeds, recipe=current.scale.recipe, run=run)
        stages.evaluate(current, trained, spread=where_to_train.spread(current.map_tasks))
    track = current.benchmark.tracks[0].name
    entries = [
        stages.submit(
            current,
            curated,
            seeds=seeds,
            track=track,
            folder=FOLDER,
            tries=len(points) if values else None,
        )
        for values, curated in arms
    ]
    rows = {row.submission_id: row for row in board(entries)}
    measured = [
        (values, curated, rows[entry.record.id])
        for (values, curated), entry in zip(arms, entries, strict=True)
    ]
    for start, (_, _, row) in zip(starts, [m for m in measured if m[0]], strict=True):
        book.follow(start, "scored", metric=row.headline.metric, value=row.headline.value)
    return _tabled(pipeline.name, seeds, measured)


def _tabled(
    name: str, seeds: Sequence[int], measured: Sequence[tuple[dict[str, JSON], Curated, Row]]
) -> Sweep:
    points = [
        SweepPoint(
            values=values,
            method=curated.method,
            rows=curated.record.counts["rows_out"],
            score=row.headline.value,
            rank=row.rank,
            over_baseline=row.over_baseline,
        )
        for values, curated, row in measured
        if values
    ]
    plain = [row.headline.value for values, _, row in measured if not values]
    return Sweep(
        pipeline=name,
        metric=measured[0][2].headline.metric,
        seeds=tuple(seeds),
        baseline=plain[0] if plain else None,
        points=tuple(sorted(points, key=lambda point: point.rank)),
    )


def sweep_text(made: Sweep) -> str:
    """The sweep for a terminal; a star where the interval does not contain zero."""
    names = list(made.points[0].values)
    rows: list[tuple[object, ...]] = []
    if made.baseline is not None:
        rows.append((*("-" for _ in names), None, f"{made.baseline:.4f}", "", BASELINE))
    for point in made.points:
        gap = point.over_baseline
        shown, interval = "", ""
        if gap is not None:
            shown = f"{gap.value:+.4f}{'' if gap.holds_zero else '*'}"
            interval = f"[{gap.low:+.4f}, {gap.high:+.4f}]"
        cells = (str(point.values[name]) for name in names)
        rows.append((*cells, point.rows, f"{point.score:.4f}", shown, interval))
    header = (*names, "rows", made.metric, f"over {BASELINE}", "95%")
    number = len(made.points)
    best = made.points[0]
    gap = best.over_baseline
    verdict = "no baseline to compare with"
    if gap is not None:
        shown = (
            "not distinguishable from"
            if gap.holds_zero
            else ("better than" if gap.low > 0 else "worse than")
        )
        verdict = f"the best of {number} points is {shown} {BASELINE}"
    lines = [
        f"{made.pipeline}, seeds {', '.join(map(str, made.seeds))}",
        "",
        table(rows, header=header),
        "",
        f"{verdict}; intervals account for choosing the best of {number}",
    ]
    return "\n".join(lines)
