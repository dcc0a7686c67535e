"""The published pools of DCLM: what they would cost, then fetched, verified and recorded.

The files are in Common Crawl's bucket, the same ones behind `https://data.commoncrawl.org` (no
account needed), and as a copy of the 400m-1x pool on the Hugging Face hub, which its makers call
outdated. A file is fetched by ranges, checked against the server's length and checksum, and
inflated to its end before it counts, so that a truncated file is noticed now.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, TypeAdapter

from pipelines.assets.catalogue import AssetError, Assets
from pipelines.engine.run import RECOVERABLE
from pipelines.engine.run_folder import RUN, RunFailed, RunFile, read_run
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.execution.monitor import Watch
from pipelines.execution.once import once
from pipelines.formats.inflate import Inflated
from pipelines.formats.shards import ShardError
from pipelines.records import Frozen, PoolRecord, PoolSource, PoolWork, digest, made_by, now
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.open import open_store
from pipelines.yaml_text import load_plain

Variant = Literal["raw", "extracted", "refinedweb"]
Source = Literal["s3", "https", "hf"]

BUCKET = "s3://commoncrawl"
ROOTS: dict[Source, str] = {"s3": BUCKET, "https": "https://data.commoncrawl.org"}
CATALOGUE = Path(__file__).parent / "pools.yaml"
ASKED_FILES = 64  # whose sizes are asked for, to know about the rest
COPY_BYTES = 1 << 20  # read at a time

DOLLARS_PER_MILLION_GETS = 0.40  # S3's list price, us-east-1
DOLLARS_PER_GB_MONTH = 0.023  # S3's list price, us-east-1
PRICES = (
    "S3 standard in us-east-1, list prices of 2025; Common Crawl pays for what leaves its bucket"
)


class RemotePool(Frozen):
    """One published pool."""

    scale: str
    variant: Variant
    tokens: int | None = Field(None, description="of the whole pool, as published")
    num_files: int | None = Field(None, description="lines of its list, as published")
    list: str | None = Field(None, description="asset with one key a line")
    listing: str | None = Field(None, description="key of a published list of more than this pool")
    folders: tuple[str, ...] = Field((), description="what of that list the pool is")
    hub: str | None = Field(None, description="dataset on the Hugging Face hub")

    @property
    def name(self) -> str:
        ending = "" if self.variant == "extracted" else f"-{self.variant}"
        return f"dclm-{self.scale}{ending}"


class Cost(Frozen):
    """What fetching a pool takes. Bytes are estimated from some files unless all were asked."""

    pool: str
    source: str
    num_files: int
    num_bytes: int
    bytes_stderr: float = Field(0.0, description="standard error of num_bytes")
    hours: float = Field(description="at the given rate")
    mbit_per_second: float
    request_dollars: float
    storage_dollars_per_month: float
    prices: str = PRICES
    first_keys: tuple[str, ...] = ()


def find(scale: str, variant: Variant) -> RemotePool:
    """The published pool. PoolError lists what there is."""
    pools = TypeAdapter(list[RemotePool]).validate_python(
        load_plain(CATALOGUE.read_text(encoding="utf-8"))
    )
    for pool in pools:
        if (pool.scale, pool.variant) == (scale, variant):
            return pool
    of_scale = ", ".join(pool.variant for pool in pools if pool.scale == scale)
    raise PoolError(
        f"there is no published {variant!r} pool of scale {scale!r}"
        + (f"; there is: {of_scale}" if of_scale else "")
    )


def root_of(pool: RemotePool, source: Source, mirror: str | None = None) -> str:
    """Where the keys of a pool are looked up; `mirror` is another place with the same keys."""
    if mirror is not None:
        return mirror
    if source != "hf":
        return ROOTS[source]
    if pool.hub is None:
        raise PoolError(f"{pool.name} is not on the Hugging Face hub; use --source https or s3")
    return f"hf://datasets/{pool.hub}"


def keys_of(pool: RemotePool, source: Source, root: str, *, assets: Assets) -> list[str]:
    """The keys of the pool's files, below the root. AssetError for a list that is not there."""
    store = open_store(root)
    if source == "hf":
        return [entry.name for entry in store.list() if ".jsonl" in entry.name]
    if pool.listing is not None:
        lines = gzip.decompress(store.read_bytes(pool.listing)).decode().split()
        keys = [line for line in map(_below_bucket, lines) if any(f in line for f in pool.folders)]
    else:
        assert pool.list is not None
        try:
            path = assets.path(pool.list)
        except AssetError as error:
            raise AssetError(f"{error} (one key a line, as {BUCKET}/crawl-data/...)") from None
        lines = path.read_text(encoding="utf-8").split()
        keys = [_below_bucket(line) for line in lines]
    if not keys:
        raise PoolError(f"the list of {pool.name} names no file")
    if pool.num_files is not None and len(keys) != pool.num_files:
        raise PoolError(
            f"the list of {pool.name} names {len(keys):,} files; the published one has "
            f"{pool.num_files:,}: get it whole"
        )
    twice = len(keys) - len(set(keys))
    if twice:
        raise PoolError(f"the list of {pool.name} names {twice} files twice")
    return sorted(keys)


def _below_bucket(line: str) -> str:
    return line.removeprefix(f"{BUCKET}/").lstrip("/")


