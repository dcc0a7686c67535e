"""Commands that only DataComp has, and its own forms of `curate`, `pack`, `train` and `evaluate`.

Under torchrun and Slurm every process runs `datacomp train`; only the first one prints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leaderboard.rounds.commands import (
    CORES,
    RUNS,
    Cluster,
    Processes,
    RecipeFile,
    Workspace,
    absolute,
    show_record,
    train_where,
)
from pipelines.console import (
    AssetFolders,
    Json,
    Workers,
    out,
    show_json,
    table,
)
from pipelines.errors import PackError
from pipelines.execution.choose import executor
from pipelines.execution.progress import console, say, step
from pipelines.operators import PipelineError

if TYPE_CHECKING:
    from pipelines.engine.run import Result
    from pipelines.pipeline import Pipeline
    from pipelines.records import ScoresRecord

BASELINES = Path(__file__).parent / "baselines"
SHARD_SIZE, GROUP_SHARDS = 10_000, 64  # as of datacomp.shards, which is imported when it is needed

app = typer.Typer()

Scale = Annotated[str, typer.Option(help="The scale, as in the rule book.")]


# ---- curate


@app.command("curate")
def curate(
    config: Annotated[
        str | None, typer.Argument(help="A pipeline's YAML file, or a baseline's name.")
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="The same as the argument, as other benchmarks have it.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Curate the pool of this scale, into the workspace.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Or: folder or prefix of a pool's parquet files.")
    ] = None,
    out_uri: Annotated[
        str | None, typer.Option("--out", help="With --pool: where the list of uids goes.")
    ] = None,
    workspace: Workspace = RUNS,
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave out rows whose uid is none, and count them.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a pipeline over a pool's tables; writes the sorted list of the uids that stay."""
    name = config or pipeline
    if name is None or (config and pipeline):
        raise PipelineError("name one pipeline: a .yaml file or a baseline")
    if (scale is None) == (pool is None):
        raise PipelineError("say which pool: either --scale, or --pool with --out")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        from leaderboard.rounds import round as stages
        from leaderboard.rounds.workspace import open_round
        from pipelines.engine.run import read_summary

        current = open_round("datacomp", scale, workspace=workspace, map_tasks=map_tasks)
        made = stages.curate(current, stages.find_pipeline(current, name), quarantine=quarantine)
        _show_curated(made.dataset, made.record, read_summary(made.dataset), json=json)
        return
    if out_uri is None:
        raise PipelineError("--pool needs --out: where the list of uids goes")
    result = _curate_pool(name, str(pool), out_uri, map_tasks, assets, quarantine=quarantine)
    if result.skipped:
        say(f"{out_uri}: this run is already done")
    _show_curated(out_uri, result.record, result.summary, json=json)


def _curate_pool(
    name: str,
    pool: str,
    out_uri: str,
    map_tasks: Any,
    assets: list[str] | None,
    *,
    quarantine: bool,
) -> Result:
    from datacomp.curation.curate import curate as curate_pool
    from datacomp.pool.pool import open_pairs
    from pipelines.reports import run_page
    from pipelines.storage.open import open_store

    result = curate_pool(
        find(name, assets),
        open_pairs(pool),
        out=out_uri,
        map_tasks=map_tasks,
        quarantine=quarantine,
    )
    run_page.write(open_store(out_uri), result)
    return result


def _show_curated(folder: str, record: Any, summary: Any, *, json: bool) -> None:
    from pipelines.formats.uid_subset import SUBSET_FILE
    from pipelines.reports import funnel

    if json:
        show_json({"folder": folder, "record": record, "summary": summary})
        return
    out(funnel.funnel_text(summary))
    kept, read = record.counts["rows_out"], record.counts["rows_in"]
    out(f"\ndataset {record.id}: {kept:,} of {read:,} pairs, in {folder}/{SUBSET_FILE}")


