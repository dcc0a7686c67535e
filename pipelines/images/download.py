"""Download the images of a table of pairs: fetch, check, shrink, and write them as tars.

Every 10,000 rows of a table become a shard in img2dataset's layout (`image_tars`), however many of
them fail. A shard is the unit of restart; within it many URLs are fetched at once, images are
decoded on threads, and samples are in the order of the rows. At the end a record states how many
images were still available, and why others failed; datasets packed from these tars refer to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import short
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.formats.shards import ShardError
from pipelines.formats.tars import END, Member, samples, tar_bytes
from pipelines.formats.writers import write_table
from pipelines.images import image_tars
from pipelines.images.addresses import FetchError
from pipelines.images.fetch import Fetcher, FetchOptions, open_fetcher
from pipelines.images.image_tars import NO_DOWNLOAD, NO_IMAGE, SUCCESS, Row
from pipelines.images.pairs import (
    DAMAGED,
    TEXT,
    TEXTS,
    UID,
    URL,
    check_pairs,
    text_column,
    with_uids,
)
from pipelines.images.resize import ImageRefused, Kept, ResizeOptions, keep
from pipelines.kernels.uids import is_uid
from pipelines.records import (
    AssetRecord,
    AssetWork,
    File,
    Frozen,
    digest,
    made_by,
    now,
    sha256_bytes,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, standing
from pipelines.storage.commits import (
    DeterminismError,
    Done,
    attempt_name,
    commit,
    done_name,
    find_done,
)
from pipelines.storage.open import open_store

ROWS = 10_000  # of a shard, as img2dataset's default
DECODERS = 2  # threads of one process that decode
COLUMNS = {"url": "url", "text": "caption", UID: "uid", "face_bboxes": "boxes", "sha256": "sha256"}


class DownloadOptions(Frozen):
    """How images are fetched and stored; `changed` decides about images with another sha256."""

    fetch: FetchOptions = FetchOptions()
    resize: ResizeOptions = ResizeOptions()
    changed: Literal["drop", "keep"] = "drop"
    rows_per_shard: int = ROWS

    def content(self) -> dict[str, Any]:
        """The options that change the output (hashed into the key); concurrency does not."""
        fetch = self.fetch.model_dump(mode="json", exclude={"connections", "allow"})
        return self.model_dump(mode="json", exclude={"fetch"}) | {"fetch": fetch}


class ShardTask(Frozen):
    """Rows [begin, begin + rows) of one table, for one shard. `retry`: only rows that failed."""

    uri: str
    key: str
    shard: int
    tables: str
    table: str
    begin: int
    rows: int
    options: DownloadOptions
    retry: bool = False


def download(
    pool: Pool,
    *,
    out: str,
    map_tasks: MapTasks,
    options: DownloadOptions | None = None,
    retry_failed: bool = False,
) -> AssetRecord:
    """Fetch the images of a pool's tables; returns the record of what was available.

    Run again, it continues with the missing shards; with `retry_failed`, rows that failed are tried
    again and shards that gain images are replaced. PoolError for a folder with the images of
    another pool, or fetched with other options, and for `retry_failed` before the first download
    finished.
    """
    started = now()
    options = options or DownloadOptions()
    store = open_store(out)
    work = AssetWork(
        name="pictures", licence="of each picture's owner", inputs=(), parameters=options.content()
    )
    parents = {"pool": pool.record.id}
    key = AssetRecord.key_of(work=work, parents=parents)
    before = standing(
        store,
        key=key,
        kind=AssetRecord,
        other="another pool, or other options",
    )
    if before is not None and not retry_failed:
        return before
    if retry_failed and before is None:
        raise PoolError(f"{store.uri} is not finished; fetch it first without --retry-failed")
    tasks = plan(pool, store, key, options, retry=retry_failed)
    files: dict[int, tuple[File, ...]] = {}
    counts: Counter[str] = Counter()
    with progress_step("fetch images", total=sum(task.rows for task in tasks), unit="rows") as bar:

        def settle(index: int, done: Done) -> None:
            files[index] = _settle(store, tasks[index].shard, done)
            counts.update(done.counts)
            available = counts[SUCCESS] / max(counts["rows"], 1)
            bar.at(counts["rows"], extra=f"{available:.1%} available")

        done = map_tasks(run_shard, tasks, on_result=settle)
        bar.note(f"{short(counts[SUCCESS])} images")
    record = AssetRecord.seal(
        work=work,
        parents=parents,
        outputs=[file for index in range(len(tasks)) for file in files[index]],
        counts=dict(sorted(counts.items())),
        made_by=made_by(started, locations={"tables": pool.uri, "out": store.uri}),
    )
    write_bytes(store, RECORD, record.to_json())
    for result in done:
        store.remove(done_name(result.key))
    return record


def plan(
    pool: Pool, store: Store, key: str, options: DownloadOptions, *, retry: bool = False
) -> list[ShardTask]:
    """The tasks of all shards of a pool's tables in order; a shard has rows of one table only."""
    source = open_store(pool.uri)
    tasks: list[ShardTask] = []
    for shard in pool.shards:
        total = num_rows(source, shard.name)
        for begin in range(0, total, options.rows_per_shard):
            number = len(tasks)
            mark = ""
            if retry:
                # The status table is part of the key, so that each retry is a task of its own.
                status_table = f"{image_tars.shard_name(number)}.parquet"
                mark = sha256_bytes(store.read_bytes(status_table))
            tasks.append(
                ShardTask(
                    uri=store.uri,
                    key=f"d-{number:08d}-{digest([key, shard.sha256, begin, mark])[:16]}",
                    shard=number,
                    tables=pool.uri,
                    table=shard.name,
                    begin=begin,
                    rows=min(options.rows_per_shard, total - begin),
                    options=options,
                    retry=retry,
                )
            )
    return tasks


