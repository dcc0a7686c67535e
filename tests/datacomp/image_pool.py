"""A small pool of drawn images with true captions, in CommonPool's layout: tables and tars."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "yellow": (235, 215, 40),
}
SHAPES = ("circle", "square", "triangle")


def draw(number: int, *, side: int = 48) -> tuple[bytes, str]:
    """An image as PNG and what it shows; equal numbers draw equal bytes."""
    rng = np.random.default_rng(number)
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    image = Image.new("RGB", (side, side), tuple(rng.integers(200, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in rng.integers(2, side // 3, 2))
    size = int(rng.integers(side // 2, side - max(x, y)))
    box = (x, y, x + size, y + size)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=COLOURS[colour])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue(), f"a {colour} {shape}"


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_images(folder: Path, *, tars: int = 2, per_tar: int = 60, broken: int = 0) -> list[str]:
    """Tables in `metadata`, tars in `shards`; the first `broken` images do not decode."""
    (folder / "metadata").mkdir(parents=True)
    (folder / "shards").mkdir()
    uids = []
    for number in range(tars):
        rows = []
        with tarfile.open(folder / "shards" / f"{number:08d}.tar", "w") as tar:
            for index in range(per_tar):
                position = number * per_tar + index
                image, caption = draw(position)
                uid = hashlib.sha256(f"{position}".encode()).hexdigest()[:32]
                uids.append(uid)
                key = f"{number:05d}{index:04d}"
                add_member(tar, f"{key}.png", b"no image" if position < broken else image)
                add_member(tar, f"{key}.txt", caption.encode())
                add_member(tar, f"{key}.json", orjson.dumps({"uid": uid, "caption": caption}))
                rows.append(
                    {
                        "uid": uid,
                        "url": f"https://example.org/{position}",
                        "text": caption,
                        "original_width": 48,
                        "original_height": 48,
                        "clip_b32_similarity_score": 0.1,
                        "clip_l14_similarity_score": position / (tars * per_tar),
                    }
                )
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, folder / "metadata" / f"{number:08d}.parquet")
    return uids


def write_workspace(folder: Path) -> None:
    """A pool of drawn images, and made-up evaluation data, where the tiny scale's would be."""
    from evals.images.image_tasks import vouch
    from evals.images.synthetic import write_synthetic_images
    from evals.suite import load_suite
    from pipelines.formats.pool import open_pool
    from pipelines.storage.chain import RECORD
    from pipelines.storage.local import LocalStore

    pool = folder / "pools" / "datacomp-tiny"
    write_images(pool)
    record = open_pool(str(pool / "metadata")).record
    files = [file.model_copy(update={"name": f"metadata/{file.name}"}) for file in record.outputs]
    made = type(record).seal(
        work=record.work.model_copy(update={"name": "datacomp-tiny", "variant": "pairs"}),
        parents={},
        outputs=files,
        counts={},
        made_by=record.made_by,
    )
    (pool / RECORD).write_bytes(made.to_json())
    tasks = load_suite("datacomp/tiny").load_tasks()
    write_synthetic_images(tasks, pool / "eval", seed=1, images=40)
    for task in tasks:
        vouch(LocalStore(pool / "eval"), task.file)
