"""Commands that only DCLM has, and its own forms of `pack` and `train`.

Under torchrun every process runs `dclm train`; only the first one prints.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from leaderboard.rounds.options import (
    CORES,
    RUNS,
    PlanOptions,
    Processes,
    RecipeFile,
    Workspace,
)
from leaderboard.rounds.show import show_pool, show_record
from pipelines.assets.catalogue import asset_files
from pipelines.console import (
    AssetFolders,
    Cluster,
    Json,
    out,
    show_json,
    table,
)
from pipelines.errors import PipelineError, UsageError
from pipelines.execution.choose import executor
from pipelines.execution.progress import say
from pipelines.option_groups import grouped

if TYPE_CHECKING:
    from dclm.plan import Plan
    from dclm.pool.remote_pool import Cost
    from pipelines.records import PoolRecord

Scale = Annotated[str, typer.Option(help="The scale, whose recipe has the same name.")]


app = typer.Typer()


@app.command("train-quality")
def train_quality(
    scale: Annotated[str, typer.Option(help="The scale whose pool and positives are used.")],
    workspace: Annotated[str, typer.Option(help="Folder of pools and assets.")] = "runs",
    labels: Annotated[
        list[Path] | None,
        typer.Option(help='Labelled documents {"text", "label"} (JSON lines) to test it on.'),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    json: Json = False,
) -> None:
    """Train the quality classifier of the tiny scale; the result is an asset with a record."""
    from dclm.curation import quality
    from pipelines.scoring.commands import show_classifier
    from pipelines.scoring.train import labelled_auc, read_labels

    if scale != "tiny":
        raise PipelineError(
            f"--scale {scale}: only the tiny scale has positives of its own; at this scale give "
            "yours to `pipelines train-classifier --positives URI --negatives POOL --out FILE`"
        )
    labelled = [read_labels(path) for path in labels or []]  # before anything is spent
    record = quality.train_quality(workspace=workspace, map_tasks=executor(workers))
    model = quality.model_file(workspace)
    tested = [labelled_auc(documents, model=model) for documents in labelled]
    show_classifier(record, tested, json=json)


@app.command("pool")
def pool(
    scale: Annotated[str, typer.Option(help="The scale, as in the rule book.")],
    variant: Annotated[
        Literal["raw", "extracted", "refinedweb"],
        typer.Option(help="WARC files, extracted pages, or what DCLM's rules left of them."),
    ] = "extracted",
    source: Annotated[
        Literal["https", "s3", "hf"],
        typer.Option(help="https needs no account; hf has the 400m-1x and 1b-1x pools only."),
    ] = "https",
    workspace: Workspace = RUNS,
    destination: Annotated[
        str | None,
        typer.Option("--out", help="Output folder, local or s3://; default: in the workspace."),
    ] = None,
    assets: AssetFolders = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="Another place with the same keys: a folder, https://, s3://."),
    ] = None,
    mbit: Annotated[float, typer.Option(min=1, help="Your line, for the hours: Mbit/s.")] = 1000,
    yes: Annotated[
        bool, typer.Option("--yes", help="Fetch; without it only the cost is shown.")
    ] = False,
    workers: Processes = CORES,
    cluster: Cluster = None,
    max_failed_shards: Annotated[
        int, typer.Option(min=0, help="Files that may fail while the others continue.")
    ] = 0,
    json: Json = False,
) -> None:
    """Build the tiny pool; of larger ones, show size, hours and cost, then fetch (--yes)."""
    from dclm.pool import pool as pools
    from dclm.pool import remote_pool
    from pipelines.formats.pool import open_pool
    from pipelines.storage.chain import RECORD
    from pipelines.storage.open import open_store

    map_tasks = executor(workers, cluster=cluster)
    if scale == "tiny":
        opened = pools.open_scale(scale, workspace=workspace, map_tasks=map_tasks)
        show_pool(opened, json=json)
        return
    variant_pool = remote_pool.find(scale, variant)
    where = destination or f"{workspace}/pools/{variant_pool.name}"
    if open_store(where).exists(RECORD):
        show_pool(open_pool(where), json=json)
        return
    root = remote_pool.root_of(variant_pool, source, mirror)
    keys = remote_pool.keys_of(variant_pool, source, root, assets=asset_files(assets))
    cost = remote_pool.cost_of(variant_pool, keys, root, mbit_per_second=mbit)
    if not json:
        out(_cost_text(cost, where))
    if not yes:
        if json:
            show_json(cost)
        else:
            say("nothing was fetched; add --yes to fetch it")
        return
    remote_pool.fetch_all(
        variant_pool,
        keys,
        root,
        out=where,
        map_tasks=map_tasks,
        max_failed_shards=max_failed_shards,
    )
    show_pool(open_pool(where), json=json)


def _cost_text(cost: Cost, where: str) -> str:
    """What fetching a pool takes, for a person."""
    about = f" (+-{2 * cost.bytes_stderr / 1e9:,.3g} GB)" if cost.bytes_stderr else ""
    rows = [
        ("from", cost.source),
        ("to", where),
        ("first file", cost.first_keys[0]),
        ("files", f"{cost.num_files:,}"),
        ("bytes", f"{cost.num_bytes / 1e9:,.4g} GB{about}"),
        ("hours", f"{cost.hours:,.3g} at {cost.mbit_per_second:,.0f} Mbit/s"),
        ("requests", f"${cost.request_dollars:,.2f} from a bucket; none over https"),
        ("keeping it", f"${cost.storage_dollars_per_month:,.2f} a month in a bucket"),
        ("prices", cost.prices),
    ]
    return table(rows, header=(cost.pool, ""))


@app.command("extract")
def extract(
    input: Annotated[str, typer.Option(help="Folder or s3:// prefix of WARC or WET files.")],
    out_uri: Annotated[str, typer.Option("--out", help="Where the documents go.")],
    name: Annotated[str | None, typer.Option(help="The pool's name; default: of --out.")] = None,
    extractor: Annotated[
        Literal["resiliparse_main", "resiliparse_all", "trafilatura", "html"],
        typer.Option(help="Main content, all visible text, trafilatura, or the HTML as it is."),
    ] = "resiliparse_main",
    encoding: Annotated[
        Literal["replace", "detect", "utf8_only"],
        typer.Option(help="Each page's encoding, broken bytes replaced; or reject all but UTF-8."),
    ] = "replace",
    all_statuses: Annotated[
        bool, typer.Option("--all-statuses", help="Keep pages of every HTTP status, not only 200.")
    ] = False,
    all_types: Annotated[
        bool, typer.Option("--all-types", help="Keep every content type, not only HTML.")
    ] = False,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference",
            help="DCLM-Pool's choices: UTF-8 only, every status and type, bodies as stored, empty "
            "pages kept.",
        ),
    ] = False,
    format: Annotated[
        Literal["parquet", "jsonl.gz", "jsonl.zst"],
        typer.Option(help="JSON lines are DCLM's pages: text, metadata, warcinfo."),
    ] = "parquet",
    files: Annotated[
        str | None, typer.Option(help="A file with the names to take, one a line.")
    ] = None,
    take: Annotated[int | None, typer.Option(min=1, help="Take a sample of so many.")] = None,
    tokens: Annotated[
        float | None, typer.Option(help="Take a sample with about so many tokens of text.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample; DCLM-Pool was drawn with 42.")] = 42,
    exclude: Annotated[
        str | None, typer.Option(help="Sample no file whose name has this expression.")
    ] = None,
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Take what comes before a broken place in a file.")
    ] = False,
    max_failed_shards: Annotated[
        int, typer.Option(min=0, help="Files that may fail while the others continue.")
    ] = 0,
    json: Json = False,
) -> None:
    """Turn WARC or WET files into documents; run it again to resume where it stopped."""
    from dclm.pool import extract as extracting
    from pipelines.formats.warc import ExtractOptions

    options = ExtractOptions.reference() if reference else ExtractOptions(encoding=encoding)
    options = options.model_copy(
        update={
            "extractor": extractor,
            **({"keep_statuses": None} if all_statuses else {}),
            **({"content_types": None} if all_types else {}),
        }
    )
    names, parameters = _chosen_warcs(
        input, files=files, take=take, tokens=tokens, seed=seed, exclude=exclude
    )
    record = extracting.extract_all(
        input,
        out=out_uri,
        name=name or out_uri.rstrip("/").rpartition("/")[2],
        names=names,
        options=options,
        format=format,
        quarantine=quarantine,
        map_tasks=executor(workers, cluster=cluster),
        max_failed_shards=max_failed_shards,
        parameters=parameters,
    )
    if json:
        show_json(record)
        return
    _show_extracted(record, out_uri)


def _chosen_warcs(
    source: str,
    *,
    files: str | None,
    take: int | None,
    tokens: float | None,
    seed: int,
    exclude: str | None,
) -> tuple[list[str] | None, dict[str, object]]:
    """The files to extract (None: all), and how a sample of them was drawn, for the record."""
    from dclm.pool import extract as extracting
    from pipelines.storage.open import open_store

    names = None if files is None else extracting.read_list(files)
    if names is not None and (not names or len(set(names)) < len(names)):
        what = "holds no name" if not names else "holds a name twice"
        raise UsageError(f"--files {files} {what}; give each file once")
    if exclude is not None and take is None and tokens is None:
        raise UsageError("--exclude leaves files out of a sample: give --take or --tokens too")
    try:
        re.compile(exclude or "")
    except re.error as error:
        raise UsageError(f"--exclude {exclude!r} is not a regular expression: {error}") from None
    if tokens is not None:
        take = extracting.warcs_for(tokens)
    if take is None:
        return names, {}
    known = names or [entry.name for entry in extracting.warcs_below(open_store(source))]
    names = extracting.select_warcs(known, take, seed=seed, exclude=exclude)
    return names, {"take": take, "seed": seed, "exclude": exclude}


def _show_extracted(record: PoolRecord, where: str) -> None:
    rows = [
        (what.removeprefix("rejected/"), number)
        for what, number in sorted(record.counts.items(), key=lambda item: -item[1])
        if what.startswith("rejected/")
    ]
    if rows:
        out(table(rows, header=("rejected because", "pages")) + "\n")
    counts = record.counts
    out(
        f"pool {record.id}: {counts['documents']:,} documents of {counts['pages']:,} pages, "
        f"{counts['text_bytes']:,} bytes of text, in {where}"
    )


@app.command("register-shards")
def register_shards(
    folder: Annotated[str, typer.Argument(help="manifest.jsonl and the tars it names.")],
    scale: Scale,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Let shards of open_lm's own tools be trained on; their models cannot be submitted."""
    from dclm.packing import pack
    from dclm.recipe import load_recipe

    pack.register(folder, recipe=load_recipe(recipe or scale))
    show_record(folder, json=json)


