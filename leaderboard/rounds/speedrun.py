"""`speedrun`: how much training a dataset takes until a model is as good as the scale's target.

Everything but the data is the rule book's: the recipe (with more checkpoints), the suite, the
target. The unfiltered pool runs beside the others. Runs are kept in the workspace; the result is in
`<workspace>/<benchmark>-<scale>/speedrun.json`, and bundles for the board in `submissions/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from evals.suite import load_suite
from leaderboard.board.speed import Measure, Speed, order, reached, score_at, speed
from leaderboard.rounds import round as stages
from leaderboard.rounds.experiments import (
    experiment,
    read_scores,
    seeds_for,
    train_all,
    with_baseline,
)
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.training import Trained
from leaderboard.rounds.workspace import Curated, Round
from leaderboard.rules import SpeedrunRule
from leaderboard.submissions.results import BASELINE
from leaderboard.submissions.submission import Entry
from pipelines import installed
from pipelines.console import table
from pipelines.errors import RuleError
from pipelines.execution.progress import short, step
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store

FILE = "speedrun.json"


class Speedrun(Frozen):
    """All datasets, fastest first."""

    benchmark: str
    scale: str
    metric: str
    target: float
    baseline_share: float | None = None
    """The part of its own budget at which the unfiltered pool has the target; None: a fixed one."""
    unit: str
    whole: float
    """The budget of a run."""
    datasets: tuple[Speed, ...]


def check_speedrun(current: Round) -> SpeedrunRule:
    """The rule of the scale. RuleError where it has none, or the recipe is not the scale's."""
    rule = current.scale.speedrun
    if rule is None:
        scales = [s.name for s in current.benchmark.scales if s.speedrun is not None]
        raise RuleError(
            f"{current.benchmark.name} {current.scale.name} has no speedrun; scales that have one: "
            f"{', '.join(scales) or 'none'}"
        )
    if not current.official:
        raise RuleError("a speedrun changes the data alone: leave out the recipe")
    return rule


def speedrun(
    current: Round, pipelines: Sequence[Pipeline], *, repeat: int, where_to_train: Launch
) -> Speedrun:
    """Train every dataset with every seed and read where each reaches the target."""
    rule = check_speedrun(current)
    datasets = [stages.curate(current, p) for p in with_baseline(current, pipelines)]
    seeds = seeds_for(current.recipe, repeat)
    recipe = current.stages.changed(current.recipe, checkpoints=rule.checkpoints)
    chosen = experiment(current, recipe, seeds)
    train_all(chosen, datasets, seeds, where_to_train)
    path = installed.folder(current.benchmark.name) / "suites" / f"{rule.suite}.yaml"
    suite = load_suite(path)
    measured: dict[str, list[list[Measure]]] = {}
    with step("measure checkpoints", total=len(datasets) * len(seeds), unit="models") as bar:
        for dataset in datasets:
            for seed in seeds:
                measures = _measures(chosen[0], dataset, seed, path, suite.headline, where_to_train)
                measured.setdefault(dataset.method, []).append(measures)
                bar.advance()
    whole = float(current.stages.budget(chosen[0].recipe))
    target = _target(rule, measured[BASELINE], whole)
    speeds = [
        speed(
            method,
            [
                reached(seed, measures, target, higher_is_better=suite.higher_is_better)
                for seed, measures in zip(seeds, of_method, strict=True)
            ],
        )
        for method, of_method in measured.items()
    ]
    made = Speedrun(
        benchmark=current.benchmark.name,
        scale=current.scale.name,
        metric=suite.headline,
        target=target,
        baseline_share=rule.baseline_share,
        unit=current.benchmark.budget_unit,
        whole=whole,
        datasets=tuple(order(speeds)),
    )
    (current.desk / FILE).write_text(made.model_dump_json(indent=2))
    return made


def track_of(current: Round, repeat: int) -> str:
    """The track that speedruns are submitted to. RuleError where these runs cannot be.

    The board takes the recipe's own seeds alone.
    """
    name, seeds = current.benchmark.name, len(current.recipe.seeds)
    track = next((track.name for track in current.benchmark.tracks if track.speedrun), None)
    if track is None:
        raise RuleError(f"--submit: {name} has no track for speedruns")
    if repeat > seeds:
        raise RuleError(f"--submit: {current.scale.name} allows {seeds} seeds; lower --repeat")
    return track


