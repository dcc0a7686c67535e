"""The `pipelines` command: run, explain and look into curation pipelines."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Annotated, Any

import orjson
import pyarrow as pa
import typer
import yaml

from pipelines import contract
from pipelines.assets.catalogue import asset_files
from pipelines.assets.commands import asset_app
from pipelines.batch import Batch
from pipelines.console import (
    AssetFolders,
    Json,
    Overwrite,
    Workers,
    fail,
    out,
    program,
    show_json,
    table,
)
from pipelines.engine.run import retry, run
from pipelines.engine.run_folder import (
    FOLDERS,
    Result,
    finished,
    read_run,
    read_summary,
    refuse_while_running,
)
from pipelines.engine.several_sources import named_inputs, run_sources
from pipelines.engine.size_of_run import with_size_of
from pipelines.engine.warmup import warm_up
from pipelines.errors import PipelineError, did_you_mean
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.formats.json_rows import jsonl_schema
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import format_of
from pipelines.operators import Operator
from pipelines.participant_code import helpers_of, load_module, module_of
from pipelines.pipeline import Pipeline, sources_in
from pipelines.registry import build, operators_in, registry
from pipelines.reports import (
    compare,
    duplicate_groups,
    filter_size,
    find_text,
    forecast,
    funnel,
    price,
    run_page,
)
from pipelines.reports import status as run_status
from pipelines.reports.try_document import row_by_url, trace, trace_text
from pipelines.reports.why import fates
from pipelines.scoring.commands import score, train_classifier
from pipelines.storage.commits import unreferenced
from pipelines.storage.open import open_store

app = typer.Typer(
    help="Filter and deduplicate pools of documents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(asset_app, name="assets")
app.command("train-classifier")(train_classifier)
app.command("score")(score)

Cluster = Annotated[str | None, typer.Option(help="Run on Ray: `local` or an address.")]
MaxFailedShards = Annotated[
    int, typer.Option(min=0, help="Shards that may fail while the others continue.")
]
Config = Annotated[Path, typer.Argument(help="A pipeline's YAML file.")]
Source = Annotated[
    str | None, typer.Option("--source", help="Which source of a DCLM file with several.")
]


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


def show_result(result: Result, uri: str, *, as_json: bool) -> None:
    """Print the funnel and the dataset's id."""
    if as_json:
        show_json({"record": result.record, "summary": result.summary, "skipped": result.skipped})
        return
    if result.skipped:
        say(f"{uri}: this run is already done")
    out(funnel.funnel_text(result.summary))
    counts = result.record.counts
    out(
        f"\ndataset {result.record.id}: {counts['rows_out']:,} of {counts['rows_in']:,} rows, "
        f"{counts['text_bytes']:,} bytes of text, in {uri} (see {run_page.REPORT} there)"
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
    pipeline = Pipeline.load(config, source=source)
    value = pipeline.yaml_value()
    if json:
        show_json(value)
    else:
        out(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip())


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="Show one operator in full.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Operators of this Python file.")
    ] = None,
    json: Json = False,
) -> None:
    """List the operators, or show one with all its parameters."""
    known = registry() if source is None else operators_in(_loaded(source))
    if name is not None:
        if name not in known:
            raise PipelineError(f"unknown operator {name!r}{did_you_mean(name, known)}")
        known = {name: known[name]}
    if json:
        show_json([funnel.operator_json(operator) for operator in known.values()])
    elif name is not None or source is not None:
        out("\n".join(funnel.operator_page(operator) for operator in known.values()))
    else:
        rows = sorted(funnel.operator_line(operator) for operator in known.values())
        out(table(rows, header=("kind", "name", "what it does")))


def _loaded(file: Path) -> types.ModuleType:
    return load_module(module_of(file), helpers_of(file))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A Python file with operators.")],
    parameters: Annotated[
        str | None, typer.Option(help="Parameters as JSON, for operators that need some.")
    ] = None,
    assets: AssetFolders = None,
    json: Json = False,
) -> None:
    """Try a file's operators on hostile rows: do they keep what every operator promises?"""
    classes = operators_in(_loaded(file))
    if not classes:
        raise PipelineError(
            f"{file} defines no operator; subclass Filter, Modifier or another kind"
        )
    given = orjson.loads(parameters) if parameters else {}
    problems = []
    for cls in classes.values():
        operator: Operator = build(cls, given, where=str(file))
        operator.load(asset_files(assets))
        problems += contract.check(operator)
    if json:
        show_json({"operators": list(classes), "problems": problems})
    elif problems:
        out(funnel.problems_text([(p.operator, p.promise, p.found) for p in problems]))
    else:
        out(f"{file}: {', '.join(classes)} keep all promises")
    if problems:
        fail(f"{file} breaks {len(problems)} promises", 3)


