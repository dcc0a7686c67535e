"""Commands of the stages that make data: pool, curate, register, pack, publish, baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leaderboard.benchmark import StageOptions, load_stages
from leaderboard.rounds.options import (
    CORES,
    RUNS,
    Processes,
    Quarantine,
    RecipeFile,
    Scale,
    Track,
    Workspace,
)
from leaderboard.rounds.show import show_pool, show_record
from pipelines.console import (
    AssetFolders,
    Cluster,
    DryRun,
    Json,
    Overwrite,
    Sample,
    out,
    show_json,
    table,
)
from pipelines.errors import PipelineError, UsageError
from pipelines.execution.choose import executor
from pipelines.execution.progress import say

if TYPE_CHECKING:
    from pipelines.engine.run_folder import Result


def pool_command(
    *,
    benchmark: str,
    scale: Scale,
    track: Track = None,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    json: Json = False,
) -> None:
    """Open the pool of a scale, or build it where it is built from packages."""
    from leaderboard.rounds.workspace import open_round

    current = open_round(
        benchmark, scale, workspace=workspace, map_tasks=executor(workers), track=track
    )
    show_pool(current.open_pool(), json=json)


def curate_command(
    *,
    benchmark: str,
    config: Annotated[str | None, typer.Argument(help="A .yaml file or a baseline.")] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="The same as the argument, as `run` has it.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Curate the pool of this scale, into the workspace.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Or: folder or prefix of another pool, with --out.")
    ] = None,
    out_uri: Annotated[
        str | None, typer.Option("--out", help="With --pool: where the dataset goes.")
    ] = None,
    track: Track = None,
    workspace: Workspace = RUNS,
    assets: AssetFolders = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Quarantine = False,
    max_failed_shards: Annotated[
        int, typer.Option(min=0, help="Shards that may fail while the others are done.")
    ] = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    sample: Sample = "1%",
    json: Json = False,
) -> None:
    """Run a pipeline over the pool of a scale, or over a pool of your own."""
    from leaderboard.rounds import predict
    from leaderboard.rounds import round as stages
    from leaderboard.rounds.workspace import open_round
    from pipelines.engine.run_folder import finished
    from pipelines.storage.open import open_store

    name = config or pipeline
    if name is None or (config and pipeline):
        raise PipelineError("name one pipeline: a .yaml file or a baseline")
    if (scale is None) == (pool is None):
        raise PipelineError("name one pool: either --scale, or --pool with --out")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        current = open_round(
            benchmark, scale, workspace=workspace, map_tasks=map_tasks, track=track
        )
        chosen = stages.find_pipeline(current, name, assets=assets or ())
        if dry_run:
            predict.show(
                chosen, current.open_pool(), benchmark, share=sample, workers=workers, json=json
            )
            return
        curated = stages.curate(
            current,
            chosen,
            quarantine=quarantine,
            max_failed_shards=max_failed_shards,
            overwrite=overwrite,
        )
        _show_dataset(curated.dataset, finished(open_store(curated.dataset)), json=json)
        return
    if dry_run:
        chosen, opened = stages.of_own_pool(
            benchmark, name, pool=str(pool), workspace=workspace, assets=assets or ()
        )
        predict.show(chosen, opened, benchmark, share=sample, workers=workers, json=json)
        return
    if out_uri is None:
        raise PipelineError("--pool needs --out: where the dataset goes")
    result = stages.curate_pool(
        benchmark,
        name,
        pool=str(pool),
        out=out_uri,
        workspace=workspace,
        assets=assets or (),
        map_tasks=map_tasks,
        quarantine=quarantine,
        max_failed_shards=max_failed_shards,
        overwrite=overwrite,
    )
    if result.skipped:
        say(f"{out_uri}: this run is already done")
    _show_dataset(out_uri, result, json=json)


def _show_dataset(folder: str, result: Result, *, json: bool) -> None:
    from pipelines.reports.funnel import funnel_text

    if json:
        show_json({"folder": folder, "record": result.record, "summary": result.summary})
        return
    out(funnel_text(result.summary))
    counts = result.record.counts
    files = [file.name for file in result.record.outputs]
    where = f"{folder}/{files[0]}" if len(files) == 1 else folder
    out(
        f"\ndataset {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} rows, "
        f"in {where}"
    )


def register_command(
    *,
    benchmark: str,
    dataset: Annotated[str, typer.Option("--out", help="Where the dataset goes.")],
    method: Annotated[str, typer.Option("--name", help="The dataset's name.")],
    options: StageOptions,
    workers: Processes = CORES,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Bring data that was curated elsewhere; it is checked and recorded as external."""
    registered = load_stages(benchmark).register(
        out=dataset, name=method, map_tasks=executor(workers, cluster=cluster), options=options
    )
    if json:
        show_json(registered.record)
        return
    rows = registered.record.counts["rows_out"]
    out(f"dataset {registered.record.id} (external): {rows:,} rows in {dataset}")
    for reason, number in registered.left_out.items():
        out(f"left out or counted: {reason} {number:,}")


