"""Commands that look into datasets: the fate of a document, duplicates, passages, differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import Config, Source
from pipelines.console import (
    AssetFolders,
    Cluster,
    Json,
    Workers,
    fail,
    out,
    show_json,
    table,
)
from pipelines.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.batch import Batch


app = typer.Typer()


@app.command()
def why(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
    document: Annotated[str, typer.Argument(help="A URL, a row's id, or SHARD:NUMBER.")],
    json: Json = False,
) -> None:
    """Tell what became of a document: kept, rejected in which step and why, or set aside."""
    from pipelines.reports.why import fates
    from pipelines.storage.open import open_store

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
    from pipelines.reports import compare

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
    from pipelines.execution.choose import executor
    from pipelines.reports import find_text

    made = find_text.build(input, out=out_uri, map_tasks=executor(workers, cluster=cluster))
    if json:
        show_json(made)
    else:
        out(f"{made.fingerprints:,} fingerprints of {made.pool} in {out_uri}")


@app.command("find")
def find_command(
    passage: Annotated[str, typer.Argument(metavar="TEXT", help="A sentence, or a part of one.")],
    index: Annotated[str, typer.Argument(help="The folder that `index` made.")],
    most: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 10,
    json: Json = False,
) -> None:
    """Show the documents that hold a passage, whatever its case and white space."""
    from pipelines.reports import find_text

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
    from pipelines.assets.catalogue import asset_files
    from pipelines.pipeline import Pipeline
    from pipelines.reports.try_document import trace, trace_text

    pipeline = Pipeline.load(config, assets=asset_files(assets), source=source)
    document = _document(text, url, input)
    traces = trace(pipeline.steps, document, pipeline.assets, modules=pipeline.modules)
    if json:
        show_json(traces)
    else:
        out(trace_text(traces, len(pipeline.steps)))


def _document(text: Path | None, url: str | None, pool_uri: str | None) -> Batch:
    import pyarrow as pa

    from pipelines.batch import Batch
    from pipelines.formats.json_rows import jsonl_schema
    from pipelines.formats.pool import open_pool
    from pipelines.formats.readers import read_shard
    from pipelines.formats.shards import format_of
    from pipelines.reports.try_document import row_by_url
    from pipelines.storage.open import open_store

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
    same: Annotated[
        str | None,
        typer.Option(help="A column that is equal in true copies: print recall and precision."),
    ] = None,
    json: Json = False,
) -> None:
    """Report what deduplication removed, or show a document's duplicates side by side."""
    from pipelines.engine.run_folder import read_run
    from pipelines.reports import duplicate_groups, known_duplicates
    from pipelines.storage.open import open_store

    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    if same is not None and document is not None:
        raise PipelineError("--same measures the whole run; leave out the document")
    if same is not None:
        measured = known_duplicates.known_duplicates(store, same)
        if json:
            show_json(measured)
        else:
            out(known_duplicates.known_text(measured, same))
        return
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
