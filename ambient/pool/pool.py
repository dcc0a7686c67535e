"""Pools of images with their corruption as columns.

    metadata/00000000.parquet   uid, corruption, level, seed, source, label, size, clean_cost
    shards/00000000.tar         KEY.npy (float16, channels x height x width, in [-1, 1]), KEY.json
    eval/                       held-out clean images, of a pool that is built here
    record.json

Which image is corrupted, how, and by which noise follows from hashes of its uid. The clean image of
a corrupted row is in no file: training has only what the table says.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field, model_validator

from ambient.pool.corruption import Floats, check_level, corrupt
from pipelines.errors import PoolError
from pipelines.formats.tars import END, is_hidden, member, samples, tar_bytes
from pipelines.formats.writers import write_table
from pipelines.image_text.corruption import Kind
from pipelines.images.pairs import METADATA, SHARDS
from pipelines.records import File, Frozen, PoolRecord, PoolSource, PoolWork, made_by, now
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store

EVAL = "eval"
SHARD_ROWS = 10_000  # images of a shard
SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("corruption", pa.string()),
        ("level", pa.float64()),
        ("seed", pa.int64()),
        ("source", pa.string()),
        ("label", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("clean_cost", pa.float64()),
    ]
)


class Mix(Frozen):
    """Which fraction of a pool stays clean, and how the rest is corrupted."""

    clean_share: float = Field(
        0.1, ge=0, le=1, description="fraction of the images that stays clean"
    )
    kind: Kind = Field("gaussian", description="corruption of the others")
    level: float = Field(0.5, ge=0, description="its level")
    levels: tuple[float, ...] = Field((), description="instead: each of them has one of these")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _level_fits(self) -> Mix:
        if self.clean_share < 1:
            for level in self.levels or (self.level,):
                check_level(self.kind, level)
        return self

    def level_of(self, uid: str) -> float:
        """The level of a corrupted image, by hash."""
        if not self.levels:
            return self.level
        return self.levels[int(_number(f"level|{self.seed}|{uid}") * len(self.levels))]

    def parameters(self) -> dict[str, Any]:
        """What a pool's record says of it."""
        return self.model_dump(mode="json", exclude=None if self.levels else {"levels"})


@dataclass(frozen=True)
class Original:
    """A clean image before it enters a pool: (channels, height, width) in [-1, 1]."""

    source: str
    image: Floats
    label: int | None = None


def uid_of(original: Original) -> str:
    """32 hexadecimal digits: a hash of the source and the pixels."""
    state = hashlib.sha256(original.source.encode() + b"\0" + original.image.tobytes())
    return state.hexdigest()[:32]


def stays_clean(uid: str, mix: Mix) -> bool:
    """Whether an image stays clean; by hash, so that a larger pool keeps the same ones clean."""
    return _number(f"clean|{mix.seed}|{uid}") < mix.clean_share


