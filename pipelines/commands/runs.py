"""Commands that run pipelines, and that follow, resume, report and clean their runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.options import Config, Source
from pipelines.console import (
    AssetFolders,
    Cluster,
    DryRun,
    Json,
    MaxFailedShards,
    Overwrite,
    Sample,
    Workers,
    out,
    show_json,
)
from pipelines.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.engine.run_folder import Result
    from pipelines.pipeline import Pipeline


app = typer.Typer()


@app.command("run")
def run_command(
    config: Config,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="Pool: a folder or s3:// prefix of shards; NAME=POOL for a source of a DCLM file.",
        ),
    ],
    out_uri: Annotated[str, typer.Option("--out", help="Where the run's folder goes.")],
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set bad rows aside instead of stopping.")
    ] = False,
    max_failed_shards: MaxFailedShards = 0,
    format: Annotated[
        str, typer.Option(help="Output: parquet, jsonl.zst or jsonl.gz.")
    ] = "parquet",
    text_field: Annotated[
        str | None, typer.Option(help="The field that is the text; it replaces a field `text`.")
    ] = None,
    same_size_as: Annotated[
        str | None, typer.Option(help="Run whose size a hash_sample takes.")
    ] = None,
    overwrite: Overwrite = False,
    source: Source = None,
    dry_run: DryRun = False,
    sample: Sample = "1%",
    json: Json = False,
) -> None:
    """Run a pipeline over a pool; run it again to resume where it stopped."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.engine.run import run
    from pipelines.engine.several_sources import named_inputs, run_sources
    from pipelines.engine.size_of_run import with_size_of
    from pipelines.execution.choose import executor
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline
    from pipelines.reports import forecast, run_page
    from pipelines.storage.open import open_store

    def load(name: str | None) -> Pipeline:
        pipeline = Pipeline.load(config, assets=asset_files(assets), source=name)
        if text_field is not None:
            pipeline = pipeline.with_text_from(text_field)
        return pipeline if same_size_as is None else with_size_of(pipeline, same_size_as)

    options: dict[str, Any] = {
        "map_tasks": executor(workers, cluster=cluster),
        "quarantine": quarantine,
        "format": format,
        "max_failed_shards": max_failed_shards,
        "overwrite": overwrite,
    }
    pools = named_inputs(inputs, config, source=source)
    if len(pools) > 1:
        if dry_run:
            raise PipelineError("--dry-run predicts one source: name it with --source")
        several = run_sources({n: (load(n), pool) for n, pool in pools.items()}, out_uri, **options)
        for name, result in several.runs.items():
            run_page.write(open_store(several.folders[name]), result)
            if not json:
                out(f"source {name}:")
                show_result(result, several.folders[name], as_json=False)
        rows = f"{several.record.counts['rows_out']:,} rows of {len(pools)} sources"
        if json:
            show_json({"record": several.record, "runs": several.runs})
        else:
            out(f"\ndataset {several.record.id}: {rows}, in {out_uri}")
        return
    [(name, input)] = pools.items()
    pipeline = load(name)
    if dry_run:
        fraction = forecast.share_of(sample)
        prediction = forecast.forecast(
            pipeline, open_pool(input), fraction=fraction, workers=workers
        )
        forecast.write_forecast(open_store(out_uri), prediction)
        if json:
            show_json(prediction)
        else:
            out(forecast.forecast_text(prediction))
        return
    folder = open_store(out_uri)  # before operators run: one may change the working folder
    result = run(pipeline, open_pool(input), out=out_uri, **options)
    run_page.write(folder, result)
    show_result(result, out_uri, as_json=json)


def show_result(result: Result, uri: str, *, as_json: bool) -> None:
    """Print the funnel and the dataset's id."""
    from pipelines.execution.progress import say
    from pipelines.reports import funnel, run_page

    if as_json:
        show_json({"record": result.record, "summary": result.summary, "skipped": result.skipped})
        return
    if result.skipped:
        say(f"{uri}: this run is already done")
    out(funnel.funnel_text(result.summary))
    counts = result.record.counts
    size = (
        f"{counts['text_bytes']:,} bytes of text, " if "text_bytes" in counts else ""
    )  # pairs have none
    out(
        f"\ndataset {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} rows, "
        f"{size}in {uri} (see {run_page.REPORT} there)"
    )
    if not counts["rows_out"]:
        say("no row is left: see the reasons above, and `pipelines try` for single documents")
    if counts["errors"]:
        say(f"{counts['errors']:,} rows were set aside: see {uri}/quarantine")


