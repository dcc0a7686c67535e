"""The published tables of a pool: listed, fetched with resume, verified, and known to be whole.

They come from the hub's repository `mlfoundations/datacomp_<scale>`, or from a folder that holds a
copy of one. Files of sub-folders (xlarge has `part_*`) are put side by side, as the reference does.
A record is written only when every table is there with the bytes that the listing promises, so a
pool without a record is one that is not finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step as progress_step
from pipelines.records import (
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    digest,
    made_by,
    now,
    parse_record,
    sha256_file,
)
from pipelines.retries import HUB, hub_may_pass, patiently
from pipelines.storage.base import Store, copy_into, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.commits import Done, commit, find_done
from pipelines.storage.open import open_store

METADATA = "metadata"
REPOSITORIES = {
    scale: f"mlfoundations/datacomp_{scale.removeprefix('datacomp_')}"
    for scale in ("small", "medium", "large", "xlarge", "datacomp_1b")
}
PAIRS = {  # rows of the published pools (Gadre et al. 2023, table 1)
    "small": 12_800_000,
    "medium": 128_000_000,
    "large": 1_280_000_000,
    "xlarge": 12_800_000_000,
    "datacomp_1b": 1_400_000_000,
}
IMAGE_BYTES = 450e9 / 12_800_000  # of a pair in the tars, over the small pool
LICENCE = "CC-BY-4.0 (index); each picture keeps the licence of its owner"


class Listed(Frozen):
    """A file of a published pool. `sha256` is unknown where the listing does not have it."""

    path: str
    num_bytes: int
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Source(Frozen):
    """Where a published pool is: a repository of the hub, or a folder."""

    repository: str | None = None
    folder: str | None = None
    revision: str = "main"
    endpoint: str | None = Field(None, description="another hub than the public one")

    @property
    def shown(self) -> str:
        return self.folder or str(self.repository)

    def listing(self) -> list[Listed]:
        """The tables and features, by path. PoolError when there are none, or nobody answers."""
        files = self._in_folder() if self.folder else self._in_repository()
        chosen = sorted(
            (file for file in files if file.name.endswith((".parquet", ".npz"))),
            key=lambda file: file.name,
        )
        if not any(file.name.endswith(".parquet") for file in chosen):
            raise PoolError(f"{self.shown} holds no parquet files: it is not a published pool")
        names = Counter(file.name for file in chosen)
        twice = [name for name, number in names.items() if number > 1]
        if twice:
            raise PoolError(f"{self.shown} has two files {twice[0]} in different folders")
        return chosen

    def _in_folder(self) -> list[Listed]:
        root = Path(str(self.folder))
        if not root.is_dir():
            raise PoolError(f"there is no folder {root}; give --source a copy of the pool, or hf")
        return [
            Listed(path=str(path.relative_to(root)), num_bytes=path.stat().st_size)
            for path in sorted(root.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        ]

    def _in_repository(self) -> list[Listed]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(endpoint=self.endpoint)
        try:
            tree = patiently(
                lambda: list(
                    api.list_repo_tree(
                        str(self.repository),
                        recursive=True,
                        revision=self.revision,
                        repo_type="dataset",
                    )
                ),
                what=self.shown,
                may_pass=hub_may_pass,
                patience=lambda: HUB,
            )
        except Exception as error:  # the client has errors of four libraries
            raise PoolError(_unreachable(self, error)) from None
        return [
            Listed(
                path=file.path,
                num_bytes=file.size,
                sha256=file.lfs.sha256 if file.lfs is not None else None,
            )
            for file in tree
            if isinstance(file, RepoFile)
        ]

    def fetch(self, file: Listed, part: Path) -> None:
        """Copy a file to `part`; a download that was cut off resumes where it was."""
        if self.folder:
            shutil.copyfile(Path(self.folder) / file.path, part)
            return
        from huggingface_hub import hf_hub_download

        folder = part.parent / f".hub-{file.name}"  # what was fetched of it stays for the next try
        try:
            fetched = hf_hub_download(
                str(self.repository),
                file.path,
                repo_type="dataset",
                revision=self.revision,
                local_dir=folder,
                endpoint=self.endpoint,
            )
        except Exception as error:
            raise PoolError(_unreachable(self, error)) from None
        os.replace(fetched, part)


def _unreachable(source: Source, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{source.shown} cannot be read ({lines[0]}); what is there already is kept: run the same "
        "command again, or give --source a folder with a copy"
    )


class FileTask(Frozen):
    """One file to be there, whole. `out` is the pool's folder or prefix."""

    source: Source
    file: Listed
    out: str

    @property
    def key(self) -> str:
        """What the commit on a bucket is called."""
        return f"m-{digest([self.source.shown, self.file.model_dump()])[:24]}"