def _number(text: str) -> Fraction:
    """A number in [0, 1) by hash, without rounding."""
    return Fraction(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"), 1 << 64)


def build(
    originals: Iterator[Original],
    folder: str,
    *,
    mix: Mix,
    name: str,
    sources: Sequence[PoolSource] = (),
    counts: dict[str, int] | None = None,
    shard_rows: int = SHARD_ROWS,
    withheld: Path | None = None,
) -> PoolRecord:
    """Write a pool of these images, corrupted as `mix` says. PoolError without any image.

    With `withheld` the pool says of corrupted images that their corruption is unknown. What was
    done to each goes into that file, for the organiser; its hash is in the record, so that it
    cannot be changed later.
    """
    started, store = now(), open_store(folder)
    if store.exists(RECORD):
        raise PoolError(f"{store.uri} holds a pool already; choose another --out")
    files: list[File] = []
    hidden: list[dict[str, Any]] = []
    rows: list[tuple[dict[str, Any], Floats]] = []
    total = {"images": 0, "clean": 0, "corrupted": 0, **(counts or {})}
    channels, seen = 0, set[str]()
    for original in originals:
        uid = uid_of(original)
        if uid in seen:
            total["repeated"] = total.get("repeated", 0) + 1
            continue
        seen.add(uid)
        channels = channels or original.image.shape[0]
        if original.image.shape[0] != channels:
            raise PoolError(
                f"{original.source} has {original.image.shape[0]} channels, others have {channels}"
            )
        clean = stays_clean(uid, mix)
        kind: Kind = "none" if clean else mix.kind
        level = 0.0 if clean else mix.level_of(uid)
        image = corrupt(original.image, kind, level, uid=uid, seed=mix.seed)
        total["images"] += 1
        total["clean" if clean else "corrupted"] += 1
        row = {
            "uid": uid,
            "corruption": kind,
            "level": level,
            "seed": mix.seed,
            "source": original.source if clean else "",  # a name could lead to the clean image
            "label": original.label,
            "width": image.shape[2],
            "height": image.shape[1],
            "clean_cost": 1.0,
        }
        if withheld is not None:
            hidden.append(row)
            unknown = {"corruption": "unknown", "level": None, "seed": None}
            row = row if clean else row | unknown
        rows.append((row, image))
        if len(rows) == shard_rows:
            files += _write_shard(store, len(files) // 2, rows)
            rows = []
    if rows:
        files += _write_shard(store, len(files) // 2, rows)
    if not total["images"]:
        raise PoolError("there are no images to make a pool of")
    parameters = mix.parameters()
    if withheld is not None:
        parameters = {"clean_share": mix.clean_share, "withheld": _withhold(withheld, hidden)}
    record = PoolRecord.seal(
        work=PoolWork(name=name, variant="images", sources=tuple(sources), parameters=parameters),
        parents={},
        outputs=tuple(files),
        counts=total,
        made_by=made_by(started, locations={"out": store.uri}),
    )
    write_bytes(store, RECORD, record.to_json())
    return record


def _withhold(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write the organiser's table; returns the hash of its rows."""
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["uid"])), schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(LocalStore(path.parent), path.name, table)
    return hash_of_rows(table)


def hash_of_rows(table: pa.Table) -> str:
    """Of what was done to each image of an organiser's table; the same in any file format."""
    rows = table.select(["uid", "corruption", "level", "seed"]).to_pylist()
    return hashlib.sha256(b"\n".join(orjson.dumps(row) for row in rows)).hexdigest()


def _write_shard(
    store: Store, number: int, rows: list[tuple[dict[str, Any], Floats]]
) -> list[File]:
    """The table and the tar of a shard, rows in the order of their uids."""
    rows.sort(key=lambda item: str(item[0]["uid"]))
    table = pa.Table.from_pylist([row for row, _ in rows], schema=SCHEMA)
    tar = []
    for row, image in rows:
        data = io.BytesIO()
        np.save(data, image.astype(np.float16))
        key = row["uid"]
        tar += [
            member(f"{key}.json".encode(), orjson.dumps({"uid": key})),
            member(f"{key}.npy".encode(), data.getvalue()),
        ]
    stem = f"{number:08d}"
    return [
        write_table(store, f"{METADATA}/{stem}.parquet", table),
        write_bytes(store, f"{SHARDS}/{stem}.tar", b"".join((*tar, END))),
    ]


def read_images(store: Store, name: str) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    """uid and image of every sample of a pool's tar. PoolError names one that is broken."""
    with tar_bytes(store, name) as data:
        for sample in samples(data, f"{store.uri}/{name}"):
            parts = {
                item.extension: bytes(data[item.start : item.start + item.size]) for item in sample
            }
            try:
                uid = str(orjson.loads(parts["json"])["uid"])
                image = np.load(io.BytesIO(parts["npy"]), allow_pickle=False)
            except (KeyError, ValueError, EOFError) as error:
                raise PoolError(
                    f"{store.uri}/{name}, sample {sample[0].key!r}: {type(error).__name__} {error};"
                    " expected KEY.json with a uid and KEY.npy"
                ) from None
            yield uid, image


# ---- images of the user


def from_folder(folder: str, *, resolution: int, channels: int) -> Iterator[Original]:
    """Images of a folder (PNG, JPEG, ...), cut to the middle square and resized.

    The label is the number of the image's folder among the sorted ones, where there are several.
    """
    store = open_store(folder)
    names = sorted(e.name for e in store.list() if not is_hidden(e.name))
    names = [name for name in names if name.lower().endswith(EXTENSIONS)]
    if not names:
        raise PoolError(
            f"there are no images below {store.uri}; looked for {', '.join(EXTENSIONS)}"
        )
    folders = sorted({name.rpartition("/")[0] for name in names})
    for name in names:
        label = folders.index(name.rpartition("/")[0]) if len(folders) > 1 else None
        image = _decode(store.read_bytes(name), f"{store.uri}/{name}", resolution, channels)
        yield Original(name, image, label)


def from_tars(folder: str, *, resolution: int, channels: int) -> Iterator[Original]:
    """Images of webdataset tars; `KEY.cls` is the label where there is one."""
    store = open_store(folder)
    tars = sorted(entry.name for entry in store.list() if entry.name.endswith(".tar"))
    if not tars:
        raise PoolError(f"there are no .tar files below {store.uri}")
    for name in tars:
        with tar_bytes(store, name) as data:
            for sample in samples(data, f"{store.uri}/{name}"):
                parts = {
                    item.extension: bytes(data[item.start : item.start + item.size])
                    for item in sample
                }
                extension = next((e for e in parts if f".{e}" in EXTENSIONS), None)
                if extension is None:
                    continue
                where = f"{name}:{sample[0].key.decode(errors='replace')}"
                image = _decode(parts[extension], f"{store.uri}/{where}", resolution, channels)
                label = int(parts["cls"]) if "cls" in parts else None
                yield Original(where, image, label)


EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def _decode(data: bytes, where: str, resolution: int, channels: int) -> Floats:
    from PIL import Image

    from pipelines.images.decode import DECODE_ERRORS, decode_rgb

    try:
        image = decode_rgb(data, on_white=True)
    except DECODE_ERRORS as error:
        raise PoolError(f"{where}: no image that can be read ({error})") from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.BOX)
    if channels == 1:
        image = image.convert("L")
    array = np.asarray(image, np.float32).reshape(resolution, resolution, channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1) / 127.5 - 1, np.float32)