def pack_command(
    *,
    benchmark: str,
    packed: Annotated[str, typer.Option("--out", help="Where the packed data goes.")],
    scale: Annotated[
        str | None, typer.Option(help="The scale, as in the rule book: its recipe says how.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset's folder.")] = None,
    options: StageOptions,
    workers: Processes = CORES,
    cluster: Cluster = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Turn a dataset into the training data of a scale's recipe."""
    from leaderboard.rounds.workspace import open_round
    from pipelines.storage.chain import read_chain, write_chain
    from pipelines.storage.open import open_store

    map_tasks = executor(workers, cluster=cluster)
    stages = load_stages(benchmark)
    if scale is None or dataset is None:
        if scale is not None or dataset is not None:
            raise UsageError("pack needs --scale and --dataset, both")
        bare = stages.pack_without_recipe(out=packed, map_tasks=map_tasks, options=options)
        if json:
            show_json(bare)
        else:
            out(table(bare.rows(), header=("what", "number")))
        return
    current = open_round(benchmark, scale, workspace="", map_tasks=map_tasks, recipe=recipe)
    stages.pack(dataset, current.recipe, out=packed, map_tasks=map_tasks, options=options)
    write_chain(open_store(packed), read_chain(open_store(dataset)))
    show_record(packed, json=json)


def publish_command(
    *,
    benchmark: str,
    dataset: Annotated[str, typer.Argument(help="A dataset's folder.")],
    to: Annotated[str, typer.Option(help="A folder, s3://BUCKET/PREFIX or hf://OWNER/NAME.")],
    url: Annotated[str, typer.Option(help="A write-up.")] = "",
) -> None:
    """Put a dataset where others can build on it, with its card, record and licences."""
    from leaderboard.rounds.publish import publish as publish_dataset

    out(publish_dataset(dataset, to, benchmark=benchmark, url=url))


def baselines_command(
    *,
    benchmark: str,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[list | show NAME | NAME]",
            help="`list`, or whose YAML to print, to start from.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the reference pipelines, or print one."""
    from pipelines import installed

    folder = installed.folder(benchmark) / "baselines"
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    words = words or ["list"]
    if words != ["list"]:
        if len(words) - (words[0] == "show") != 1:
            raise PipelineError(f"expected list, show NAME or NAME, got {' '.join(words)!r}")
        name = words[-1]
        if name not in files:
            raise PipelineError(f"there is no baseline {name!r}; there are: {', '.join(files)}")
        text = files[name].read_text(encoding="utf-8").rstrip()
        if json:
            show_json({"name": name, "yaml": text})
        else:
            out(text)
        return
    rows = [(stem, _described(path)) for stem, path in files.items()]
    if json:
        show_json([{"name": stem, "description": text} for stem, text in rows])
    else:
        out(table(rows, header=("baseline", "what it does")))


def _described(path: Path) -> str:
    """The description in a pipeline's file, on one line."""
    from pipelines.yaml_text import load_plain

    spec = load_plain(path.read_text(encoding="utf-8"))
    return " ".join(str(spec.get("description", "")).split())