def num_rows(store: Store, name: str) -> int:
    """Rows of a parquet file, from its footer. ShardError if it is not a parquet file."""
    with store.open(name) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except DAMAGED as error:
            raise ShardError(f"{store.uri}/{name} is not a parquet file: {error}") from None


def _settle(store: Store, shard: int, done: Done) -> tuple[File, ...]:
    """Move a shard's files to the names that the resharder and img2dataset expect."""
    stem = image_tars.shard_name(shard)
    named = []
    for file, name in zip(
        done.files, (f"{stem}.tar", f"{stem}.parquet", f"{stem}_stats.json"), strict=True
    ):
        store.move(file.name, name)
        named.append(file.model_copy(update={"name": name}))
    return tuple(named)


# ---- one shard


@dataclass
class Request:
    """A row of the table: the URL to fetch, and what the image is checked against."""

    key: str
    uid: str | None
    url: str | None
    caption: str | None
    boxes: object  # face boxes as in the table; checked when a face is blurred
    sha256: str | None

    def row(self, status: str, **more: Any) -> Row:
        return Row(
            uid=self.uid or "",
            caption=self.caption,
            url=self.url,
            key=self.key,
            status=status,
            **more,
        )

    def failed(self, status: str, reason: str, detail: str = "") -> Row:
        message = reason if detail in ("", reason) else f"{reason}: {detail}"
        return self.row(status, error_message=message)


def run_shard(task: ShardTask) -> Done:
    """Fetch one shard and commit it; if another attempt committed first, return its commit."""
    store = open_store(task.uri)
    finished = find_done(store, task.key)
    if finished is not None:
        return finished
    done = asyncio.run(_fetch_shard(task, store))
    try:
        return commit(store, done)
    except DeterminismError:  # servers answered the two attempts differently
        first = find_done(store, task.key)
        assert first is not None
        for file in done.files:
            store.remove(file.name)
        return first


async def _fetch_shard(task: ShardTask, store: Store) -> Done:
    requests = read_rows(task)
    bad_boxes = 0
    rows_by_key: dict[str, Row] = {}
    images: dict[str, bytes] = {}  # of an earlier download
    if task.retry:
        rows_by_key, images = _before(task, store)
    places: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryFile() as spool, ThreadPoolExecutor(DECODERS) as decoders:
        async with open_fetcher(task.options.fetch) as fetcher:

            async def fetch_one(row: Request) -> None:
                nonlocal bad_boxes
                rows_by_key[row.key], kept = await _fetch_row(row, task.options, fetcher, decoders)
                if kept is not None:
                    places[row.key] = (spool.seek(0, 2), len(kept.data))
                    spool.write(kept.data)
                    bad_boxes += kept.bad_boxes

            await asyncio.gather(*(fetch_one(row) for row in requests if row.key not in images))
        rows = [rows_by_key[row.key] for row in requests]
        files = _write(task, store, rows, spool, places, images)
    counts = Counter({"rows": len(rows)})
    for row in rows:
        counts[SUCCESS if row.status == SUCCESS else f"failed/{image_tars.reason_of(row)}"] += 1
    if bad_boxes:
        counts["bad_face_boxes"] = bad_boxes
    return Done(key=task.key, files=files, counts=dict(sorted(counts.items())))


