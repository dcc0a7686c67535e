"""Faces at resharding: blurred as WebP, named in the json, and never passed over in silence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import PackError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.images.faces import FaceOptions
from pipelines.images.reshard import iter_samples, pack

BOX = [0.25, 0.25, 0.75, 0.75]
FACES = {0: [BOX], 1: [], 2: None, 3: [BOX, [0.0, 0.0, 0.1, 0.1]]}


def image(number: int) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def uid(number: int) -> str:
    return f"{number:016x}{number + 1:016x}"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    home = tmp_path / "pool"
    (home / "shards").mkdir(parents=True)
    for shard, numbers in enumerate(([0, 1], [2, 3])):
        with tarfile.open(home / "shards" / f"{shard:08d}.tar", "w") as tar:
            for number in numbers:
                for suffix, data in (
                    ("jpg", image(number)),
                    ("json", orjson.dumps({"uid": uid(number), "caption": "x"})),
                    ("txt", b"x"),
                ):
                    info = tarfile.TarInfo(f"{shard:08d}{number:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        table = pa.table(
            {
                "uid": [uid(number) for number in numbers],
                "face_bboxes": pa.array(
                    [FACES[number] for number in numbers], pa.list_(pa.list_(pa.float64()))
                ),
            }
        )
        pq.write_table(table, home / f"{shard}.parquet")
    answer = {
        str(n): {"parquet": f"{n}.parquet", "shards": [f"s3://elsewhere/{n:08d}.tar"]}
        for n in range(2)
    }
    (home / "map.json").write_bytes(orjson.dumps(answer))
    ids = np.array([(n, n + 1) for n in (0, 0, 1, 2, 3)], dtype=[("f0", "<u8"), ("f1", "<u8")])
    np.save(home / "subset.npy", ids)
    return home


def run(pool: Path, out: Path, *, map_tasks=map_here, **options):
    faces = FaceOptions(map=str(pool / "map.json"), **options)
    return pack(
        str(pool / "shards"),
        str(pool / "subset.npy"),
        out=str(out),
        map_tasks=map_tasks,
        group_shards=1,
        faces=faces,
    )


def test_faces_are_blurred_and_the_rest_passes_through(pool, tmp_path):
    done = run(pool, tmp_path / "out", apply=True)
    samples = dict(iter_samples(str(tmp_path / "out")))
    assert [(key[15], key[-1], sorted(members)) for key, members in samples.items()] == [
        ("0", "0", ["json", "txt", "webp"]),
        ("0", "1", ["json", "txt", "webp"]),
        ("1", "0", ["jpg", "json", "txt"]),
        ("2", "0", ["jpg", "json", "txt"]),
        ("3", "0", ["json", "txt", "webp"]),
    ]
    assert samples[f"{uid(1)}-0"]["jpg"] == image(1)
    before = np.asarray(Image.open(io.BytesIO(image(0)))).astype(int)
    blurred = Image.open(io.BytesIO(samples[f"{uid(0)}-1"]["webp"]))
    assert blurred.format == "WEBP"
    after = np.asarray(blurred.convert("RGB")).astype(int)
    assert after[35:45, 35:45].std() < 0.35 * before[35:45, 35:45].std()
    assert abs(after[:8, 72:] - before[:8, 72:]).mean() < 12  # WebP has half the colour resolution
    assert done.blur_count == 2  # images, however often they are copied
    meta = orjson.loads((tmp_path / "out" / "meta.json").read_bytes())
    assert meta["blur_count"] == 2


def test_an_image_that_does_not_decode_is_left_out_and_counted(pool, tmp_path):
    """Its faces cannot be blurred, and one image is no reason to end the packing."""
    tar = pool / "shards" / "00000000.tar"
    tar.write_bytes(tar.read_bytes().replace(image(0), bytes(len(image(0)))))
    done = run(pool, tmp_path / "out", apply=True)
    keys = [key for key, _ in iter_samples(str(tmp_path / "out"))]
    assert [key[15] for key in keys] == ["1", "2", "3"]
    assert done.skipped == {"undecodable": 1}
    assert done.output_count == 3


def test_boxes_are_named_in_the_json(pool, tmp_path):
    run(pool, tmp_path / "out", inject=True)
    content = [orjson.loads(members["json"]) for _, members in iter_samples(str(tmp_path / "out"))]
    assert [item["face_bboxes"] for item in content] == [[BOX], [BOX], [], [], FACES[3]]
    assert all(item["caption"] == "x" for item in content)
    images = [members["jpg"] for _, members in iter_samples(str(tmp_path / "out"))]
    assert images == [image(n) for n in (0, 0, 1, 2, 3)]


def test_any_number_of_workers_writes_the_same_bytes(pool, tmp_path):
    first = run(pool, tmp_path / "one", apply=True, inject=True)
    second = run(pool, tmp_path / "two", apply=True, inject=True, map_tasks=ProcessMap(2))
    assert first.shards == second.shards


def test_a_row_a_tar_or_a_map_that_is_missing_is_named(pool, tmp_path):
    pq.write_table(pq.read_table(pool / "1.parquet").slice(0, 1), pool / "1.parquet")
    with pytest.raises(PackError, match=f"no row for the uid {uid(3)}"):
        run(pool, tmp_path / "a", apply=True)
    other = tmp_path / "other"
    other.mkdir()
    for name, text, message in (
        ("one.json", b'{"0": {"parquet": "0.parquet", "shards": ["00000000.tar"]}}', "no table"),
        ("form.json", b'{"0": {"shards": []}}', "0.parquet: Field required"),
        (
            "two.json",
            b'{"0": {"parquet": "0.parquet", "shards": ["a.tar"]},'
            b' "1": {"parquet": "1.parquet", "shards": ["a.tar"]}}',
            "two tables for the tar a.tar",
        ),
    ):
        (pool / name).write_bytes(text)
        with pytest.raises(PackError, match=message):
            pack(
                str(pool / "shards"),
                str(pool / "subset.npy"),
                out=str(tmp_path / name),
                map_tasks=map_here,
                faces=FaceOptions(map=str(pool / name), apply=True),
            )
