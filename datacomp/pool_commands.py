"""Commands around a pool of pairs: fetch it, score its images, bring data from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from leaderboard.rounds.options import CORES, RUNS, Processes, Workspace
from pipelines.console import Cluster, Json, out, show_json, table
from pipelines.errors import PoolError
from pipelines.execution.choose import executor
from pipelines.execution.progress import say

if TYPE_CHECKING:
    from datacomp.pool.hub import Estimate
    from pipelines.formats.pool import Pool
    from pipelines.images.download import DownloadOptions
    from pipelines.records import AssetRecord


app = typer.Typer()


Changed = Annotated[
    Literal["drop", "keep"],
    typer.Option(help="What becomes of an image with another sha256 than the table says."),
]
Blur = Annotated[bool, typer.Option("--blur/--no-blur", help="Blur the faces that tables name.")]
Connections = Annotated[int, typer.Option(min=1, help="Addresses fetched at once, a process.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for one address.")]
Retries = Annotated[int, typer.Option(min=0, help="Further tries where that may help.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try again only the rows that had failed.")
]


def _options(
    changed: Literal["drop", "keep"], blur: bool, connections: int, timeout: float, retries: int
) -> DownloadOptions:
    from pipelines.images.download import DownloadOptions
    from pipelines.images.fetch import FetchOptions
    from pipelines.images.resize import ResizeOptions

    return DownloadOptions(
        fetch=FetchOptions(timeout_seconds=timeout, connections=connections, retries=retries),
        resize=ResizeOptions(blur_faces=blur),
        changed=changed,
    )


@app.command("pool")
def pool(
    scale: Annotated[str, typer.Option(help="tiny, small, medium, large, xlarge, or datacomp_1b.")],
    workspace: Workspace = RUNS,
    folder: Annotated[
        str | None, typer.Option("--out", help="A folder or s3://; default: in the workspace.")
    ] = None,
    source: Annotated[
        str, typer.Option(help="hf, or a folder with a copy of the published tables.")
    ] = "hf",
    features: Annotated[
        bool, typer.Option("--features", help="Fetch the .npz files of features too.")
    ] = False,
    metadata_only: Annotated[
        bool, typer.Option("--metadata-only", help="Fetch the tables, and no images.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will take; fetch nothing.")
    ] = False,
    retry_failed: RetryFailed = False,
    changed: Changed = "drop",
    blur: Blur = True,
    connections: Connections = 512,
    timeout: Timeout = 10.0,
    retries: Retries = 2,
    workers: Processes = CORES,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Fetch the pool of a scale: tables, features, images. Run again to resume.

    Tables are verified by sha256, and so is every image. Images come from public addresses
    only; how many were still there, and why others were not, is in the record next to them.
    """
    from datacomp.pool import hub
    from datacomp.pool import pool as pools
    from pipelines.images.download import download
    from pipelines.images.pairs import SHARDS, open_pairs

    map_tasks = executor(workers, cluster=cluster)
    if scale == "tiny":
        show_pool(pools.open_scale(scale, workspace=workspace, map_tasks=map_tasks), json=json)
        return
    root = (folder or str(pools.folder(scale, workspace=workspace))).rstrip("/")
    given = hub.open_source(scale, source)
    if dry_run:
        cost = hub.estimate(scale, given.listing(), workers=workers)
        show_json(cost) if json else out(estimate_text(cost))
        return
    hub.fetch_metadata(scale, root, source=given, features=features, map_tasks=map_tasks)
    opened = open_pairs(root)
    if metadata_only:
        show_pool(opened, json=json)
        return
    record = download(
        opened,
        out=f"{root}/{SHARDS}",
        map_tasks=map_tasks,
        options=_options(changed, blur, connections, timeout, retries),
        retry_failed=retry_failed,
    )
    show_images(record, f"{root}/{SHARDS}", json=json)


def show_pool(opened: Pool, *, json: bool) -> None:
    """Print what a pool is."""
    if json:
        show_json(opened.record)
        return
    counts = "".join(f", {name} {number:,}" for name, number in opened.record.counts.items())
    out(f"pool {opened.record.id} in {opened.uri}: {len(opened.shards):,} tables{counts}")
    for source in opened.record.work.sources:
        if source.status != "pinned":
            say(f"source {source.name} is {source.status}: this is another pool than others'")


def estimate_text(cost: Estimate) -> str:
    """What fetching a pool takes, as lines."""
    rows = [("tables", f"{cost.tables:,} files, {cost.table_bytes / 1e9:,.1f} GB")]
    rows.append(("features (--features)", f"{cost.feature_bytes / 1e9:,.1f} GB"))
    if cost.image_bytes is not None:
        rows.append(("pairs", f"{cost.pairs:,}"))
        rows.append(("images", f"about {cost.image_bytes / 1e12:,.2f} TB as tars"))
        rows.append(("time for images", f"about {cost.image_hours:,} hours, 100/s a process"))
    return table(rows, header=("what", "size"))


