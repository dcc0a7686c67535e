"""`speedrun`: how much training a dataset takes until a model is as good as the scale's target.

Everything but the data is the rule book's: the recipe (with more checkpoints), the suite, the
target. The unfiltered pool runs beside the others. Runs are kept in the workspace; the result is in
`<workspace>/<benchmark>-<scale>/speedrun.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals.suite import load_suite
from leaderboard.benchmark import desk
from leaderboard.board.speed import Measure, Speed, order, reached, speed
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.experiments import Experiment, experiment, read_scores, seeds_for
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.training import Trained
from leaderboard.rounds.workspace import Curated, Round, is_done
from leaderboard.rules import SpeedrunRule
from leaderboard.submissions.results import BASELINE
from pipelines import installed
from pipelines.console import table
from pipelines.errors import RuleError
from pipelines.execution.progress import short, step
from pipelines.pipeline import Pipeline
from pipelines.records import Frozen

FILE = "speedrun.json"


class Speedrun(Frozen):
    """All datasets, fastest first."""

    benchmark: str
    scale: str
    metric: str
    target: float
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
    names = {pipeline.name for pipeline in pipelines}
    plain = [] if BASELINE in names else [stages.find_pipeline(current, BASELINE)]
    datasets = [stages.curate(current, pipeline) for pipeline in [*plain, *pipelines]]
    seeds = seeds_for(current.recipe, repeat)
    recipe = current.stages.changed(current.recipe, checkpoints=rule.checkpoints)
    chosen = experiment(current, recipe, seeds)
    _train(chosen, datasets, seeds, where_to_train)
    suite = installed.folder(current.benchmark.name) / "suites" / f"{rule.suite}.yaml"
    headline = load_suite(suite).headline
    higher = next(a.higher_is_better for a in load_suite(suite).aggregates if a.name == headline)
    speeds = []
    with step("measure checkpoints", total=len(datasets) * len(seeds), unit="models") as bar:
        for dataset in datasets:
            runs = []
            for seed in seeds:
                measures = _measures(chosen, dataset, seed, suite, headline, where_to_train)
                runs.append(reached(seed, measures, rule.target, higher_is_better=higher))
                bar.advance()
            speeds.append(speed(dataset.method, runs))
    made = Speedrun(
        benchmark=current.benchmark.name,
        scale=current.scale.name,
        metric=headline,
        target=rule.target,
        unit=current.benchmark.budget_unit,
        whole=float(current.stages.budget(chosen[0].recipe)),
        datasets=tuple(order(speeds)),
    )
    folder = desk(current.workspace) / f"{current.benchmark.name}-{current.scale.name}"
    (folder / FILE).write_text(made.model_dump_json(indent=2))
    return made


def _train(
    chosen: Experiment, datasets: Sequence[Curated], seeds: Sequence[int], where_to_train: Launch
) -> None:
    current, recipe = chosen
    arms = [(dataset, stages.pack(current, dataset)) for dataset in datasets]
    run = None
    if not where_to_train.side_by_side:
        run = launch.trainer(where_to_train, training.run_training)
    training.train(current, arms, seeds=seeds, recipe=recipe, run=run)


def _measures(
    chosen: Experiment,
    dataset: Curated,
    seed: int,
    suite: Path,
    headline: str,
    where_to_train: Launch,
) -> list[Measure]:
    """The headline at every checkpoint and at the end; what was measured before stays."""
    current, _ = chosen
    trained = Trained(method=dataset.method, home=dataset.home, seed=seed)
    model = trained.model(current)
    out = f"{trained.scores(current)}-speedrun"
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
    missing = [task for task in tasks if not is_scored(task.out)]
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


def is_scored(folder: str) -> bool:
    """Whether an evaluation is finished; those of checkpoints have no chain beside them."""
    from pipelines.storage.chain import RECORD
    from pipelines.storage.open import open_store

    return is_done(folder) or open_store(folder).exists(RECORD)


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
    return (
        f"{made.metric.replace('_', ' ')} {made.target:g} at {made.benchmark} {made.scale}, of "
        f"{short(made.whole)} {made.unit}\n\n{text}"
    )
