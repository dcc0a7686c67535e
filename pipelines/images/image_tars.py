"""A shard of images as img2dataset writes it: a tar of samples, and the status of every row.

    00000000.tar           KEY.jpg, KEY.json, KEY.txt of each image; KEY is the shard's number in
                           8 digits and the row's in 4
    00000000.parquet       a row for each row of the table, with its status
    00000000_stats.json    counts; `successes` is what the resharder reads

(rom1504/img2dataset, format webdataset; the published pools have this layout)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import orjson
import pyarrow as pa

from pipelines.formats.tars import is_tar, member
from pipelines.records import Frozen
from pipelines.storage.base import Entry, StorageError, Store
from pipelines.storage.open import open_store

SUCCESS, NO_DOWNLOAD, NO_IMAGE = "success", "failed_to_download", "failed_to_resize"
FIELDS = (
    "uid",
    "caption",
    "url",
    "key",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "exif",
    "sha256",
)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in FIELDS[:6]),
        *((name, pa.int32()) for name in FIELDS[6:10]),
        ("exif", pa.string()),
        ("sha256", pa.string()),
    ]
)
SHARDS_FOLDER = "shards"  # of a pool, next to its tables
MAX_ROWS = 10_000  # of a shard: a key has four digits for the row


class Row(Frozen):
    """The outcome of one row of the table; sizes in pixels, as stored and as downloaded."""

    uid: str
    caption: str | None
    url: str | None
    key: str
    status: str
    error_message: str | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    sha256: str | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(self.model_dump(), option=orjson.OPT_INDENT_2)


def key_of(shard: int, number: int) -> str:
    """The key of row `number` of a shard."""
    assert 0 <= number < MAX_ROWS
    return f"{shard:08d}{number:04d}"


def shard_name(shard: int) -> str:
    return f"{shard:08d}"


def sample(row: Row, image: bytes, *, extension: str = "jpg") -> bytes:
    """One sample as the bytes of its tar members: image, json and txt."""
    parts = []
    caption = (row.caption or "").encode("utf-8", "replace")
    for suffix, data in ((extension, image), ("json", row.to_json()), ("txt", caption)):
        parts.append(member(f"{row.key}.{suffix}".encode(), data))
    return b"".join(parts)


def table_of(rows: Sequence[Row]) -> pa.Table:
    """The rows as the table that is written next to the tar."""
    columns = {name: [getattr(row, name) for row in rows] for name in FIELDS}
    return pa.table(columns, schema=SCHEMA)


def stats_of(rows: Sequence[Row]) -> bytes:
    """The stats file next to the tar: counts of rows, images, and failures by `reason_of`."""
    status = Counter(row.status for row in rows)
    words = Counter(SUCCESS if row.status == SUCCESS else reason_of(row) for row in rows)
    stats = {
        "count": len(rows),
        "successes": status[SUCCESS],
        NO_DOWNLOAD: status[NO_DOWNLOAD],
        NO_IMAGE: status[NO_IMAGE],
        "status_dict": dict(sorted(words.items())),
    }
    return orjson.dumps(stats, option=orjson.OPT_INDENT_2)


def reason_of(row: Row) -> str:
    """The word that a failure is counted by: `timeout` of `timeout: no answer in 10 s`."""
    return (row.error_message or "unknown").partition(":")[0]


def tars_of_tables(tables: str) -> tuple[Store, list[Entry]] | None:
    """The folder with the tars of a pool's tables, and its files; None if there is no such folder.

    Tried in order: `shards` below the tables, `shards` next to them, the folder of the tables.
    """
    for folder in tar_folders(tables):
        store = open_store(folder)
        try:
            entries = list(store.list())
        except StorageError:  # a server that does not list folders
            continue
        if any(is_tar(entry.name) for entry in entries):
            return store, entries
    return None


def tar_folders(tables: str) -> tuple[str, ...]:
    """The folders in which the tars of a pool's tables may be, in the order they are tried."""
    root = tables.rstrip("/")
    parent = root.rpartition("/")[0]
    return f"{root}/{SHARDS_FOLDER}", f"{parent}/{SHARDS_FOLDER}", root