def show_images(record: AssetRecord, root: str, *, json: bool) -> None:
    """Print how much of a pool was there."""
    if json:
        show_json(record)
        return
    counts = dict(record.counts)
    rows, there = counts.pop("rows", 0), counts.pop("success", 0)
    bad_boxes = counts.pop("bad_face_boxes", 0)
    out(f"images {record.id} in {root}: {there:,} of {rows:,} rows ({there / max(rows, 1):.1%})")
    lost = [(name.removeprefix("failed/"), f"{number:,}") for name, number in counts.items()]
    if lost:
        out(table(lost, header=("why not", "rows")))
        out("try those again with --retry-failed")
    if bad_boxes:
        out(f"{bad_boxes:,} face boxes are outside their image, or are none")
    if not there:
        raise PoolError(f"not one of the {rows:,} rows gave an image; see the reasons above")


@app.command("download")
def download_tables(
    tables: Annotated[str, typer.Option(help="Folder or prefix of parquet with url and text.")],
    shards: Annotated[str, typer.Option("--out", help="Where the tars go.")],
    retry_failed: RetryFailed = False,
    changed: Changed = "drop",
    blur: Blur = True,
    connections: Connections = 512,
    timeout: Timeout = 10.0,
    retries: Retries = 2,
    workers: Processes = CORES,
    cluster: Cluster = None,
    json: Json = False,
) -> None:
    """Fetch the images of tables of your own, for the track byod. Run again to resume."""
    from pipelines.images.download import download
    from pipelines.images.pairs import open_pairs

    record = download(
        open_pairs(tables),
        out=shards,
        map_tasks=executor(workers, cluster=cluster),
        options=_options(changed, blur, connections, timeout, retries),
        retry_failed=retry_failed,
    )
    show_images(record, shards, json=json)


@app.command("score")
def score(
    name: Annotated[str, typer.Option(help="What the scores are called, in the step `scores`.")],
    scale: Annotated[str | None, typer.Option(help="Score the pool of this scale.")] = None,
    pool: Annotated[str | None, typer.Option(help="Or: folder or prefix of a pool.")] = None,
    tars: Annotated[
        str | None, typer.Option(help="The pool's tars; default: its folder `shards`.")
    ] = None,
    kind: Annotated[
        Literal["clip", "phash"],
        typer.Option(help="CLIP similarity of image and caption, or perceptual hashes."),
    ] = "clip",
    model: Annotated[
        str, typer.Option(help="A trained model's folder, or one of open_clip: NAME/WEIGHTS.")
    ] = "",
    device: Annotated[str | None, typer.Option(help="As torch names it; default: a GPU.")] = None,
    folder: Annotated[
        str | None, typer.Option("--out", help="Default: the assets of the workspace.")
    ] = None,
    workspace: Workspace = RUNS,
    workers: Processes = CORES,
    cluster: Cluster = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave images that do not decode unscored.")
    ] = False,
    json: Json = False,
) -> None:
    """Give every pair of a pool a score, for steps to select by; run again to resume."""
    from datacomp.curation import score as scoring
    from datacomp.curation.scorers import ScorerSpec, scorer_id
    from datacomp.pool import pool as pools
    from pipelines.images.pairs import SHARDS, open_pairs

    if (scale is None) == (pool is None):
        raise PoolError("say which pool: either --scale, or --pool")
    if (kind == "clip") != bool(model):
        raise PoolError("--kind clip needs --model; --kind phash has none")
    map_tasks = executor(workers, cluster=cluster)
    if scale is not None:
        opened = pools.open_scale(scale, workspace=workspace, map_tasks=map_tasks)
        tar_folder = tars or pools.images(scale, workspace=workspace)
    else:
        opened = open_pairs(str(pool))
        tar_folder = tars or f"{str(pool).rstrip('/')}/{SHARDS}"
    spec = ScorerSpec(kind=kind, model=model, device=device)
    record = scoring.score(
        opened,
        tar_folder,
        scorer=spec,
        scorer_id=scorer_id(spec),
        name=name,
        out=folder or f"{workspace}/assets/{name}",
        map_tasks=map_tasks,
        quarantine=quarantine,
    )
    if json:
        show_json(record)
        return
    counts = record.counts
    out(
        f"scores {record.id}: {counts['scored']:,} of {counts['rows']:,} rows have one; read them "
        f"in a pipeline with the step  - scores: {{of: {name}}}"
    )
