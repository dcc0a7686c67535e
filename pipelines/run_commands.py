"""Commands over a run's folder: how far it is, its results, and what may be removed."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.assets.catalogue import asset_files
from pipelines.console import AssetFolders, Cluster, Json, Workers, fail, out, show_json, table
from pipelines.engine.run import retry
from pipelines.engine.run_folder import (
    FOLDERS,
    Result,
    finished,
    read_run,
    read_summary,
    refuse_while_running,
)
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.reports import compare, duplicate_groups, funnel, price, run_page
from pipelines.reports import status as run_status
from pipelines.reports.why import fates
from pipelines.storage.commits import unreferenced
from pipelines.storage.open import open_store

MaxFailedShards = Annotated[
    int, typer.Option(min=0, help="Shards that may fail while the others continue.")
]


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


def report_command(
    uri: Annotated[str, typer.Argument(metavar="RUN", help="A finished run's folder or prefix.")],
) -> None:
    """Print a finished run's funnel, and write its report.html again."""
    store = open_store(uri)
    read_run(store)  # refuses a folder that holds no run
    result = finished(store)
    run_page.write(store, result)
    show_result(result, uri, as_json=False)


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
