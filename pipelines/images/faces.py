"""Faces in a pool's images, handled at resharding: blurred, or listed in each sample's json.

A map, in the format of the reference's resharder, names the table of face boxes of each tar:

    {"first": {"parquet": "metadata/a.parquet", "shards": ["shards/00000000.tar", ...]}, ...}

Paths are relative to the map's folder; tars are matched by file name. Blurred images become WebP.
(mlfoundations/datacomp, resharder: --blur-metadata-map, --apply-blur, --inject-blur-metadata; here
a missing row is an error, and the quality can be chosen)
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from pipelines import kernels
from pipelines.errors import PackError
from pipelines.images.decode import DECODE_ERRORS, open_image, rgb
from pipelines.images.pairs import DAMAGED, UID, text_column
from pipelines.images.resize import blur, checked_boxes
from pipelines.images.sample_json import read_json
from pipelines.records import Frozen
from pipelines.storage.open import open_store

BOXES = "face_bboxes"
IMAGE = "jpg"
Boxes = list[list[float]]


class FaceOptions(Frozen):
    """How faces are handled: `map` is the path or URI of the map."""

    map: str
    apply: bool = Field(False, description="blur faces; the image becomes WebP")
    inject: bool = Field(False, description="add the boxes to the json as face_bboxes")
    quality: int = Field(100, ge=1, le=100, description="WebP quality of blurred images")


class Entry(Frozen):
    """One table of the map, and its tars."""

    parquet: str
    shards: tuple[str, ...]


class Faces:
    """The boxes of one tar's samples."""

    def __init__(self, options: FaceOptions, tar: str) -> None:
        self.options = options
        table = table_of(options.map, tar)
        self._where = table
        self._boxes = _read(table)
        self.bad_boxes = 0  # ignored boxes: outside the image, or malformed

    def change(self, uid: tuple[int, int], members: dict[str, bytes]) -> bool | None:
        """Blur or list the faces in a sample's `members`, in place; returns whether it blurred any.

        None for an image that does not decode: its faces cannot be blurred, so the caller leaves
        the sample out. PackError when the table has no row for the sample.
        """
        boxes = self._boxes.get(uid)
        if boxes is None:
            raise PackError(
                f"{self._where} has no row for the uid {uid[0]:016x}{uid[1]:016x}; the map names a "
                "table that does not belong to this tar"
            )
        if self.options.inject:
            metadata = read_json(members["json"]) | {BOXES: boxes}
            members["json"] = orjson.dumps(metadata)
        if not self.options.apply or not boxes or IMAGE not in members:
            return False
        blurred = self._blurred(members.pop(IMAGE), boxes)
        if blurred is None:
            return None
        members["webp"] = blurred
        return True

    def _blurred(self, data: bytes, boxes: Boxes) -> bytes | None:
        out = io.BytesIO()
        good, bad = checked_boxes(boxes)
        try:
            with open_image(data) as opened:
                image = rgb(opened)
        except DECODE_ERRORS:
            return None
        blurred, outside = blur(image, good)
        self.bad_boxes += bad + outside
        blurred.save(out, "WEBP", quality=self.options.quality)
        return out.getvalue()


@lru_cache(maxsize=4)
def _entries(address: str) -> dict[str, str]:
    """The table of each tar, by the tar's file name. PackError for a missing or malformed map."""
    folder, _, name = address.rpartition("/")
    store = open_store(folder or ".")
    try:
        entries = TypeAdapter(dict[str, Entry]).validate_json(store.read_bytes(name))
    except FileNotFoundError:
        raise PackError(f"there is no map of faces {address}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PackError(f"{address}: {where}: {first['msg']}") from None
    tables: dict[str, str] = {}
    for entry in entries.values():
        path = entry.parquet
        if "://" not in path and not path.startswith("/"):
            path = f"{folder or '.'}/{path}"
        for shard in entry.shards:
            tar = shard.rpartition("/")[2]
            if tables.setdefault(tar, path) != path:
                raise PackError(f"{address} names two tables for the tar {tar}")
    return tables


def table_of(address: str, tar: str) -> str:
    """The table that the map names for a tar. PackError when it names none."""
    tables = _entries(address)
    name = tar.rpartition("/")[2]
    if name not in tables:
        raise PackError(f"{address} names no table for the tar {name}")
    return tables[name]


@lru_cache(maxsize=2)
def _read(path: str) -> dict[tuple[int, int], Boxes]:
    """The boxes of every row of a table, by uid."""
    folder, _, name = path.rpartition("/")
    with open_store(folder or ".").open(name) as file:
        try:
            table = pq.read_table(file, columns=[UID, BOXES])
        except DAMAGED as error:
            raise PackError(f"{path} is not a table with {UID} and {BOXES}: {error}") from None
    uids: Any = text_column(table.column(UID), UID, path).combine_chunks()
    high, low, bad = kernels.uids.parse(uids)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise PackError(f"{path}, row {row}: the uid is {uids[row].as_py()!r}")
    kind = table.schema.field(BOXES).type
    if not (_is_list(kind) and _is_list(kind.value_type)) and not pa.types.is_null(kind):
        raise PackError(f"{path}: {BOXES} holds {kind}, expected lists of boxes of four numbers")
    boxes = [row_boxes or [] for row_boxes in table.column(BOXES).to_pylist()]
    return dict(zip(zip(high.tolist(), low.tolist(), strict=True), boxes, strict=True))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
