"""Commands around a pool of pairs: fetch it, score its pictures, bring data from elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from datacomp.errors import PoolError
from leaderboard.cli import CORES, RUNS, Cluster, Processes, Workspace
from pipelines.commands import BAD_DATA, EXIT_CODES, Json, out, show_json
from pipelines.executors import executor

EXIT_CODES |= {PoolError: BAD_DATA}

app = typer.Typer()


@app.command("score")
def score(
    name: Annotated[str, typer.Option(help="What the scores are called, in the step `scores`.")],
    scale: Annotated[str | None, typer.Option(help="Score the pool of this scale.")] = None,
    pool: Annotated[str | None, typer.Option(help="Or: folder or prefix of a pool.")] = None,
    tars: Annotated[
        str | None, typer.Option(help="The pool's tars; default: its folder `shards`.")
    ] = None,
    kind: Annotated[
        Literal["clip", "phash"],
        typer.Option(help="CLIP similarity of picture and caption, or perceptual hashes."),
    ] = "clip",
    model: Annotated[
        str, typer.Option(help="A trained model's folder, or one of open_clip: NAME/WEIGHTS.")
    ] = "",
    device: Annotated[str | None, typer.Option(help="As torch names it; default: a GPU.")] = None,
    folder: Annotated[
        str | None, typer.Option("--out", help="Default: the assets of the workspace.")
    ] = None,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave pictures that do not decode unscored.")
    ] = False,
    json: Json = False,
) -> None:
    """Give every pair of a pool a score, for steps to select by; run again to go on."""
    from datacomp import pool as pools
    from datacomp import score as scoring

    if (scale is None) == (pool is None):
        raise PoolError("say which pool: either --scale, or --pool")
    if (kind == "clip") != bool(model):
        raise PoolError("--kind clip needs --model; --kind phash has none")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        opened = pools.open_scale(scale, workspace=workspace, map_tasks=map_tasks)
        place = tars or pools.pictures(scale, workspace=workspace)
    else:
        opened = pools.open_pairs(str(pool))
        place = tars or f"{str(pool).rstrip('/')}/{pools.SHARDS}"
    spec = scoring.ScorerSpec(kind=kind, model=model, device=device)
    record = scoring.score(
        opened,
        place,
        scorer=spec,
        scorer_id=scoring.scorer_id(spec),
        name=name,
        out=folder or f"{workspace}/assets/{name}",
        map_tasks=map_tasks,
        quarantine=quarantine,
    )
    if json:
        show_json(record)
        return
    counts = record.counts
    out(
        f"scores {record.id}: {counts['scored']:,} of {counts['rows']:,} rows have one; read them "
        f"in a pipeline with the step  - scores: {{of: {name}}}"
    )