@app.command()
def warmup(assets: AssetFolders = None, json: Json = False) -> None:
    """Compile all kernels now; once per kind of processor, before many workers start."""
    warmed = warm_up(asset_files(assets))
    if json:
        show_json(warmed)
        return
    out(f"{len(warmed.operators)} operators ran in {warmed.seconds} s; their kernels are compiled")
    out(f"{len(warmed.left_out)} need parameters, columns or assets (--json says which)")


@app.command()
def status(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or prefix.")],
    json: Json = False,
) -> None:
    """Show how far a run is: from any machine that sees its folder or bucket, while it goes."""
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
    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    result = finished(store)
    run_page.write(store, result)
    show_result(result, uri, as_json=False)


@app.command()
def why(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
    document: Annotated[str, typer.Argument(help="A URL, a row's id, or SHARD:NUMBER.")],
    json: Json = False,
) -> None:
    """Tell what became of a document: kept, rejected in which step and why, or set aside."""
    document_fates = fates(open_store(uri), document)
    if json:
        show_json(document_fates)
    elif not document_fates:
        fail(f"no row of {uri} has the URL or id {document!r}", 3)
    else:
        rows = [
            (
                f"{fate.shard}:{fate.number}",
                fate.fate,
                fate.step,
                fate.operator,
                fate.reason,
                fate.measured(),
                fate.url,
            )
            for fate in document_fates
        ]
        out(table(rows, header=("row", "fate", "step", "operator", "reason", "measured", "url")))


@app.command("diff")
def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A finished run of a pool.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another run of the same pool.")],
    scores: Annotated[
        list[str] | None, typer.Option("--score", help="Group by this column of numbers as well.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what two datasets of one pool share: by step, source, domain and score."""
    made = compare.compare(first, other, scores=scores or ())
    if json:
        show_json(made)
    else:
        name_a, name_b = (uri.rstrip("/").rpartition("/")[2] for uri in (first, other))
        out(compare.comparison_text(made, ("A", "B") if name_a == name_b else (name_a, name_b)))


@app.command("index")
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


@app.command("price")
def price_command(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
    cpu_hour: Annotated[float, typer.Option(help="Dollars of a core for an hour.")] = 0.04,
    json: Json = False,
) -> None:
    """Show what each step of a run costs: CPU time at this price, and the tokens of models."""
    made = price.price(read_summary(uri), dollars_cpu_hour=cpu_hour)
    if json:
        show_json(made)
    else:
        out(price.price_text(made))


@app.command("find")
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


@app.command("try")
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


@app.command()
def duplicates(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
    document: Annotated[
        str | None, typer.Argument(help="Show its groups: a URL, a row's id, or SHARD:NUMBER.")
    ] = None,
    most: Annotated[int, typer.Option(help="Members to show of a group.", min=2)] = 10,
    json: Json = False,
) -> None:
    """Report what deduplication removed, or show a document's duplicates side by side."""
    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    if document is None:
        reports = duplicate_groups.reports(store)
        if json:
            show_json(reports)
        elif not reports:
            fail(f"{uri} has no report of duplicates: no deduplication, or not finished", 3)
        else:
            out("\n\n".join(duplicate_groups.report_text(report) for report in reports))
        return
    groups = duplicate_groups.groups_of(store, document, most=most)
    if json:
        show_json(groups)
    elif not groups:
        fail(f"{document!r} is in no group of duplicates of {uri}", 3)
    else:
        out("\n\n".join(duplicate_groups.group_text(group) for group in groups))


@app.command()
def clean(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or prefix.")],
    json: Json = False,
) -> None:
    """Remove what killed attempts left: files that no commit names. Not while the run goes."""
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


def entry() -> None:
    """The console script."""
    program(app)


if __name__ == "__main__":
    entry()