def cost_of(
    pool: RemotePool, keys: Sequence[str], root: str, *, mbit_per_second: float = 1000.0
) -> Cost:
    """Bytes, hours and dollars of fetching these keys, before anything is fetched."""
    store = open_store(root)
    chosen = list(keys)
    if len(keys) > ASKED_FILES:
        chosen = random.Random(0).sample(chosen, ASKED_FILES)
    with ThreadPoolExecutor(16) as threads:
        sizes = list(threads.map(lambda key: size_of(store, key), chosen))
    mean = statistics.fmean(sizes)
    stderr = 0.0
    if len(keys) > len(sizes):
        stderr = len(keys) * statistics.stdev(sizes) / math.sqrt(len(sizes))
    num_bytes = round(mean * len(keys))
    return Cost(
        pool=pool.name,
        source=root,
        num_files=len(keys),
        num_bytes=num_bytes,
        bytes_stderr=round(stderr),
        hours=num_bytes * 8 / (mbit_per_second * 1e6) / 3600,
        mbit_per_second=mbit_per_second,
        request_dollars=_gets(num_bytes, len(keys)) / 1e6 * DOLLARS_PER_MILLION_GETS,
        storage_dollars_per_month=num_bytes / 1e9 * DOLLARS_PER_GB_MONTH,
        first_keys=tuple(keys[:3]),
    )


def _gets(num_bytes: int, num_files: int) -> float:
    return num_files + num_bytes / (8 << 20)


def size_of(store: Store, key: str) -> int:
    """The size of one file, without reading it."""
    with store.open(key) as file:
        return file.seek(0, 2)


# ---- fetching


class FetchTask(Frozen):
    """One file of the pool."""

    root: str
    name: str
    out: str
    shard: int
    key: str

    @property
    def uri(self) -> str:
        return self.out

    @property
    def step(self) -> int:
        return 0


@once
def fetch(task: FetchTask, store: Store) -> Done:
    """Copy one file and check it: its length, its md5 where the server has it, its inflation."""
    remote = open_store(task.root)
    where = f"{task.root}/{task.name}"
    folder, _, leaf = f"data/{task.name}".rpartition("/")
    stem, dot, ending = leaf.partition(".")
    with remote.open(task.name) as source:
        size = source.seek(0, 2)
        source.seek(0)
        with store.create(attempt_name(f"{folder}/{stem}", dot + ending)) as writer:
            copied = _Copied(source, writer)
            kind = "zstd" if leaf.endswith((".zst", ".zstd")) else "gzip"
            inflated = Inflated(copied, kind=kind)
            if leaf.endswith((".gz", ".zst", ".zstd")):
                while inflated.read(COPY_BYTES):
                    pass
            while copied.read(COPY_BYTES):
                pass
            if inflated.fault:
                raise ShardError(f"{where}: {inflated.fault}: the published file is damaged")
            if copied.num_bytes != size:
                raise ShardError(f"{where}: {copied.num_bytes} bytes came, expected {size}")
            etag = _etag(remote, task.name)
            if etag is not None and etag != copied.md5.hexdigest():
                raise ShardError(f"{where}: its md5 is {copied.md5.hexdigest()}, expected {etag}")
    return Done(key=task.key, files=(writer.file(),), counts={"bytes": size})


def _etag(store: Store, name: str) -> str | None:
    """The md5 that the server reports; S3's ETag of an upload in parts is none."""
    ask = getattr(store, "etag", None)
    etag = None if ask is None else ask(name)
    is_md5 = etag is not None and len(etag) == 32 and all(c in "0123456789abcdef" for c in etag)
    return etag if is_md5 else None


class _Copied:
    """A stream whose bytes go into a writer as they are read."""

    def __init__(self, stream: BinaryIO, writer: Any) -> None:
        self._stream, self._writer = stream, writer
        self.md5 = hashlib.md5()
        self.num_bytes = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._writer.write(data)
        self.md5.update(data)
        self.num_bytes += len(data)
        return data


def fetch_all(
    pool: RemotePool,
    keys: Sequence[str],
    root: str,
    *,
    out: str,
    map_tasks: MapTasks = map_here,
    max_failed_shards: int = 0,
) -> PoolRecord:
    """Fetch the files that are not there yet, and record the pool. Run again, it resumes.

    The record's id covers the files' checksums, not where they came from: whoever fetches the same
    files has the same pool.
    """
    started = now()
    store = open_store(out)
    names = digest(list(keys))
    key = digest([pool.name, names])
    file = RunFile(
        key=key,
        pipeline=pool.name,
        input_uri=root,
        num_shards=len(keys),
        num_passes=1,
        started=started,
    )
    if not store.put_if_absent(RUN, file.model_dump_json(indent=2).encode()):
        known = read_run(store)
        if known.key != key:
            raise RunFailed(f"{store.uri} holds other work ({known.pipeline!r}); choose another")
    tasks = [
        FetchTask(
            root=root,
            name=name,
            out=store.uri,
            shard=shard,
            key=f"k-{shard:06d}-{digest([pool.name, name])[:16]}",
        )
        for shard, name in enumerate(keys)
    ]
    with Watch(
        store,
        name=pool.name,
        key=key,
        map_tasks=map_tasks,
        failures_allowed=max_failed_shards,
        recoverable=RECOVERABLE,
    ) as watch:
        done = watch.stage(f"{pool.name}: fetch", fetch, tasks, unit="files", names=list(keys))
        record = PoolRecord.seal(
            work=PoolWork(
                name=pool.name,
                variant=pool.variant,
                sources=(
                    PoolSource(
                        name=f"{pool.name} of Common Crawl",
                        version="",
                        sha256=digest([[f.sha256 for f in result.files] for result in done]),
                        licence="Common Crawl terms of use; pages keep the rights of their authors",
                    ),
                ),
                parameters={"keys": names, "scale": pool.scale},
            ),
            parents={},
            outputs=[result.files[0] for result in done],
            counts={
                "files": len(done),
                "bytes": sum(result.counts["bytes"] for result in done),
            },
            made_by=made_by(started, locations={"out": store.uri, "source": root}),
        )
        write_bytes(store, RECORD, record.to_json())
        watch.event("finished", id=record.id)
    return record
