"""Commands that only DataComp has: kmeans, register-shards, faces, train-scorer, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leaderboard.rounds.options import (
    CORES,
    RUNS,
    Gpus,
    PlanOptions,
    Processes,
    RecipeFile,
    Workspace,
)
from leaderboard.rounds.show import show_record
from pipelines.assets.catalogue import asset_files
from pipelines.console import (
    AssetFolders,
    Cluster,
    Json,
    Workers,
    out,
    show_json,
    table,
)
from pipelines.errors import PipelineError
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.option_groups import grouped

BASELINES = Path(__file__).parent / "baselines"

app = typer.Typer()

Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]


# ---- curate


@app.command("kmeans")
def kmeans(
    pool: Annotated[str, typer.Option(help="Folder or prefix of parquet and .npz files.")],
    file: Annotated[Path, typer.Option("--out", help="The .npy file of centroids.")],
    features: Annotated[str, typer.Option(help="Array of the .npz files.")] = "l14_img",
    clusters: Annotated[int, typer.Option(min=1, help="Centroids.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of Lloyd's algorithm.")] = 20,
    sample: Annotated[float, typer.Option(help="Share of the rows that is used.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, another sample and beginning.")] = 0,
    work: Annotated[
        str | None,
        typer.Option(help="Folder or prefix for passes over the pool, a round each; resumable."),
    ] = None,
    batch: Annotated[
        float, typer.Option(help="With --work: part of the rows that a round sees (mini-batch).")
    ] = 1.0,
    parts: Annotated[
        int, typer.Option(min=1, help="With --work: tasks of a round; the result depends on it.")
    ] = 8,
    qualify: Annotated[
        str | None, typer.Option(help="With --work: a pipeline of filters that rows pass first.")
    ] = None,
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Train the centroids of a pool's features, for near_targets and embedding_dedup.

    Without --work the features are held in memory. With it every round is a pass over the tables by
    several processes, a cluster or GPUs, and a run that was stopped continues.
    """
    from datacomp.curation import kmeans as centroids
    from datacomp.curation import kmeans_rounds
    from pipelines.images.pairs import open_pairs
    from pipelines.pipeline import Pipeline

    for name, share in (("sample", sample), ("batch", batch)):
        if not 0 < share <= 1:
            raise PipelineError(f"--{name} {share}: expected a share above 0 and up to 1")
    if work is None:
        if batch < 1 or qualify is not None or cluster is not None:
            raise PipelineError("--batch, --qualify and --cluster need --work FOLDER")
        record = centroids.train_centroids(
            open_pairs(pool),
            file,
            features=features,
            clusters=clusters,
            rounds=rounds,
            sample=sample,
            seed=seed,
        )
    else:
        rules = Pipeline.load(Path(qualify), assets=asset_files(assets)) if qualify else None
        record = kmeans_rounds.train_by_rounds(
            open_pairs(pool),
            file,
            work=work,
            options=kmeans_rounds.Options(
                features=features,
                clusters=clusters,
                rounds=rounds,
                sample=sample,
                batch=batch,
                seed=seed,
                parts=parts,
            ),
            qualify=rules,
            map_tasks=executor(workers, cluster=cluster),
        )
    if json:
        show_json(record)
    else:
        rows = record.counts["rows"]
        out(f"asset {record.id} in {file}: {clusters:,} centroids of {rows:,} rows")


# ---- pack


