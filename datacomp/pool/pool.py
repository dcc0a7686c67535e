"""The pools of DataComp's scales: found or built, opened as tables of pairs.

A pool's folder has `metadata/` (tables and features, what curation reads), `shards/` (images),
`record.json`, and for the tiny one `eval/`.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.assets.catalogue import Assets, cache_folder
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step
from pipelines.formats.pool import Pool
from pipelines.images.pairs import SHARDS, open_pairs
from pipelines.records import PoolRecord, PoolSource, PoolWork, digest, made_by, now
from pipelines.storage.base import write_bytes as put
from pipelines.storage.chain import RECORD
from pipelines.storage.local import LocalStore

SCALES = ("tiny", "small", "medium", "large", "xlarge", "datacomp_1b")


def folder(scale: str, *, workspace: str) -> Path:
    """Where the pool of a scale is in a workspace."""
    return Path(workspace) / "pools" / f"datacomp-{scale}"


def images(scale: str, *, workspace: str) -> str:
    """Where the images of a scale's pool are, as tars."""
    return str(folder(scale, workspace=workspace) / SHARDS)


def open_scale(scale: str, *, workspace: str, map_tasks: MapTasks) -> Pool:
    """The pool of a scale; the tiny one is built when it is not there."""
    root = folder(scale, workspace=workspace)
    if not (root / RECORD).is_file():
        if scale != "tiny":
            raise PoolError(
                f"there is no pool of scale {scale!r} in {root}; fetch it with: datacomp pool "
                f"--scale {scale} --workspace {workspace}"
            )
        build_tiny(root, map_tasks=map_tasks)
    return open_pairs(str(root))


def assets(scale: str, *, workspace: str) -> Assets:
    """Files for pipelines: what was made in this workspace, then the user's cache."""
    return Assets(folders=(Path(workspace) / "assets",))


def eval_data(scale: str, *, workspace: str) -> str:
    """The folder with the evaluation data of a scale: the tiny pool brings its own."""
    if scale == "tiny":
        return str(folder(scale, workspace=workspace) / "eval")
    return str(Path(workspace) / "eval")


def build_tiny(root: Path, *, map_tasks: MapTasks) -> PoolRecord:
    """Fetch, draw and record the tiny pool."""
    from datacomp.pool import tiny_pool

    started = now()
    root.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is said at once
    with step("fetch packages and draw images", unit="steps") as bar:
        built, fetched = tiny_pool.build(
            root,
            cache=cache_folder() / "packages",
            map_tasks=map_tasks,
            progress=lambda title, at, total: bar.at(at, total, extra=title),
        )
        bar.note(f"{built.counts['pairs']:,} pairs in {tiny_pool.NUM_SHARDS} shards")
    record = PoolRecord.seal(
        work=PoolWork(
            name="datacomp-tiny",
            variant="pairs",
            sources=tuple(
                PoolSource(
                    name=item.source.name,
                    version=item.version or "",
                    sha256=item.sha256 or "",
                    licence=item.source.licence,
                    status=item.status,
                )
                for item in fetched
            ),
            parameters={"eval": digest([file.content() for file in built.eval_files])},
        ),
        parents={},
        outputs=built.files,
        counts=built.counts,
        made_by=made_by(started, locations={"out": str(root)}),
    )
    put(LocalStore(root), RECORD, record.to_json())
    return record
