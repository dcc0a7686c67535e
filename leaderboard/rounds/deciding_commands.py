"""Commands of a benchmark about what its runs can show: `noise`, `sweep`, `cross`, `speedrun`."""

from __future__ import annotations

from typing import Annotated

import typer

from leaderboard.rounds.options import Resources, Scale
from pipelines.console import Json, out, show_json
from pipelines.execution.progress import say

Seeds = Annotated[int, typer.Option("--repeat", min=1, help="Train this many of the seeds.")]


def noise_command(
    *,
    benchmark: str,
    scale: Scale,
    pipeline: Annotated[
        str, typer.Option(help="The dataset to train again and again: a .yaml file or a baseline.")
    ] = "no_filter",
    seeds: Annotated[int, typer.Option(min=2, help="Initialisations, in every order.")] = 3,
    orders: Annotated[int, typer.Option(min=1, help="Orders of the data.")] = 3,
    draws: Annotated[
        int, typer.Option(min=1, help="Random samples of the pool, trained once each; 1: none.")
    ] = 3,
    sample: Annotated[
        str | None,
        typer.Option(help="The pipeline that samples; default: the baseline random_same_size."),
    ] = None,
    resources: Resources,
    json: Json = False,
) -> None:
    """Measure how far a score moves when the method does not; `plan` and `run` read it.

    It trains seeds x orders + draws - 1 models; run again to resume, or with more of them.
    """
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.noise import Design, measure_noise, noise_text, random_sample

    current = resources.open_round(benchmark, scale)
    placement = resources.launch(current)
    sampled = sample or random_sample(benchmark)
    report = measure_noise(
        current,
        stages.find_pipeline(current, pipeline),
        Design(seeds=seeds, orders=orders, draws=draws),
        sample=stages.find_pipeline(current, sampled) if sampled and draws > 1 else None,
        where_to_train=placement,
    )
    if json:
        show_json(report)
    else:
        out(noise_text(report))


def sweep_command(
    *,
    benchmark: str,
    pipeline: Annotated[str, typer.Argument(help="A .yaml file or a baseline.")],
    scale: Scale,
    over: Annotated[
        list[str],
        typer.Option(help="PARAMETER=V1,V2 or OPERATOR.PARAMETER=V1,V2; may be repeated."),
    ],
    repeat: Seeds = 1,
    resources: Resources,
    json: Json = False,
) -> None:
    """Train every combination of some parameters, and the unfiltered pool, and table them.

    Passes that the points share are run once. All points count as tries, and the intervals account
    for choosing the best of them. Run again to resume.
    """
    from leaderboard.rounds import round as stages
    from leaderboard.rounds import sweep as sweeping

    current = resources.open_round(benchmark, scale)
    placement = resources.launch(current)
    whole = stages.find_pipeline(current, pipeline)
    made = sweeping.sweep(
        current,
        whole,
        [sweeping.parse_over(whole, text) for text in over],
        seeds=list(current.recipe.seeds)[:repeat],
        where_to_train=placement,
    )
    if json:
        show_json(made)
    else:
        out(sweeping.sweep_text(made))


def cross_command(
    *,
    benchmark: str,
    scale: Scale,
    pipeline: Annotated[
        list[str], typer.Option(help="A .yaml file or a baseline; may be repeated.")
    ],
    budgets: Annotated[
        str, typer.Option(help="Parts of the scale's budget, at least four.")
    ] = "0.25,0.5,1,2",
    repeat: Seeds = 1,
    plot: Annotated[str | None, typer.Option(help="Write the curves as an SVG file.")] = None,
    resources: Resources,
    json: Json = False,
) -> None:
    """Train datasets at several budgets: where do two cross, and what is a filter worth?

    The unfiltered pool is always one of the curves. Run again to resume, or with more budgets.
    """
    from pathlib import Path

    from leaderboard.rounds import budgets as crossing
    from leaderboard.rounds import round as stages

    parts = crossing.budgets_of(budgets)
    current = resources.open_round(benchmark, scale)
    placement = resources.launch(current)
    made = crossing.curves(
        current,
        [stages.find_pipeline(current, name) for name in pipeline],
        parts,
        repeat=repeat,
        where_to_train=placement,
    )
    if plot is not None:
        Path(plot).write_text(crossing.curves_plot(made), encoding="utf-8")
    if json:
        show_json(made)
    else:
        out(crossing.curves_text(made))


def speedrun_command(
    *,
    benchmark: str,
    scale: Scale,
    pipeline: Annotated[
        list[str], typer.Option(help="A .yaml file or a baseline; may be repeated.")
    ],
    repeat: Seeds = 3,
    submit: Annotated[
        bool,
        typer.Option("--submit", help="Write a bundle of each dataset for the speedrun track."),
    ] = False,
    team: Annotated[str, typer.Option(help="Your team's name on the board.")] = "",
    resources: Resources,
    json: Json = False,
) -> None:
    """How much training does a dataset take to the scale's target? Only the data may change.

    The recipe is the scale's, measured at more checkpoints; the unfiltered pool runs with it.
    """
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.checks_before import check_names
    from leaderboard.rounds.experiments import with_baseline
    from leaderboard.rounds.speedrun import (
        check_speedrun,
        speedrun,
        speedrun_text,
        submit_speedrun,
        track_of,
    )

    current = resources.open_round(benchmark, scale)
    placement = resources.launch(current)
    check_speedrun(current)
    pipelines = [stages.find_pipeline(current, name) for name in pipeline]
    if submit:  # before hours are spent
        track_of(current, repeat)
        check_names(benchmark, with_baseline(current, pipelines), method=None, team=team)
    made = speedrun(current, pipelines, repeat=repeat, where_to_train=placement)
    if json:
        show_json(made)
    else:
        out(speedrun_text(made))
    if submit:
        entries = submit_speedrun(
            current, pipelines, repeat=repeat, where_to_train=placement, team=team
        )
        for entry in entries:
            say(f"submission {entry.record.id} in {entry.folder}: all rules hold")