@app.command("register-shards")
def register_shards(
    folder: Annotated[str, typer.Argument(help="What a resharder wrote: meta.json and tars.")],
    scale: Scale,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Let shards that another resharder made be trained on; they count for track byod only."""
    from datacomp.packing import pack
    from datacomp.recipe import load_recipe

    pack.register_shards(folder, recipe=load_recipe(recipe or scale))
    show_record(folder, json=json)


# ---- train


@app.command("faces")
def faces(
    tars: Annotated[str, typer.Option(help="Folder or prefix with the tars of a pool.")],
    out_uri: Annotated[str, typer.Option("--out", help="Where the tables and faces.json go.")],
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Detect the faces of a pool's images, so that `pack --blur-map` can blur them."""
    from pipelines.images.find_faces import MAP, find_faces

    record = find_faces(
        tars,
        out=out_uri,
        assets=asset_files(assets),
        map_tasks=executor(workers, cluster=cluster),
    )
    if json:
        show_json(record)
        return
    counts = record.counts
    out(
        f"{counts['faces']:,} faces in {counts['images_with_faces']:,} of "
        f"{counts['samples']:,} images; blur them with: datacomp pack ... "
        f"--blur-map {out_uri}/{MAP} --apply-blur"
    )
    if counts.get("undecodable"):
        out(f"{counts['undecodable']:,} images do not decode, so no face was looked for")
    if counts.get("no_uid"):
        out(f"{counts['no_uid']:,} samples have no uid, and so no row")


@app.command("train-scorer")
def train_scorer(
    scale: Scale,
    workspace: Workspace = RUNS,
    pipeline: Annotated[
        str, typer.Option(help="Trained on what this baseline or file leaves of the pool.")
    ] = "no_filter",
    name: Annotated[
        str | None, typer.Option(help="What a step `scores` calls it; needed above tiny.")
    ] = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    gpus: Gpus = None,
    json: Json = False,
) -> None:
    """Train a CLIP on a part of a scale's pool, or all of it, and score the pool with it."""
    from leaderboard.rounds.workspace import open_round

    if name is None and (scale != "tiny" or pipeline != "no_filter"):
        raise PipelineError(
            f"--scale {scale} --pipeline {pipeline}: give the scores a name, as --name mine"
        )
    from datacomp.curation import tiny_clip
    from leaderboard.rounds import launch

    map_tasks = executor(workers, cluster=cluster)
    current = open_round("datacomp", scale, workspace=workspace, map_tasks=map_tasks)
    placement = launch.choose(cluster=cluster, gpus=gpus)
    placement = launch.prepare(placement, current.stages, current.recipe, fixed=gpus is not None)
    record = tiny_clip.train_scorer(
        current, pipeline=pipeline, name=name or tiny_clip.NAME, placement=placement
    )
    if json:
        show_json(record)
        return
    counts = record.counts
    out(
        f"scores {record.id} ({record.work.name}): {counts['scored']:,} of {counts['rows']:,} pairs"
    )


@app.command("train-head")
def train_head(
    pool: Annotated[str, typer.Option(help="Folder or prefix of parquet and .npz files.")],
    positives: Annotated[str, typer.Option(help="A list of uids of good pairs: .npy or raw.")],
    file: Annotated[Path, typer.Option("--out", help="The .npz file of the head.")],
    negatives: Annotated[
        str | None, typer.Option(help="A list of others; default: all other pairs.")
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="Arrays of the .npz files; default: l14_img, l14_txt.")
    ] = None,
    hidden: Annotated[int, typer.Option(min=0, help="Hidden units; 0: a logistic regression.")] = 0,
    pairs: Annotated[
        int, typer.Option(min=1, help="Most pairs of each label, by the hash of uids.")
    ] = 200_000,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Part of the pairs kept for testing.")
    ] = 0.1,
    epochs: Annotated[int, typer.Option(min=1, help="Passes, with hidden units.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the training.")] = 0,
    work: Annotated[
        str | None, typer.Option(help="Where the sample is drawn; default: beside the file.")
    ] = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Train a head over a pool's features, for the step feature_score; an asset with a record."""
    from datacomp.curation import head
    from pipelines.images.pairs import open_pairs
    from pipelines.scoring.commands import show_classifier

    record = head.train_head(
        open_pairs(pool),
        positives,
        negatives=negatives,
        out=file,
        options=head.HeadOptions(
            features=tuple(features or ("l14_img", "l14_txt")),
            hidden=hidden,
            pairs=pairs,
            held_out=held_out,
            epochs=epochs,
            seed=seed,
        ),
        map_tasks=executor(workers, cluster=cluster),
        work=work,
    )
    show_classifier(record, [], json=json)


# ---- plan


@app.command("plan")
@grouped
def plan(
    *,
    scale: Scale,
    data: Annotated[
        str | None, typer.Option("--data", "--packed", help="Packed shards: how often seen?")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Samples a second of one GPU; default: the published.")
    ] = None,
    options: PlanOptions,
    json: Json = False,
) -> None:
    """Report what a training run needs: memory, hours, cost, loaders; refuse the impossible."""
    from datacomp import plan as planning
    from datacomp.recipe import load_recipe
    from leaderboard.rounds.gpus import gpu_named

    if options.show_power("datacomp", scale, json=json):
        return
    gpus = options.num_gpus()
    available = None
    if data is not None:
        from pipelines.storage.chain import read_chain
        from pipelines.storage.open import open_store

        available = read_chain(open_store(data))[-1].counts["samples"]
    made = planning.plan(
        load_recipe(options.recipe or scale),
        num_gpus=gpus,
        gpu=options.gpu,
        samples_available=available,
        rate=rate,
        dollars_per_hour=options.price,
    )
    if json:
        show_json(made)
        return
    room = gpu_named(options.gpu).memory_bytes
    rows = [
        ("GPUs", f"{made.num_gpus} {made.gpu}"),
        ("memory", f"{made.memory_bytes / 1e9:.1f} GB a GPU of {room / 1e9:.0f}"),
        ("batch of a GPU", f"{made.samples_per_gpu:,} samples, {made.parts} times a step"),
        ("checkpoint", f"{made.checkpoint_bytes / 1e9:.2f} GB, two for a moment"),
        ("steps", f"{made.num_steps:,}"),
        ("samples seen", f"{made.samples:,}"),
        ("FLOPs of a sample", f"{made.flops_per_sample / 1e9:.1f} G"),
        ("samples/s", f"{made.samples_per_second:,.0f}"),
        ("hours", f"{made.hours:,.1f} ({made.gpu_hours:,.0f} GPU-hours, ${made.dollars:,.0f})"),
        (
            "loaders of a GPU",
            f"{made.images_per_second:,.0f} images/s, {made.cores_per_gpu:.1f} cores",
        ),
    ]
    if made.passes is not None:
        rows.append(("passes over the data", f"{made.passes:.2f}"))
    out(table(rows, header=(f"plan of {made.scale}", "")))
    for warning in made.warnings:
        say(f"note: {warning}")