@app.command("plan")
@grouped
def plan(
    *,
    scale: Scale,
    packed: Annotated[
        str | None, typer.Option(help="Packed data: is it whole, and is it enough?")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak; default: the published one.")
    ] = None,
    options: PlanOptions,
    json: Json = False,
) -> None:
    """Report what a training run needs: memory, hours, cost, data; refuse the impossible."""
    from dclm import plan as planning
    from dclm.recipe import load_recipe
    from leaderboard.rounds.gpus import gpu_named

    if options.show_power("dclm", scale, json=json):
        return
    gpus = options.num_gpus()
    chosen = load_recipe(options.recipe or scale)
    sequences = None
    if packed is not None:
        from dclm.packing.loader import Sequences

        sequences = Sequences(packed, recipe=chosen).num_sequences
    made = planning.plan(
        chosen,
        num_gpus=gpus,
        gpu=options.gpu,
        sequences_available=sequences,
        mfu=mfu,
        dollars_per_hour=options.price,
    )
    if json:
        show_json(made)
        return
    out(_plan_text(made, gpu_named(options.gpu).memory_bytes))
    for warning in made.warnings:
        say(f"note: {warning}")


@app.command("export")
def export(
    model: Annotated[str, typer.Argument(help="A trained model's folder.")],
    to: Annotated[
        Literal["hf", "open_lm"],
        typer.Option(help="transformers (with dclm.training.hf), or open_lm."),
    ],
    folder: Annotated[str, typer.Option("--out", help="A new folder.")],
    json: Json = False,
) -> None:
    """Write a trained model in another format."""
    from dclm.training import export as exporting

    names = exporting.export(model, to=to, out=folder)
    if json:
        show_json({"folder": folder, "files": names})
    else:
        out(f"{model} for {to} in {folder}: {', '.join(names)}")


def _plan_text(made: Plan, memory_bytes: float) -> str:
    """A plan for a person."""
    dollars = "" if made.dollars is None else f", about ${made.dollars:,.0f}"
    rows = [
        ("GPUs", f"{made.num_gpus} {made.gpu}"),
        ("memory", f"{made.memory_bytes / 1e9:.1f} GB a GPU of {memory_bytes / 1e9:.0f}"),
        ("micro-batch", f"{made.micro_batch} sequences, {made.accumulation} times a step"),
        ("checkpoint", f"{made.checkpoint_bytes / 1e9:.2f} GB, two for a moment"),
        ("steps", f"{made.num_steps:,}"),
        ("tokens", f"{made.tokens:,}"),
        ("share of the peak", f"{made.mfu:.0%}"),
        ("tokens/s", f"{made.tokens_per_second:,.0f}"),
        ("hours", f"{_short(made.hours)} ({_short(made.gpu_hours)} GPU-hours{dollars})"),
    ]
    if made.passes is not None:
        rows.append(("passes over the data", f"{made.passes:.2f}"))
    return table(rows, header=(f"plan of {made.scale}", ""))


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"