def submit_speedrun(
    current: Round,
    pipelines: Sequence[Pipeline],
    *,
    repeat: int,
    where_to_train: Launch,
    team: str = "",
) -> list[Entry]:
    """A bundle of each dataset of a speedrun: its models, and scores and logs of all checkpoints.

    The final weights are evaluated by the scale's whole suite first.
    """
    rule, track = check_speedrun(current), track_of(current, repeat)
    seeds = seeds_for(current.recipe, repeat)
    recipe = current.stages.changed(current.recipe, checkpoints=rule.checkpoints)
    chosen, _ = experiment(current, recipe, seeds)
    entries = []
    for pipeline in with_baseline(current, pipelines):
        dataset = stages.curate(current, pipeline)
        runs = [Trained(method=dataset.method, home=dataset.home, seed=seed) for seed in seeds]
        stages.evaluate(chosen, runs, spread=where_to_train.spread(current.map_tasks))
        folders = [_measured_in(run, chosen) for run in runs]
        entry = stages.submit(chosen, dataset, seeds=seeds, track=track, team=team, curves=folders)
        entries.append(entry)
    return entries


def _measured_in(trained: Trained, current: Round) -> str:
    """The folder of the scores of a run's checkpoints."""
    return f"{trained.scores(current)}-speedrun"


def _target(rule: SpeedrunRule, baseline: Sequence[Sequence[Measure]], whole: float) -> float:
    """The rule's score, or the unfiltered pool's at a part of its budget, its mean over seeds."""
    if rule.target is not None:
        return rule.target
    assert rule.baseline_share is not None
    return fmean(score_at(measures, rule.baseline_share * whole) for measures in baseline)


def _measures(
    current: Round,
    dataset: Curated,
    seed: int,
    suite: Path,
    headline: str,
    where_to_train: Launch,
) -> list[Measure]:
    """The headline at every checkpoint and at the end; what was measured before stays."""
    trained = Trained(method=dataset.method, home=dataset.home, seed=seed)
    model = trained.model(current)
    out = _measured_in(trained, current)
    tasks = [
        stages.EvaluateTask(
            benchmark=current.benchmark.name,
            model=model,
            suite=str(suite),
            data=current.eval_data,
            out=f"{out}/{name or 'final'}",
            checkpoint=name,
        )
        for name in (*stages.checkpoints_of(model), None)
    ]
    missing = [task for task in tasks if not open_store(task.out).exists(RECORD)]
    spread = where_to_train.spread(current.map_tasks)
    if spread is current.map_tasks:
        current.map_tasks(stages.run_evaluation, missing)
    else:
        for task in missing:
            stages.evaluate_one(task, map_tasks=spread, remote=True)
    whole = float(current.stages.budget(current.recipe))
    steps = current.stages.num_steps(current.recipe)
    measures = []
    for task in tasks:
        score = read_scores(task.out).results.aggregates[headline]
        at = steps if task.checkpoint is None else int(task.checkpoint.removeprefix("step-"))
        measures.append(Measure(budget=whole * at / steps, value=score.value, stderr=score.stderr))
    return measures


def speedrun_text(made: Speedrun) -> str:
    """The result for a terminal."""
    rows: list[tuple[object, ...]] = []
    for number, entry in enumerate(made.datasets, start=1):
        if entry.budget is None:
            count = sum(run.budget is None for run in entry.reached)
            rows.append(("-", entry.method, f"not reached by {count} of {len(entry.reached)}", ""))
            continue
        interval = "one seed"
        if entry.low is not None and entry.high is not None:
            interval = f"{short(entry.low)} to {short(entry.high)}"
        rows.append((number, entry.method, f"{short(entry.budget)} {made.unit}", interval))
    text = table(rows, header=("rank", "dataset", "until the target", "95%"))
    share = ""
    if made.baseline_share is not None:
        share = f" (what {BASELINE} scores at {made.baseline_share:.0%} of its budget)"
    return (
        f"{made.metric.replace('_', ' ')} {made.target:g}{share} at {made.benchmark} {made.scale}, "
        f"of {short(made.whole)} {made.unit}\n\n{text}"
    )