@app.command()
def explain(
    config: Config,
    input: Annotated[
        str | None, typer.Option(help="A pool, for the size that Bloom filters need on it.")
    ] = None,
    assets: AssetFolders = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Print the passes of a pipeline: what each step reads, writes and is set to."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline, sources_in
    from pipelines.reports import filter_size, funnel

    names = [source] if source is not None else sources_in(config)
    plans = {}
    for name in names if len(names) > 1 else [source]:
        pipeline = Pipeline.load(config, assets=asset_files(assets), source=name)
        estimates = [] if input is None else filter_size.estimates(pipeline, open_pool(input))
        plans[name] = {**funnel.plan_json(pipeline), "bloom_filters": estimates}
        if not json:
            if len(names) > 1:
                out(f"source {name}:")
            out(funnel.plan_text(pipeline))
            if estimates:
                out("\n" + filter_size.estimates_text(estimates))
    if json:
        show_json(plans if len(names) > 1 else plans[source])


@app.command("import")
def import_command(
    config: Annotated[Path, typer.Argument(help="A pipeline of DCLM: list of source and steps.")],
    source: Annotated[
        str | None, typer.Option(help="The entry to read, where the file has several.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a DCLM pipeline in this project's form. `run` takes such files as they are."""
    import yaml

    from pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(config, source=source)
    value = pipeline.yaml_value()
    if json:
        show_json(value)
    else:
        out(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip())


@app.command()
def status(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or prefix.")],
    json: Json = False,
) -> None:
    """Show how far a run is: from any machine that sees its folder or bucket, while it goes."""
    from pipelines.reports import status as run_status
    from pipelines.storage.open import open_store

    state = run_status.status(open_store(uri))
    if json:
        show_json(state)
    else:
        out(run_status.status_text(state))


@app.command("retry")
def retry_command(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or prefix.")],
    assets: AssetFolders = None,
    workers: Workers = 1,
    cluster: Cluster = None,
    max_failed_shards: MaxFailedShards = 0,
    exclude_failed: Annotated[
        bool,
        typer.Option("--exclude-failed", help="Leave failed shards out; the record names them."),
    ] = False,
    json: Json = False,
) -> None:
    """Resume a run: redo only what failed or is missing. Needs only its folder."""
    from pipelines.assets.catalogue import asset_files
    from pipelines.engine.run import retry
    from pipelines.execution.choose import executor
    from pipelines.reports import run_page
    from pipelines.storage.open import open_store

    result = retry(
        uri,
        assets=asset_files(assets) if assets else None,
        map_tasks=executor(workers, cluster=cluster),
        max_failed_shards=max_failed_shards,
        exclude_failed=exclude_failed,
    )
    run_page.write(open_store(uri), result)
    show_result(result, uri, as_json=json)


@app.command("report")
def report_command(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
) -> None:
    """Print a finished run's funnel, and write its report.html again."""
    from pipelines.engine.run_folder import finished, read_run
    from pipelines.reports import run_page
    from pipelines.storage.open import open_store

    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    result = finished(store)
    run_page.write(store, result)
    show_result(result, uri, as_json=False)


@app.command("price")
def price_command(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
    cpu_hour: Annotated[float, typer.Option(help="Dollars of a core for an hour.")] = 0.04,
    gpu_hour: Annotated[float, typer.Option(help="Dollars of a GPU for an hour.")] = 2.5,
    json: Json = False,
) -> None:
    """Show what each step of a run costs: time at these prices, and the tokens of models."""
    from pipelines.engine.run_folder import read_summary
    from pipelines.reports import price

    made = price.price(read_summary(uri), dollars_cpu_hour=cpu_hour, dollars_gpu_hour=gpu_hour)
    if json:
        show_json(made)
    else:
        out(price.price_text(made))


@app.command()
def clean(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or prefix.")],
    json: Json = False,
) -> None:
    """Remove what killed attempts left: files that no commit names. Not while the run goes."""
    from pipelines.engine.run_folder import FOLDERS, read_run, refuse_while_running
    from pipelines.storage.commits import unreferenced
    from pipelines.storage.open import open_store

    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    refuse_while_running(store, what="cleaning")
    left = unreferenced(store, folders=FOLDERS)
    for entry in left:
        store.remove(entry.name)
    store.discard_unfinished()
    if json:
        show_json(left)
    else:
        size = sum(entry.num_bytes for entry in left)
        out(f"{uri}: removed {len(left):,} files, {size:,} bytes, that no commit names")
