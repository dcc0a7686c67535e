"""Thumbnails of rejected image-text pairs, for report.html: from the tars next to a pool's tables.

Everything is bounded: the tars that are looked into, their bytes, the pixels that are decoded, and
the bytes on the page. An image that is absent or does not decode is left out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import PlatformError
from pipelines.formats.tars import Member, samples, tar_bytes
from pipelines.images.image_tars import SUCCESS, tars_of_tables
from pipelines.images.pairs import UID
from pipelines.images.sample_json import read_json
from pipelines.schema import STRING
from pipelines.storage.base import Entry, Store

SUFFIXES = ("jpg", "jpeg", "png", "webp")
SIDE = 96  # pixels of a thumbnail's longest side
MAX_TARS = 200  # of a pool: two million pairs; samples are from its first tables
MAX_LOCAL_BYTES = 8 << 30  # local tars are mapped, and mostly skipped over
MAX_REMOTE_BYTES = 256 << 20  # read of all tars in a bucket
TAR_HEAD_BYTES = 64 << 20  # read of one of them: about 2,000 of 10,000 samples, the first rows'
MAX_PIXELS = 16_000_000  # a pool keeps 512 pixels a side; larger ones are not worth the seconds
MAX_THUMBNAIL_BYTES = 16 << 10  # of one image in a report: pages stay below some MB
MAX_PAGE_BYTES = 2 << 20  # of all thumbnails: the page stays one that can be mailed


def thumbnails(tables: str, uids: Sequence[str]) -> dict[str, str]:
    """Data URIs of JPEGs by uid, for the samples whose images are there."""
    asked = set(uids)
    made: dict[str, str] = {}
    num_bytes = 0
    if not asked:
        return made
    for uid, data in _images(tables, asked):
        thumbnail = _thumbnail(data)
        if thumbnail is None or uid in made:
            continue
        num_bytes += len(thumbnail)
        if num_bytes > MAX_PAGE_BYTES:
            break
        made[uid] = thumbnail
    return made


def _images(tables: str, uids: set[str]) -> Iterator[tuple[str, bytes]]:
    """The encoded images of these uids, until all were seen or a limit is reached."""
    tars = tars_of_tables(tables)
    if tars is None:
        return
    store, entries = tars
    names = {entry.name for entry in entries}
    left = set(uids)
    num_bytes = 0
    for tar in [entry for entry in entries if entry.name.endswith(".tar")][:MAX_TARS]:
        table = tar.name.removesuffix(".tar") + ".parquet"
        keys = _keys(store, table, left) if table in names else None
        if keys is not None and not keys:
            continue
        local = store.local_path(tar.name) is not None
        num_bytes += tar.num_bytes if local else min(tar.num_bytes, TAR_HEAD_BYTES)
        if num_bytes > (MAX_LOCAL_BYTES if local else MAX_REMOTE_BYTES):
            return
        for uid, data in _of_tar(store, tar, left, keys):
            left.discard(uid)
            yield uid, data
        if not left:
            return


def _keys(store: Store, table: str, uids: set[str]) -> set[bytes] | None:
    """Keys of the samples with these uids, by the table next to a tar; None without such keys."""
    try:
        with store.open(table) as file:
            columns = pq.read_table(file, columns=["uid", "key", "status"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    chosen = pc.is_in(columns[UID].cast(STRING), value_set=pa.array(sorted(uids), STRING))
    chosen = pc.and_(chosen, pc.equal(columns["status"], SUCCESS))
    return {str(key).encode() for key in columns["key"].filter(chosen).to_pylist()}


def _of_tar(
    store: Store, tar: Entry, uids: set[str], keys: set[bytes] | None
) -> Iterator[tuple[str, bytes]]:
    """The images of one tar; a damaged tar gives those before the damage, one in a bucket those of
    its first part."""
    try:
        with _tar(store, tar.name) as data:
            for sample in samples(data, tar.name):
                if keys is not None and sample[0].key not in keys:
                    continue
                uid = _uid(data, sample)
                image = next((m for m in sample if m.extension.lower() in SUFFIXES), None)
                if uid in uids and image is not None:
                    yield uid, _bytes(data, image)
    except (PlatformError, OSError):
        return


@contextmanager
def _tar(store: Store, name: str) -> Iterator[memoryview]:
    if store.local_path(name) is not None:
        with tar_bytes(store, name) as data:
            yield data
        return
    with store.open(name) as file:
        yield memoryview(file.read(TAR_HEAD_BYTES))


def _uid(data: memoryview, sample: Sequence[Member]) -> str:
    """The uid in a sample's json; empty where there is none."""
    for member in sample:
        if member.extension == "json":
            try:
                return str(read_json(_bytes(data, member)).get(UID, ""))
            except (ValueError, AttributeError):
                return ""
    return ""


def _bytes(data: memoryview, member: Member) -> bytes:
    return bytes(data[member.start : member.start + member.size])


def _thumbnail(data: bytes) -> str | None:
    """A small JPEG as a data URI; None for bytes that do not decode, or are too large."""
    from pipelines.images.decode import DECODE_ERRORS, open_image, rgb

    try:
        with open_image(data) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            small = rgb(image)
            small.thumbnail((SIDE, SIDE))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=75)
    except DECODE_ERRORS:
        return None
    if out.tell() > MAX_THUMBNAIL_BYTES:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
