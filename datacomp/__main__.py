"""The `datacomp` command: curation of image-text pools, and training shards from lists of uids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datacomp import kmeans as centroids
from datacomp import shards
from datacomp.curate import SUBSET_FILE
from datacomp.curate import curate as curate_pool
from datacomp.subset import SubsetError
from pipelines import report, report_html
from pipelines.assets import Assets
from pipelines.commands import (
    BAD_DATA,
    EXIT_CODES,
    USAGE,
    AssetFolders,
    Json,
    Workers,
    main,
    out,
    show_json,
    table,
)
from pipelines.executors import executor
from pipelines.operators import PipelineError
from pipelines.pipeline import Pipeline
from pipelines.pool import open_pool
from pipelines.progress import say
from pipelines.storage import open_store

EXIT_CODES |= {SubsetError: BAD_DATA, shards.PackError: USAGE}
BASELINES = Path(__file__).parent / "baselines"

app = typer.Typer(
    name="datacomp",
    help="DataComp for image-text models: curate a pool, pack training shards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Cluster = Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")]


@app.command()
def curate(
    config: Annotated[str, typer.Argument(help="A pipeline's YAML file, or a baseline's name.")],
    pool: Annotated[str, typer.Option(help="Folder or prefix of the pool's parquet files.")],
    out_uri: Annotated[str, typer.Option("--out", help="Where the list of uids goes.")],
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave out rows whose uid is none, and count them.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a pipeline over a pool's tables; writes the sorted list of the uids that stay."""
    folders = Assets(folders=tuple(Path(folder) for folder in assets or ()))
    pipeline = Pipeline.load(find(config), assets=folders)
    result = curate_pool(
        pipeline,
        open_pool(pool),
        out=out_uri,
        map_tasks=executor(workers, cluster=cluster),
        quarantine=quarantine,
    )
    report_html.write(open_store(out_uri), result)
    if json:
        show_json({"record": result.record, "summary": result.summary, "skipped": result.skipped})
        return
    if result.skipped:
        say(f"{out_uri}: this run is already done")
    out(report.funnel_text(result.summary))
    counts = result.record.counts
    out(
        f"\ndataset {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} pairs, in "
        f"{out_uri}/{SUBSET_FILE}"
    )


def find(name: str) -> Path:
    """A pipeline's file, or that of a baseline. PipelineError lists the baselines there are."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    if (BASELINES / f"{name}.yaml").is_file():
        return BASELINES / f"{name}.yaml"
    known = ", ".join(sorted(file.stem for file in BASELINES.glob("*.yaml")))
    raise PipelineError(f"there is no baseline {name!r}; give a .yaml file or one of: {known}")


@app.command()
def pack(
    input: Annotated[str, typer.Option(help="Folder or prefix of the pool's tars.")],
    subset: Annotated[str, typer.Option(help="The list of uids: .npy, or raw records.")],
    out_uri: Annotated[str, typer.Option("--out", help="Where the training shards go.")],
    shard_size: Annotated[
        int, typer.Option(min=1, help="Samples of an output shard.")
    ] = shards.SHARD_SIZE,
    group_shards: Annotated[
        int, typer.Option(min=1, help="Input shards that are packed together.")
    ] = shards.GROUP_SHARDS,
    workers: Workers = 1,
    cluster: Cluster = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the folder of other work first.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take what is whole of damaged tars.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be copied; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy the samples of a list of uids from a pool's tars into training shards."""
    done = shards.pack(
        input,
        subset,
        out=out_uri,
        map_tasks=executor(workers, cluster=cluster),
        shard_size=shard_size,
        group_shards=group_shards,
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
    out(table(rows, header=("what", "number")))


@app.command()
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
    if not 0 < sample <= 1:
        raise PipelineError(f"--sample {sample}: expected a share above 0 and up to 1")
    record = centroids.train_centroids(
        open_pool(pool),
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
        out(
            f"asset {record.id} in {file}: {clusters:,} centroids of {record.counts['rows']:,} rows"
        )


def entry() -> None:
    """The console script."""
    main(app)


if __name__ == "__main__":
    entry()
