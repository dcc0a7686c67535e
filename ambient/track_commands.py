"""Commands of two tracks: `estimate` and `reveal` of `unknown`, `solve` of `solver`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard.rounds.options import RUNS, Workspace
from pipelines.console import Json, out, show_json, table

app = typer.Typer()

Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, another classifier.")]


@app.command("estimate")
def estimate(
    scale: Scale,
    track: Annotated[str, typer.Option(help="A track that withholds corruption.")] = "unknown",
    workspace: Workspace = RUNS,
    steps: Annotated[int, typer.Option(min=1, help="Of training the classifier.")] = 800,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Estimate from which noise level on each image of unknown corruption may teach.

    The step `scores: {of: sigma_min}` reads what this writes into the workspace's assets.
    """
    from ambient.extra import ambient_extra
    from leaderboard.benchmark import desk
    from leaderboard.rounds.workspace import open_round
    from pipelines.execution.executors import map_here

    current = open_round("ambient", scale, workspace=workspace, map_tasks=map_here, track=track)
    pool = current.open_pool()
    with ambient_extra():
        from ambient import estimates

        folder = desk(workspace) / "assets" / estimates.NAME
        record = estimates.estimate(pool, out=str(folder), num_steps=steps, seed=seed)
    if json:
        show_json(record)
        return
    counts = record.counts
    out(f"{folder}: {counts['images']:,} images, {counts['never']:,} that never pass for clean")


@app.command("reveal")
def reveal(
    dataset: Annotated[str, typer.Argument(help="A curated dataset of track `unknown`.")],
    withheld: Annotated[Path, typer.Option(help="The organiser's table of its pool.")],
    json: Json = False,
) -> None:
    """Show what a dataset took of each corruption that its pool withheld from it."""
    from ambient.extra import ambient_extra

    with ambient_extra():
        from ambient.estimates import reveal as revealed

        rows = revealed(dataset, withheld)
    if json:
        show_json([row.model_dump(mode="json") for row in rows])
        return
    shown = [
        (
            row.corruption,
            f"{row.level:g}",
            row.in_pool,
            row.kept,
            "" if row.sigma_min is None else f"{row.sigma_min:.3g}",
        )
        for row in rows
    ]
    out(table(shown, header=("corruption", "level", "in the pool", "kept", "median sigma_min")))


@app.command("solve")
def solve(
    model: Annotated[str, typer.Argument(help="A folder that `ambient train` finished.")],
    solver: Annotated[
        str, typer.Option(help="A solver's .yaml file, or the name of a built-in sampler.")
    ],
    scale: Scale,
    scores: Annotated[str, typer.Option("--out", help="Where the scores go.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of evaluation data; default: the workspace's.")
    ] = None,
    workspace: Workspace = RUNS,
    json: Json = False,
) -> None:
    """Restore the held-out images of a scale of track `solver` with a solver of your own."""
    from ambient.extra import ambient_extra
    from evals.reports import scores_text
    from evals.run import run
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round
    from pipelines.execution.executors import map_here
    from pipelines.storage.chain import read_chain, write_chain
    from pipelines.storage.open import open_store

    current = open_round("ambient", scale, workspace=workspace, map_tasks=map_here, data=data)
    with ambient_extra():
        from ambient.eval_model import load
        from evals.images.solvers import Solved, named_solver

        solved = Solved(load(model), named_solver(solver))
        record = run(solved, suite=stages.suite_name(current), data=current.eval_data, out=scores)
    write_chain(open_store(scores), read_chain(open_store(model)))
    if json:
        show_json(record)
    else:
        out(scores_text(record))
