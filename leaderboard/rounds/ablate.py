"""What each step of a pipeline is worth: the round without it, next to the round with all.

The effect of a step is the score with it minus the score without it, signed so that more is better,
with the paired interval of the board (over seeds and over items).
"""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.board.ranking import Difference, difference, suite_for
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.workspace import Curated, Round
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.submission import Entry
from pipelines.console import table
from pipelines.engine.row_steps import OperatorFailed
from pipelines.errors import PipelineError
from pipelines.execution.progress import say
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen


class Ablated(Frozen):
    """One step (counted from 1) taken out; None where the pipeline cannot do without it."""

    step: int
    operator: str
    rows: int | None = None
    score: float | None = None
    effect: Difference | None = None
    needed: str | None = None  # why it cannot be taken out


class Ablation(Frozen):
    """A pipeline with all its steps, and without each."""

    pipeline: str
    metric: str
    rows: int
    score: float
    seeds: tuple[int, ...]
    steps: tuple[Ablated, ...]
    noise_known: bool = False
    """Whether the rule book has the variance between training runs of this scale."""


def ablate(
    current: Round,
    pipeline: Pipeline,
    *,
    steps: Sequence[int],
    seeds: Sequence[int],
    where_to_train: Launch | None = None,
) -> Ablation:
    """Rounds without each of these steps (counted from 0), trained where `where_to_train` says.

    The rounds are kept next to the board's submissions, in `ablations`, and not on the board.
    """
    arms: list[tuple[int | None, Curated]] = [(None, stages.curate(current, pipeline))]
    needed: dict[int, str] = {}
    for number in steps:
        without = pipeline.without(number)
        try:
            arms.append((number, stages.curate(current, without)))
        except (PipelineError, OperatorFailed) as error:  # with it, they all ran
            needed[number] = str(error)
            say(f"{pipeline.steps[number].label} cannot be taken out: {error}")
    packed = [(curated, stages.pack(current, curated)) for _, curated in arms]
    where_to_train = where_to_train or Launch(how="here")
    run = launch.round_trainer(where_to_train, training.run_training)
    trained = training.train(current, packed, seeds=seeds, recipe=current.scale.recipe, run=run)
    stages.evaluate(current, trained, spread=where_to_train.spread(current.map_tasks))
    entries = [
        stages.submit(current, curated, seeds=seeds, track="filtering", folder="ablations")
        for _, curated in arms
    ]
    whole = entries[0]
    metric = suite_for(whole).headline
    by_step = {
        number: (curated, entry)
        for (number, curated), entry in zip(arms, entries, strict=True)
        if number is not None
    }
    ablated = []
    for number in steps:
        step_fields = {"step": number + 1, "operator": pipeline.steps[number].name}
        if number in needed:
            ablated.append(Ablated(**step_fields, needed=needed[number]))
            continue
        curated, entry = by_step[number]
        ablated.append(
            Ablated(
                **step_fields,
                rows=curated.record.counts["rows_out"],
                score=_score(entry, metric),
                effect=difference(whole, entry),
            )
        )
    return Ablation(
        pipeline=pipeline.name,
        metric=metric,
        rows=arms[0][1].record.counts["rows_out"],
        score=_score(whole, metric),
        seeds=tuple(seeds),
        steps=tuple(ablated),
        noise_known=current.scale.noise_of(metric) is not None,
    )


def _score(entry: Entry, metric: str) -> float:
    values = [scores.results.aggregates[metric].value for scores in seeds_of(entry.record).values()]
    return sum(values) / len(values)


def ablation_text(ablation: Ablation) -> str:
    """The ablation as a table; a star where the interval does not contain zero."""
    rows: list[tuple[object, ...]] = [
        ("-", "all steps", ablation.rows, round(ablation.score, 4), "", "")
    ]
    for step in ablation.steps:
        if step.effect is None:
            rows.append((step.step, step.operator, None, None, "", f"needed: {step.needed}"))
            continue
        assert step.score is not None
        star = "" if step.effect.holds_zero else "*"
        interval = f"[{step.effect.low:+.4f}, {step.effect.high:+.4f}]"
        shown = f"{step.effect.value:+.4f}{star}"
        rows.append((step.step, step.operator, step.rows, round(step.score, 4), shown, interval))
    header = ("without", "operator", "rows", ablation.metric, "the step adds", "95%")
    seeds = ", ".join(map(str, ablation.seeds))
    lines = [f"{ablation.pipeline}, seeds {seeds}", "", table(rows, header=header)]
    if len(ablation.seeds) == 1:
        lines.append(
            "one seed: the variance between training runs is the rule book's"
            if ablation.noise_known
            else "one seed: the interval holds no variance between training runs"
        )
    return "\n".join(lines)


def chosen_steps(pipeline: Pipeline, drop: Sequence[int] | None) -> list[int]:
    """Steps counted from 0, of numbers counted from 1; all when none is given."""
    if not drop:
        return list(range(len(pipeline.steps)))
    wrong = [number for number in drop if not 1 <= number <= len(pipeline.steps)]
    if wrong:
        raise PipelineError(
            f"--drop {wrong[0]}: {pipeline.name} has steps 1 to {len(pipeline.steps)}"
        )
    return [number - 1 for number in dict.fromkeys(drop)]
