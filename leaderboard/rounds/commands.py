"""The stages of a round as commands, for any benchmark: `dclm run`, `dclm curate`, ...

A benchmark's `__main__` calls `command_line(name)`. Each stage is a function (those of one stage in
`data_commands` and `model_commands`), bound to the benchmark's name and to its model of further
options; a benchmark adds commands of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leaderboard import rules
from leaderboard.benchmark import desk, load_stages
from leaderboard.rounds.data_commands import (
    baselines_command,
    curate_command,
    pack_command,
    pool_command,
    publish_command,
    register_command,
)
from leaderboard.rounds.deciding_commands import (
    cross_command,
    noise_command,
    speedrun_command,
    sweep_command,
)
from leaderboard.rounds.model_commands import evaluate_command, submit_command, train_command
from leaderboard.rounds.options import Quarantine, RecipeFile, Resources, Scale, bind
from leaderboard.rounds.show import show_board
from pipelines.console import Json, out, show_json
from pipelines.errors import RuleError, TrainingError
from pipelines.execution.progress import say

if TYPE_CHECKING:
    from leaderboard.rounds.notebook import Line, Notebook
    from leaderboard.rounds.workspace import Curated, Round
    from leaderboard.submissions.submission import Entry


def command_line(name: str) -> typer.Typer:
    """The command line of a benchmark."""
    book = rules.load_benchmark(name)
    app = typer.Typer(
        name=name,
        help=f"{book.title}: curate, pack, train, evaluate, submit.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    stages = load_stages(name)
    options = {
        "register": stages.register_options,
        "pack": stages.pack_options,
        "train": stages.train_options,
    }
    own = stages.commands().registered_commands
    replaced = {command.name for command in own}
    for stage, function in STAGES.items():
        if stage not in replaced:
            app.command(stage)(bind(function, benchmark=name, options=options.get(stage)))
    app.registered_commands += own
    return app


def run_command(
    *,
    benchmark: str,
    scale: Scale,
    pipeline: Annotated[
        list[str], typer.Option(help="A .yaml file or a baseline; may be repeated.")
    ],
    repeat: Annotated[int, typer.Option(min=1, help="Train this many of the seeds.")] = 1,
    resample: Annotated[
        int, typer.Option(min=1, help="Draw the sample of a sampled pipeline so many times.")
    ] = 1,
    resources: Resources,
    track: Annotated[str, typer.Option(help="What you touched.")] = "filtering",
    method: Annotated[
        str | None, typer.Option(help="Name on the board; default: the pipeline's.")
    ] = None,
    team: Annotated[str, typer.Option(help="Your team's name on the board.")] = "",
    recipe: RecipeFile = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder or URI of evaluation data, or `hub`; default: the workspace's."),
    ] = None,
    recipe_check: Annotated[
        Literal["low-rate"] | None,
        typer.Option(help="Train again at a tenth of the learning rate: does the order stay?"),
    ] = None,
    quarantine: Quarantine = False,
    json: Json = False,
) -> None:
    """A whole round: curate, pack, train, evaluate, submit. Run again to resume.

    Training and evaluation use all GPUs of this machine, or of the cluster, and say so first.
    """
    from leaderboard.board.flips import flips_text
    from leaderboard.rounds import launch, training
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.budgets import check_low_rate, low_rate
    from leaderboard.rounds.checks_before import check_eval_data, check_names, check_track
    from leaderboard.rounds.deciding import power_before
    from leaderboard.rounds.notebook import Notebook, noted

    workspace = resources.workspace
    current = resources.open_round(benchmark, scale, recipe=recipe, data=data, track=track)
    seeds = list(current.recipe.seeds)[:repeat]
    if len(seeds) < repeat:
        raise RuleError(f"--repeat {repeat}: scale {scale} allows {len(seeds)} seeds")
    check_track(current.benchmark, scale, track)  # before hours are spent
    if recipe_check is not None:
        check_low_rate(current, num_methods=len(pipeline) * resample, num_seeds=repeat)
    if method is not None and (len(pipeline) > 1 or resample > 1):
        raise RuleError("--method names one pipeline; leave it out with several")
    draws = [
        (path, drawn)
        for path in pipeline
        for drawn in stages.draws_of(stages.find_pipeline(current, path), resample)
    ]
    if current.official:
        check_names(benchmark, [drawn for _, drawn in draws], method=method, team=team)
    if data is not None:
        check_eval_data(benchmark, current.scale.suite, data, built=True)
    placement = resources.launch(current)
    run = launch.round_trainer(placement, training.run_training)
    arms = []
    baselines = []
    for path, drawn in draws:
        curated = stages.curate(current, drawn, quarantine=quarantine)
        packed = stages.pack(current, curated)
        stages.check_price(current, track, packed)  # before hours are spent
        arms.append((curated, packed))
        baselines.append(path in rules.baselines(benchmark))
    power = power_before(benchmark, scale, seeds=repeat, workspace=workspace)
    if power is not None:
        say(power.line)
    book = Notebook(workspace, benchmark, scale)
    starts = [
        book.start(arm.method, arm.record, tuple(seeds), baseline=baseline)
        for (arm, _), baseline in zip(arms, baselines, strict=True)
    ]
    failures: dict[str, str] = {}
    with noted(book, starts):
        trained = training.train(
            current,
            arms,
            seeds=seeds,
            recipe=recipe or current.scale.recipe,
            run=run,
            failures=failures,
        )
        stages.evaluate(current, trained, spread=placement.spread(current.map_tasks))
    done = [curated for curated, _ in arms if curated.method not in failures]
    if recipe_check is not None and len(done) > 1:
        say(flips_text(low_rate(current, done, seeds=seeds, where_to_train=placement)))
    if not current.official:
        say("trained under an experimental recipe: evaluated, but not submitted")
        return
    how = {"seeds": seeds, "track": track, "method": method, "team": team}
    entries = _submitted(current, arms, starts, book, failures, **how)
    if entries:
        show_board(desk(workspace) / "submissions", json=json, only=[e.record.id for e in entries])
    if failures:
        stopped = "; ".join(f"{name}: {text}" for name, text in failures.items())
        raise TrainingError(f"{len(failures)} of {len(arms)} methods were not trained: {stopped}")


def _submitted(
    current: Round,
    arms: Sequence[tuple[Curated, str]],
    starts: Sequence[Line],
    book: Notebook,
    failures: Mapping[str, str],
    **how: Any,
) -> list[Entry]:
    """Submit every method that was trained, and note the score of each in the notebook."""
    from evals.suite import load_suite
    from leaderboard.rounds import round as stages
    from leaderboard.submissions.chain import seeds_of

    entries = []
    headline = load_suite(stages.suite_name(current)).headline
    for (curated, _), start in zip(arms, starts, strict=True):
        if curated.method in failures:
            book.follow(start, "failed", text=failures[curated.method][:2000])
            continue
        tries = None if start.baseline else book.tries()
        entry = stages.submit(current, curated, tries=tries, **how)
        entries.append(entry)
        score = next(iter(seeds_of(entry.record).values())).results
        book.follow(start, "scored", metric=headline, value=score.aggregates[headline].value)
    return entries


def ablate_command(
    *,
    benchmark: str,
    pipeline: Annotated[str, typer.Argument(help="A .yaml file or a baseline.")],
    scale: Scale,
    drop_each: Annotated[
        bool, typer.Option("--drop-each", help="Take out every step in turn.")
    ] = False,
    drop: Annotated[
        list[int] | None, typer.Option(help="Take out this step (from 1); may be repeated.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Train this many of the seeds.")] = 1,
    resources: Resources,
    json: Json = False,
) -> None:
    """Play the round without each step in turn: what is a step worth?"""
    from leaderboard.rounds import ablate as ablation
    from leaderboard.rounds import round as stages

    if drop_each == bool(drop):
        raise RuleError("say which steps: either --drop-each, or --drop N")
    current = resources.open_round(benchmark, scale)
    whole = stages.find_pipeline(current, pipeline)
    placement = resources.launch(current)
    ablation_ = ablation.ablate(
        current,
        whole,
        where_to_train=placement,
        steps=ablation.chosen_steps(whole, drop),
        seeds=list(current.recipe.seeds)[:repeat],
    )
    if json:
        show_json(ablation_)
    else:
        out(ablation.ablation_text(ablation_))


STAGES: dict[str, Callable[..., None]] = {
    "run": run_command,
    "pool": pool_command,
    "curate": curate_command,
    "register": register_command,
    "pack": pack_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "submit": submit_command,
    "publish": publish_command,
    "ablate": ablate_command,
    "baselines": baselines_command,
    "noise": noise_command,
    "sweep": sweep_command,
    "cross": cross_command,
    "speedrun": speedrun_command,
}
"""Every stage by its command's name; a benchmark's own command of a name takes its place."""