def open_source(scale: str, given: str) -> Source:
    """`hf`, or a folder. PoolError for a scale that is not published."""
    if given != "hf":
        return Source(folder=given)
    if scale not in REPOSITORIES:
        raise PoolError(f"no pool of scale {scale!r} is published; there are {', '.join(PAIRS)}")
    return Source(repository=REPOSITORIES[scale])


def fetch_metadata(
    scale: str, out: str, *, source: Source, features: bool, map_tasks: MapTasks
) -> PoolRecord:
    """Fetch the tables of a pool into `metadata/` below a folder or a bucket's prefix.

    Its features come too where they are asked for.

    Files that are there and whole are not fetched again. The record names the tables only, so the
    same pool has the same id with features and without.
    """
    started = now()
    listing = [file for file in source.listing() if features or file.name.endswith(".parquet")]
    tasks = [FileTask(source=source, file=file, out=out) for file in listing]
    total = sum(file.num_bytes for file in listing)
    with progress_step("fetch tables", total=total, unit="bytes") as bar:
        files = map_tasks(
            fetch_file, tasks, on_result=lambda n, _: bar.advance(listing[n].num_bytes)
        )
    tables = [file for file in files if file.name.endswith(".parquet")]
    record = PoolRecord.seal(
        work=PoolWork(
            name=f"datacomp-{scale}",
            variant="pairs",
            sources=(
                PoolSource(
                    name=f"datacomp_{scale}",
                    version="",
                    sha256=digest([[file.name, file.sha256] for file in tables]),
                    licence=LICENCE,
                ),
            ),
        ),
        parents={},
        outputs=tables,
        made_by=made_by(started, locations={"source": source.shown, "out": out}),
    )
    store = open_store(out)
    if store.exists(RECORD):
        standing = parse_record(store.read_bytes(RECORD), source=f"{out}/{RECORD}")
        if standing.id != record.id:
            raise PoolError(
                f"{out} holds another pool than {source.shown} now has; choose another place"
            )
        return standing  # type: ignore[no-any-return]
    write_bytes(store, RECORD, record.to_json())
    return record


def fetch_file(task: FileTask) -> File:
    """One file in its place, verified. PoolError when its bytes are not those of the listing.

    On a disk a file that is there is hashed again; on a bucket the commit of it is looked for, and
    its size.
    """
    store = open_store(task.out)
    name = f"{METADATA}/{task.file.name}"
    path = store.local_path(name)
    if path is None:
        return _to_bucket(task, store, name)
    if path.is_file() and path.stat().st_size == task.file.num_bytes:
        sha256 = sha256_file(path)
        if task.file.sha256 in (None, sha256):
            return _named(task.file, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    file = _fetch_to(task, part)
    os.replace(part, path)
    shutil.rmtree(path.parent / f".hub-{path.name}", ignore_errors=True)
    return file


def _to_bucket(task: FileTask, store: Store, name: str) -> File:
    sizes = {entry.name: entry.num_bytes for entry in store.list(name)}
    there = find_done(store, task.key)
    if there is not None and sizes.get(name) == task.file.num_bytes:
        return there.files[0]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / task.file.name
        file = _fetch_to(task, part)
        with part.open("rb") as source, store.create(name) as target:
            copy_into(source, target, chunk_bytes=8 << 20)
    return commit(store, Done(key=task.key, files=(file,))).files[0]


def _fetch_to(task: FileTask, part: Path) -> File:
    """Fetch a file to `part` and verify it."""
    remote = task.file
    task.source.fetch(remote, part)
    size, sha256 = part.stat().st_size, sha256_file(part)
    if size != remote.num_bytes or remote.sha256 not in (None, sha256):
        part.unlink()
        raise PoolError(
            f"{remote.path} of {task.source.shown} came with {size:,} bytes and sha256 {sha256}, "
            f"expected {remote.num_bytes:,} and {remote.sha256}; run the same command again"
        )
    return _named(remote, sha256)


def _named(file: Listed, sha256: str) -> File:
    return File(name=f"{METADATA}/{file.name}", sha256=sha256, num_bytes=file.num_bytes)


# ---- what it will take


class Estimate(Frozen):
    """What fetching a pool takes, before it begins."""

    tables: int
    table_bytes: int
    feature_bytes: int
    pairs: int | None
    image_bytes: int | None
    image_hours: float | None


def estimate(
    scale: str, listing: Sequence[Listed], *, workers: int, rate: float = 100.0
) -> Estimate:
    """Bytes of tables and features as listed, of images by the published pool's size.

    `rate` is images a second of one process.
    """
    tables = [file for file in listing if file.name.endswith(".parquet")]
    pairs = PAIRS.get(scale)
    return Estimate(
        tables=len(tables),
        table_bytes=sum(file.num_bytes for file in tables),
        feature_bytes=sum(f.num_bytes for f in listing if f.name.endswith(".npz")),
        pairs=pairs,
        image_bytes=round(pairs * IMAGE_BYTES) if pairs else None,
        image_hours=round(pairs / rate / workers / 3600, 1) if pairs else None,
    )
