"""The pools of DCLM's scales: found or built, verified, opened as tables of documents.

The tiny scale's pool is built here: packages from the registries become WARC files, those are read
as Common Crawl is read, and the documents are written as parquet shards with a PoolRecord.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from dclm.pool.extract import ExtractTask, extract
from dclm.pool.tiny_pool import TinyPool, build
from evals.text.heldout import build_tiny_tasks
from pipelines.assets.catalogue import Assets, cache_folder
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step
from pipelines.formats.pool import Pool
from pipelines.formats.pool import open_pool as open_tables
from pipelines.formats.warc import ExtractOptions
from pipelines.records import (
    PoolRecord,
    PoolSource,
    PoolWork,
    digest,
    made_by,
    now,
)
from pipelines.storage.base import write_bytes as put
from pipelines.storage.chain import RECORD
from pipelines.storage.local import LocalStore

ASSETS = Path(__file__).parents[1] / "assets"
EVAL_SEED = 20241123  # which held-out passages become questions; part of suite `tiny` version 1


def folder(scale: str, *, workspace: str) -> Path:
    """Where the pool of a scale is in a workspace."""
    return Path(workspace) / "pools" / f"dclm-{scale}"


def open_scale(scale: str, *, workspace: str, map_tasks: MapTasks) -> Pool:
    """The pool of a scale; the tiny one is built when it is not there."""
    root = folder(scale, workspace=workspace)
    if not (root / RECORD).is_file():
        if scale != "tiny":
            raise PoolError(
                f"there is no pool of scale {scale!r} in {root}; get it with `dclm pool --scale "
                f"{scale}`, or put its shards there, with the record that `dclm register` writes"
            )
        build_tiny(root, map_tasks=map_tasks)
    return open_tables(str(root))


def assets(scale: str, *, workspace: str) -> Assets:
    """Files for pipelines: what was trained here, what the pool brought, what the package has."""
    root = folder(scale, workspace=workspace)
    return Assets(folders=(Path(workspace) / "assets", root / "sources", ASSETS))


def eval_data(scale: str, *, workspace: str) -> str:
    """The folder with the evaluation data of a scale.

    The tiny pool brings its own; those of all other scales are in one folder (`evals fetch`).
    """
    if scale == "tiny":
        return str(folder(scale, workspace=workspace) / "eval")
    return str(Path(workspace) / "eval")


def positives(*, workspace: str) -> Path:
    """The tiny pool's good prose, for training a quality classifier."""
    return folder("tiny", workspace=workspace) / "sources" / "positives.jsonl.gz"


# ---- the tiny pool


def build_tiny(root: Path, *, map_tasks: MapTasks) -> PoolRecord:
    """Fetch, pack, extract and record the tiny pool; what is already done is kept."""
    started = now()
    sources = root / "sources"
    built = _build_sources(sources)
    options = ExtractOptions(encoding="detect")  # as its documents are pinned
    tasks = [
        ExtractTask(
            source=str(sources),
            name=warc.name,
            out=str(root),
            shard=shard,
            options=options,
            key=f"x-{shard:05d}-{digest([warc.sha256, options.model_dump()])[:16]}",
        )
        for shard, warc in enumerate(built.warcs)
    ]
    num_pages = sum(warc.num_pages for warc in built.warcs)
    with step("read pages from WARC files", total=num_pages, unit="pages") as bar:
        done = map_tasks(
            extract, tasks, on_result=lambda _, result: bar.advance(result.counts["pages"])
        )
        kept = sum(result.counts["documents"] for result in done)
        bar.note(f"{kept:,} documents with text")
    build_tiny_tasks(sources / built.heldout.name, root / "eval", seed=EVAL_SEED)
    counts: dict[str, int] = {}
    for result in done:
        for name, number in result.counts.items():
            if name not in ("bytes", "text_bytes"):
                counts[name] = counts.get(name, 0) + number
    record = PoolRecord.seal(
        work=PoolWork(
            name="dclm-tiny",
            variant="extracted",
            sources=tuple(
                PoolSource(
                    name=source.name,
                    version=source.version or "",
                    sha256=source.sha256 or "",
                    licence=source.licence,
                    status=source.status,
                )
                for source in built.sources
            ),
            parameters={
                "content": built.identity,
                "extraction": options.model_dump(mode="json"),
                "eval_seed": EVAL_SEED,
            },
        ),
        parents={},
        outputs=[
            result.files[0] for result in done
        ],  # the documents; rejected pages are next to it
        counts=counts,
        made_by=made_by(started, locations={"out": str(root)}),
    )
    put(LocalStore(root), RECORD, record.to_json())
    return record


def _build_sources(out: Path) -> TinyPool:
    """The WARC files, held-out prose and positives; built again unless they are whole."""
    report = out / "sources.json"
    with step("fetch packages and pack pages", unit="steps") as bar:
        built = build(
            out,
            cache=cache_folder() / "packages",
            progress=lambda title, at, total: bar.at(at, total, extra=title),
        )
        pages = sum(warc.num_pages for warc in built.warcs)
        size = sum(warc.num_bytes for warc in built.warcs) / 1e6
        bar.note(f"{pages:,} pages, {len(built.warcs)} WARC files, {size:.1f} MB")
    report.write_bytes(orjson.dumps(built.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    return built