async def _fetch_row(
    request: Request, options: DownloadOptions, fetcher: Fetcher, decoders: ThreadPoolExecutor
) -> tuple[Row, Kept | None]:
    """The outcome of one row, and its image unless it failed."""
    if request.uid is None or not is_uid(request.uid):
        detail = "expected 32 lower-case hexadecimal digits"
        return request.failed(NO_DOWNLOAD, "no_uid", detail), None
    if not request.url:
        return request.failed(NO_DOWNLOAD, "bad_url", "there is none"), None
    try:
        async with fetcher.body(request.url) as data:
            sha256 = hashlib.sha256(data).hexdigest()
            same = (request.sha256 or "").strip().lower() in ("", sha256)
            if not same and options.changed == "drop":
                return request.failed(
                    NO_DOWNLOAD, "changed", "another sha256 than the table's"
                ), None
            loop = asyncio.get_running_loop()
            kept = await loop.run_in_executor(decoders, keep, data, request.boxes, options.resize)
    except FetchError as error:
        return request.failed(NO_DOWNLOAD, error.reason, str(error)), None
    except ImageRefused as error:
        return request.failed(NO_IMAGE, error.reason, str(error)), None
    row = request.row(
        SUCCESS,
        error_message=None if same else "changed",
        width=kept.width,
        height=kept.height,
        original_width=kept.original_width,
        original_height=kept.original_height,
        exif=kept.exif,
        sha256=sha256,
    )
    return row, kept


def read_rows(task: ShardTask) -> list[Request]:
    """The rows of a shard. ShardError names a damaged table, PoolError a missing column."""
    store = open_store(task.tables)
    where = f"{store.uri}/{task.table}"
    with store.open(task.table) as file:
        try:
            parquet = pq.ParquetFile(file)
            present = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            for name in ("url", "text"):
                if name not in present:
                    raise PoolError(
                        f"{where} has no column {name!r}; images are fetched by url and stored "
                        "with their text"
                    )
            check_pairs(parquet.schema_arrow, where)
            table = _slice(parquet, task.begin, task.rows, present)
            table.validate(full=True)
        except DAMAGED as error:
            if isinstance(error, PoolError | ShardError):
                raise
            raise ShardError(f"{where} is damaged: {error}") from None
    for name in TEXTS:
        if name in present:
            column = table.schema.get_field_index(name)
            table = table.set_column(column, name, text_column(table.column(name), name, where))
    urls, captions = (table.column(name).combine_chunks() for name in (URL, TEXT))
    own = table.column(UID).combine_chunks() if UID in present else None
    columns = {COLUMNS[name]: table.column(name).to_pylist() for name in present}
    columns["uid"] = with_uids(own, urls, captions).to_pylist()
    empty: list[Any] = [None] * table.num_rows
    given = [columns.get(name, empty) for name in ("uid", "url", "caption", "boxes", "sha256")]
    return [
        Request(image_tars.key_of(task.shard, number), *values)
        for number, values in enumerate(zip(*given, strict=True))
    ]


def _slice(parquet: pq.ParquetFile, begin: int, rows: int, columns: Sequence[str]) -> pa.Table:
    """Rows [begin, begin + rows) of a file; reads only the row groups that have them."""
    groups: list[int] = []
    first = start = 0
    for number in range(parquet.metadata.num_row_groups):
        size = parquet.metadata.row_group(number).num_rows
        if first < begin + rows and first + size > begin:
            if not groups:
                start = first
            groups.append(number)
        first += size
    return parquet.read_row_groups(groups, columns=list(columns)).slice(begin - start, rows)


def _before(task: ShardTask, store: Store) -> tuple[dict[str, Row], dict[str, bytes]]:
    """The rows and images of an earlier download of this shard, by key."""
    stem = image_tars.shard_name(task.shard)
    with store.open(f"{stem}.parquet") as file:
        rows = {row["key"]: Row.model_validate(row) for row in pq.read_table(file).to_pylist()}
    images = {}
    with tar_bytes(store, f"{stem}.tar") as data:
        for sample in samples(data, f"{store.uri}/{stem}.tar"):
            member = _image(sample)
            images[member.key.decode()] = bytes(data[member.start : member.start + member.size])
    return rows, images


def _image(sample: Sequence[Member]) -> Member:
    return next(member for member in sample if member.extension == "jpg")


def _write(
    task: ShardTask,
    store: Store,
    rows: Sequence[Row],
    spool: IO[bytes],
    places: dict[str, tuple[int, int]],
    before: dict[str, bytes],
) -> tuple[File, ...]:
    """Write tar, table and stats of a shard, under names of this attempt."""
    stem = f"work/{image_tars.shard_name(task.shard)}"
    with store.create(attempt_name(stem, ".tar")) as out:
        for row in rows:
            if row.status != SUCCESS:
                continue
            if row.key in places:
                begin, size = places[row.key]
                spool.seek(begin)
                data = spool.read(size)
            else:
                data = before[row.key]
            out.write(image_tars.sample(row, data))
        out.write(END)
    images = sum(row.status == SUCCESS for row in rows)
    return (
        out.file(num_rows=images),
        write_table(store, attempt_name(stem, ".parquet"), image_tars.table_of(rows)),
        write_bytes(store, attempt_name(stem, ".json"), image_tars.stats_of(rows)),
    )