def from_fastmri(folder: str, *, resolution: int) -> Iterator[Original]:
    """Magnitude images of k-space files in the layout of fastMRI, (slices, coils, rows, columns).

    `kspace` of each .h5 file, or of a .npz file with that array; coils are combined by the root of
    the sum of squares, the middle square is kept and divided by its 99.9th percentile.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".h5", ".npz"))
    if not paths:
        raise PoolError(f"there are no .h5 or .npz files of k-space below {folder}")
    for path in paths:
        kspace = _kspace(path)
        if kspace.ndim == 3:  # single coil
            kspace = kspace[:, None]
        if kspace.ndim != 4 or not np.iscomplexobj(kspace):
            raise PoolError(
                f"{path}: kspace is {kspace.dtype} of shape {kspace.shape}, expected complex "
                "(slices, coils, rows, columns)"
            )
        for number, slice_ in enumerate(kspace):
            shifted = np.fft.ifft2(np.fft.ifftshift(slice_, axes=(1, 2)), norm="ortho")
            magnitude = np.sqrt((np.abs(np.fft.fftshift(shifted, axes=(1, 2))) ** 2).sum(0))
            yield Original(f"{path.name}:{number}", _square(magnitude, resolution))


def _kspace(path: Path) -> npt.NDArray[Any]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            if "kspace" not in file:
                raise PoolError(f"{path} has no array 'kspace'")
            return np.asarray(file["kspace"])
    try:
        import h5py
    except ModuleNotFoundError:
        raise PoolError(f"{path} is read with h5py: pip install h5py") from None
    try:
        with h5py.File(path) as file:
            if "kspace" not in file:
                raise PoolError(f"{path} has no dataset 'kspace'")
            return np.asarray(file["kspace"])
    except OSError as error:
        raise PoolError(f"{path} is not an HDF5 file, or is cut off: {error}") from None


def _square(image: npt.NDArray[np.floating[Any]], resolution: int) -> Floats:
    from PIL import Image

    side = min(image.shape)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    cut = image[top : top + side, left : left + side]
    scaled = (cut / max(float(np.percentile(cut, 99.9)), 1e-12)).clip(0, 1).astype(np.float32)
    small = Image.fromarray(scaled).resize((resolution, resolution), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[None] * 2 - 1