def find(name: str, assets: list[str] | None = None) -> Pipeline:
    """A pipeline by file, or a baseline by name. PipelineError lists the baselines there are."""
    from pipelines.assets.catalogue import Assets
    from pipelines.pipeline import Pipeline

    folders = Assets(folders=tuple(Path(folder) for folder in assets or ()))
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = BASELINES / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in BASELINES.glob("*.yaml")))
            raise PipelineError(
                f"there is no baseline {name!r}; give a .yaml file or one of: {known}"
            )
    return Pipeline.load(path, assets=folders)


@app.command("kmeans")
def kmeans(
    pool: Annotated[str, typer.Option(help="Folder or prefix of parquet and .npz files.")],
    file: Annotated[Path, typer.Option("--out", help="The .npy file of centroids.")],
    features: Annotated[str, typer.Option(help="Array of the .npz files.")] = "l14_img",
    clusters: Annotated[int, typer.Option(min=1, help="Centroids.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of Lloyd's algorithm.")] = 20,
    sample: Annotated[float, typer.Option(help="Share of the rows that is used.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed, another sample and beginning.")] = 0,
    json: Json = False,
) -> None:
    """Train the centroids of a pool's picture features, for the filter near_targets."""
    from datacomp.curation import kmeans as centroids
    from datacomp.pool.pool import open_pairs

    if not 0 < sample <= 1:
        raise PipelineError(f"--sample {sample}: expected a share above 0 and up to 1")
    record = centroids.train_centroids(
        open_pairs(pool),
        file,
        features=features,
        clusters=clusters,
        rounds=rounds,
        sample=sample,
        seed=seed,
    )
    if json:
        show_json(record)
    else:
        rows = record.counts["rows"]
        out(f"asset {record.id} in {file}: {clusters:,} centroids of {rows:,} rows")


# ---- pack


