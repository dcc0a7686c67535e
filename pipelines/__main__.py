"""The `pipelines` command: run, explain and look into curation pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
import yaml

from pipelines import operator_commands, run_commands
from pipelines.assets.catalogue import asset_files
from pipelines.assets.commands import asset_app
from pipelines.batch import Batch
from pipelines.console import (
    AssetFolders,
    Cluster,
    Json,
    Overwrite,
    Workers,
    fail,
    out,
    program,
    show_json,
    table,
)
from pipelines.engine.run import run
from pipelines.engine.several_sources import named_inputs, run_sources
from pipelines.engine.size_of_run import with_size_of
from pipelines.errors import PipelineError
from pipelines.execution.choose import executor
from pipelines.formats.json_rows import jsonl_schema
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import format_of
from pipelines.pipeline import Pipeline, sources_in
from pipelines.reports import filter_size, find_text, forecast, funnel, run_page
from pipelines.reports.try_document import row_by_url, trace, trace_text
from pipelines.run_commands import MaxFailedShards, show_result
from pipelines.scoring.commands import score, train_classifier
from pipelines.storage.open import open_store

Config = Annotated[Path, typer.Argument(help="A pipeline's YAML file.")]
Source = Annotated[
    str | None, typer.Option("--source", help="Which source of a DCLM file with several.")
]


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
        str | None, typer.Option(help="The field that holds the text, if it is not `text`.")
    ] = None,
    same_size_as: Annotated[
        str | None, typer.Option(help="Run whose size a hash_sample takes.")
    ] = None,
    overwrite: Overwrite = False,
    source: Source = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Predict survivors, bytes and time from a sample.")
    ] = False,
    sample: Annotated[
        str, typer.Option(help="How much of the pool a dry run reads: 0.1% or 0.001.")
    ] = "1%",
    json: Json = False,
) -> None:
    """Run a pipeline over a pool; run it again to resume where it stopped."""

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
    result = run(pipeline, open_pool(input), out=out_uri, **options)
    run_page.write(open_store(out_uri), result)
    show_result(result, out_uri, as_json=json)


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


def import_command(
    config: Annotated[Path, typer.Argument(help="A pipeline of DCLM: list of source and steps.")],
    source: Annotated[
        str | None, typer.Option(help="The entry to read, where the file has several.")
    ] = None,
    json: Json = False,
) -> None:
    """Print a DCLM pipeline in this project's form. `run` takes such files as they are."""
    pipeline = Pipeline.load(config, source=source)
    value = pipeline.yaml_value()
    if json:
        show_json(value)
    else:
        out(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip())


def try_command(
    config: Config,
    text: Annotated[
        Path | None, typer.Option(help="A text file, or a shard: its first row.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A document's URL in --input.")] = None,
    input: Annotated[str | None, typer.Option(help="Pool: where --url is looked for.")] = None,
    assets: AssetFolders = None,
    source: Source = None,
    json: Json = False,
) -> None:
    """Show what each step does to one document: what it measures, changes and decides."""
    pipeline = Pipeline.load(config, assets=asset_files(assets), source=source)
    traces = trace(pipeline.steps, _document(text, url, input), pipeline.assets)
    if json:
        show_json(traces)
    else:
        out(trace_text(traces, len(pipeline.steps)))


def _document(text: Path | None, url: str | None, pool_uri: str | None) -> Batch:
    if (text is None) == (url is None):
        raise PipelineError("give a document: either --text FILE, or --url URL with --input POOL")
    if text is not None and format_of(text.name):
        chunk = next(read_shard(open_store(str(text.parent)), text.name, shard=0))
        return Batch(chunk.table.slice(0, 1))
    if text is not None:
        row = {"row": 0, "text": text.read_text(encoding="utf-8")}
        return Batch(pa.Table.from_pylist([row], schema=jsonl_schema()))
    if pool_uri is None:
        raise PipelineError("--url needs --input POOL, where it is looked for")
    pool = open_pool(pool_uri)
    uid_row = row_by_url(open_store(pool.uri), [shard.name for shard in pool.shards], str(url))
    if uid_row is None:
        raise PipelineError(f"no document of {pool_uri} has the URL {url}")
    return uid_row


def index_command(
    input: Annotated[str, typer.Argument(metavar="DATASET", help="A pool or a dataset.")],
    out_uri: Annotated[str, typer.Option("--out", help="A local folder for the index.")],
    workers: Workers = 1,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Index the texts of a dataset, for `find`."""
    made = find_text.build(input, out=out_uri, map_tasks=executor(workers, cluster=cluster))
    if json:
        show_json(made)
    else:
        out(f"{made.fingerprints:,} fingerprints of {made.pool} in {out_uri}")


def find_command(
    passage: Annotated[str, typer.Argument(metavar="TEXT", help="A sentence, or a part of one.")],
    index: Annotated[str, typer.Argument(help="The folder that `index` made.")],
    most: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 10,
    json: Json = False,
) -> None:
    """Show the documents that hold a passage, whatever its case and white space."""
    matches = find_text.find(passage, index, most=most)
    if json:
        show_json(matches)
    elif not matches:
        fail(f"no document of {index} holds this passage", 3)
    else:
        rows = [(f"{m.shard}:{m.number}", m.url, m.passage) for m in matches]
        out(table(rows, header=("row", "url", "passage")))


app = typer.Typer(
    help="Filter and deduplicate pools of documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(asset_app, name="assets")
COMMANDS: dict[str, Callable[..., None]] = {
    "train-classifier": train_classifier,
    "score": score,
    "run": run_command,
    "explain": explain,
    "import": import_command,
    "ops": operator_commands.ops,
    "check": operator_commands.check,
    "warmup": operator_commands.warmup,
    "status": run_commands.status,
    "retry": run_commands.retry_command,
    "report": run_commands.report_command,
    "why": run_commands.why,
    "diff": run_commands.diff_command,
    "index": index_command,
    "price": run_commands.price_command,
    "find": find_command,
    "try": try_command,
    "duplicates": run_commands.duplicates,
    "clean": run_commands.clean,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