@app.command("pack")
def pack(
    out_uri: Annotated[str, typer.Option("--out", help="Where the training shards go.")],
    scale: Annotated[
        str | None, typer.Option(help="Pack a curated dataset for the recipe of this scale.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="With --scale: the folder of the dataset.")
    ] = None,
    tars: Annotated[
        str | None, typer.Option("--tars", "--input", help="The pool's tars; default: the pool's.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Or: a list of uids, .npy or raw records, for --input.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="With --subset: samples of an output shard.")
    ] = SHARD_SIZE,
    group_shards: Annotated[
        int, typer.Option(min=1, help="With --subset: input shards that are packed together.")
    ] = GROUP_SHARDS,
    workers: Workers = 1,
    cluster: Cluster = None,
    blur_map: Annotated[
        str | None, typer.Option(help="With --subset: which table has the faces of which tars.")
    ] = None,
    apply_blur: Annotated[
        bool, typer.Option("--apply-blur", help="Blur the faces; pictures become WebP.")
    ] = False,
    inject_faces: Annotated[
        bool, typer.Option("--inject-faces", help="Add face_bboxes to each sample's json.")
    ] = False,
    webp_quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of pictures that are blurred.")
    ] = 100,
    repeats: Annotated[
        Literal["all", "first"],
        typer.Option(help="With --subset: samples whose uid was there before, as the reference."),
    ] = "all",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the folder of other work first.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take what is whole of damaged tars.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be copied; write nothing.")
    ] = False,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Copy the samples of a dataset, or of a bare list of uids, from a pool's tars into shards.

    With --scale and --dataset the shards get a record, and can be trained on and submitted.
    """
    from datacomp.packing import pack
    from datacomp.recipe import load_recipe
    from pipelines.images import reshard
    from pipelines.images.faces import FaceOptions

    map_tasks = executor(workers, cluster=cluster)
    if scale is not None and dataset is not None and subset is None:
        pack.pack_dataset(
            dataset,
            recipe=load_recipe(recipe or scale),
            out=out_uri,
            map_tasks=map_tasks,
            tars=tars,
        )
        show_record(out_uri, json=json)
        return
    if subset is None or tars is None or dataset is not None:
        raise PackError("give either --scale with --dataset, or --input with --subset")
    if (blur_map is None) == (apply_blur or inject_faces):
        raise PackError("--blur-map goes with --apply-blur, with --inject-faces, or with both")
    faces = None
    if blur_map is not None:
        faces = FaceOptions(
            map=blur_map, apply=apply_blur, inject=inject_faces, quality=webp_quality
        )
    done = reshard.pack(
        tars,
        subset,
        faces=faces,
        out=out_uri,
        map_tasks=map_tasks,
        shard_size=shard_size,
        group_shards=group_shards,
        repeats=repeats,
        overwrite=overwrite,
        quarantine=quarantine,
        dry_run=dry_run,
    )
    if json:
        show_json(done)
        return
    rows = [
        ("samples read", done.processed_count),
        ("samples written", done.output_count),
        ("shards written", done.output_shard_count),
        ("uids of the list that no sample has", done.missing),
        *((f"left out: {reason}", number) for reason, number in done.skipped.items()),
    ]
    if done.repeated:
        rows.append(("written although their uid was there before", done.repeated))
    if done.bad_boxes:
        rows.append(("face boxes outside the image, or none", done.bad_boxes))
    out(table(rows, header=("what", "number")))
    if done.processed_count and not done.output_count:
        say("nothing was written: none of the uids of the list is in these tars")


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


@app.command("train")
def train(
    scale: Scale,
    data: Annotated[str, typer.Option("--data", "--packed", help="A folder of packed shards.")],
    model: Annotated[str, typer.Option("--out", help="Where the model goes.")],
    seed: Annotated[int | None, typer.Option(help="One of the recipe's seeds.")] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Processor threads of one process without a GPU.")
    ] = 1,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Samples that one GPU holds; the batch is computed in parts."),
    ] = None,
    loader_workers: Annotated[
        int | None, typer.Option(min=0, help="Loader processes of one GPU; default: the recipe's.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the model with torch.compile.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(help="Train with Ray: `local` or an address; all nodes must see --out."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of the cluster, one process each.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes of the cluster, without GPUs.")
    ] = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Train CLIP under the frozen recipe of a scale; run again to go on after a stop.

    On several GPUs of this machine: torchrun --standalone --nproc-per-node 8 -m datacomp train ...
    """
    from datacomp.recipe import load_recipe, process_of
    from leaderboard.rounds import training

    chosen = load_recipe(recipe or scale)
    first = chosen.seeds[0] if seed is None else seed
    training.check_seeds_of(chosen, [first])
    task = training.TrainTask(
        benchmark="datacomp",
        recipe=absolute(recipe) if recipe else scale,
        packed=absolute(data),
        seed=first,
        out=absolute(model),
        num_threads=threads,
    )
    run = partial(
        training.run_training, max_batch=max_batch, loader_workers=loader_workers, compiled=compiled
    )
    told = train_where(
        task,
        run,
        cluster=cluster,
        gpus=gpus,
        processes=processes,
        rank=process_of()[0],
        progress=_progress(),
    )
    if told:
        show_record(model, json=json)


@app.command("train-scorer")
def train_scorer(
    scale: Scale,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    json: Json = False,
) -> None:
    """Train a CLIP on the whole pool of the tiny scale, and score the pool's pairs with it."""
    from leaderboard.rounds.workspace import open_round

    if scale != "tiny":
        raise PipelineError(
            f"--scale {scale}: a scorer is trained here for the tiny scale only; at larger scales "
            "pools have CLIP scores, and `datacomp score` adds those of any model"
        )
    from datacomp.curation import tiny_clip

    current = open_round("datacomp", scale, workspace=workspace, map_tasks=executor(workers))
    record = tiny_clip.train_scorer(current)
    if json:
        show_json(record)
        return
    counts = record.counts
    out(f"scores {record.id} ({tiny_clip.NAME}): {counts['scored']:,} of {counts['rows']:,} pairs")


def _progress() -> Callable[[str], None] | None:
    """Lines for a log file; on a terminal there is a bar instead."""
    return None if console.is_terminal else say


# ---- evaluate


@app.command("evaluate")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A trained model's folder, or one of open_clip: NAME/WEIGHTS.")
    ],
    scores: Annotated[str, typer.Option("--out", help="Where the scores go.")],
    scale: Annotated[
        str | None, typer.Option(help="Use this scale's suite, and its evaluation data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder or URI of datasets in the published layout, or `hub`."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Another suite, as `datacomp/full` or a .yaml file.")
    ] = None,
    workspace: Workspace = RUNS,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each takes datasets, and a GPU in turn.")
    ] = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Measure a model with the suite of a scale; run again to do only what is missing.

    Writes predictions of every picture, features, and `eval_results.jsonl` as the reference does.
    """
    from datacomp.extra import image_extra
    from datacomp.pool import pool
    from evals.run import run as run_suite
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round
    from pipelines.storage.chain import RECORD, read_chain, write_chain
    from pipelines.storage.open import open_store

    if scale is None and (suite is None or data is None):
        raise PipelineError("give --scale, or --suite with --data")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        current = open_round("datacomp", scale, workspace=workspace, map_tasks=map_tasks)
        suite = suite or stages.suite_name(current)
        data = data or pool.eval_data(scale, workspace=workspace)
    with image_extra():
        from datacomp.eval_model import load
    with step("evaluate", unit="") as bar:
        record = run_suite(
            load(model), suite=str(suite), data=str(data), out=scores, map_tasks=map_tasks
        )
        bar.note(f"{record.counts['questions']:,} pictures and texts")
    source = open_store(model)
    if source.exists(RECORD):
        write_chain(open_store(scores), read_chain(source))
    if json:
        show_json(record)
        return
    out(aggregates_text(record))


def aggregates_text(record: ScoresRecord) -> str:
    """The scores of datasets, then the means over them, with standard errors."""
    rows: list[tuple[object, ...]] = [
        (one.task, one.metric, round(one.value, 4), _rounded(one.stderr), one.num_items)
        for one in record.results.tasks
    ]
    rows += [
        (name.upper(), one.metric, round(one.value, 4), _rounded(one.stderr), one.num_items)
        for name, one in record.results.aggregates.items()
    ]
    return table(rows, header=("dataset", "metric", "value", "stderr", "items"))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# ---- plan


@app.command("plan")
def plan(
    scale: Scale,
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")],
    gpu: Annotated[str, typer.Option(help="h100, h200, a100 or a100-40.")] = "h100",
    data: Annotated[
        str | None, typer.Option("--data", "--packed", help="Packed shards: how often seen?")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Samples a second of one GPU; default: the published.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Dollars of one GPU for an hour.")] = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Say before a training what it needs: memory, hours, cost, loaders; refuse the impossible."""
    from datacomp import plan as planning
    from datacomp.recipe import load_recipe

    available = None
    if data is not None:
        from pipelines.storage.chain import read_chain
        from pipelines.storage.open import open_store

        available = read_chain(open_store(data))[-1].counts["samples"]
    made = planning.plan(
        load_recipe(recipe or scale),
        num_gpus=gpus,
        gpu=gpu,
        samples_available=available,
        rate=rate,
        dollars_per_hour=price,
    )
    if json:
        show_json(made)
        return
    room = planning.GPUS[gpu].memory_bytes
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
            f"{made.pictures_per_second:,.0f} pictures/s, {made.cores_per_gpu:.1f} cores",
        ),
    ]
    if made.passes is not None:
        rows.append(("passes over the data", f"{made.passes:.2f}"))
    out(table(rows, header=(f"plan of {made.scale}", "")))
    for warning in made.warnings:
        say(f"note: {warning}")
