"""Scores of images: joined to rows by uid, the same bytes for any number of workers."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datacomp.curation import score as scoring
from datacomp.curation.curate import curate
from datacomp.curation.score import score
from datacomp.curation.scorers import ScorerSpec, phash, scorer_id
from pipelines.assets.catalogue import Assets
from pipelines.errors import PipelineError, PoolError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.uid_lists import load_subset
from pipelines.global_steps import merged_files
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline
from pipelines.records import RecordError

SAMPLES = 6


def image(number: int) -> bytes:
    data = io.BytesIO()
    ramp = np.add.outer(np.arange(40) * number, np.arange(40) * (7 - number)) % 256
    Image.fromarray(ramp.astype(np.uint8), "L").convert("RGB").save(data, "PNG")
    return data.getvalue()


def uid(number: int) -> str:
    return f"{number * 7919:032x}"


def write_tar(path: Path, numbers: list[int], *, broken: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, number in enumerate(numbers):
            body = b"no image" if number == broken else image(number)
            for suffix, data in (
                ("png", body),
                ("json", orjson.dumps({"uid": uid(number)})),
                ("txt", f"picture {number}".encode()),
            ):
                info = tarfile.TarInfo(f"{index:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two tables, and two tars with the images in another order; row 5 has none."""
    home = tmp_path / "pool"
    (home / "metadata").mkdir(parents=True)
    for name, numbers in (("a", [3, 1, 5]), ("b", [0, 4, 2, 1])):
        table = pa.table({"uid": [uid(n) for n in numbers], "text": ["x"] * len(numbers)})
        pq.write_table(table, home / "metadata" / f"{name}.parquet")
    write_tar(home / "shards" / "00000000.tar", [2, 0, 3])
    write_tar(home / "shards" / "00000001.tar", [4, 1])
    return home


def run(pool: Path, out: Path, *, map_tasks=map_here, **options):
    spec = ScorerSpec(kind="phash")
    return score(
        open_pairs(str(pool)),
        str(pool / "shards"),
        scorer=spec,
        scorer_id=scorer_id(spec),
        name="hashes",
        out=str(out),
        map_tasks=map_tasks,
        **options,
    )


def column(folder: Path, name: str) -> list[float | None]:
    return pq.read_table(folder / f"{name}.parquet").column("score").to_pylist()


def test_every_row_gets_the_score_of_its_image(pool, tmp_path):
    record = run(pool, tmp_path / "out")
    expected = phash([image(n) for n in range(SAMPLES)], [""] * SAMPLES).tolist()
    assert len(set(expected)) == SAMPLES
    assert column(tmp_path / "out", "a") == [expected[3], expected[1], None]
    assert column(tmp_path / "out", "b") == [expected[0], expected[4], expected[2], expected[1]]
    assert record.counts == {"pairs": 5, "rows": 7, "scored": 6}
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "a.parquet",
        "b.parquet",
        "index.json",
        "record.json",
    ]


def test_any_number_of_parts_and_workers_gives_the_same_bytes(pool, tmp_path, monkeypatch):
    first = run(pool, tmp_path / "one")
    second = run(pool, tmp_path / "two", map_tasks=ProcessMap(2))
    monkeypatch.setattr(scoring, "BUCKET_ROWS", 1)
    many = run(pool, tmp_path / "many")
    monkeypatch.setattr(merged_files, "FEW_REQUESTS", 0)
    monkeypatch.setattr(merged_files, "LocalStore", ProcessMap)  # as if the folder were a bucket
    merged = run(pool, tmp_path / "merged")
    assert not [path for path in (tmp_path / "merged").glob("*/*") if path.is_file()]
    for other, name in ((second, "two"), (many, "many"), (merged, "merged")):
        assert other.id == first.id
        index = (tmp_path / name / "index.json").read_bytes()
        assert index == (tmp_path / "one" / "index.json").read_bytes()


def test_scores_select_pairs(pool, tmp_path):
    run(pool, tmp_path / "assets" / "hashes")
    assets = Assets(folders=(tmp_path / "assets",))
    steps = [
        {"scores": {"of": "hashes", "column": "h"}},
        {"select": {"by": "h", "fraction": 0.5, "missing": "drop"}},
    ]
    pipeline = Pipeline.from_steps(steps, name="s", assets=assets)
    result = curate(pipeline, open_pairs(str(pool)), out=str(tmp_path / "d"), map_tasks=map_here)
    expected = phash([image(n) for n in range(SAMPLES)], [""] * SAMPLES)
    rows = [3, 1, 0, 4, 2, 1]
    kept = sorted(rows, key=lambda n: -expected[n])[: int(7 * 0.5)]
    ids = load_subset(str(tmp_path / "d" / "subset.npy"))
    assert ids["f1"].tolist() == sorted(n * 7919 for n in kept)
    assert [asset.name for asset in result.record.work.assets] == ["hashes/index.json"]


def test_scores_of_another_pool_are_refused(pool, tmp_path):
    run(pool, tmp_path / "assets" / "hashes")
    other = tmp_path / "other"
    shutil.copytree(pool, other)
    table = pq.read_table(other / "metadata" / "a.parquet")
    pq.write_table(table.slice(0, 2), other / "metadata" / "a.parquet")
    pipeline = Pipeline.from_steps(
        [{"scores": {"of": "hashes"}}], name="s", assets=Assets(folders=(tmp_path / "assets",))
    )
    with pytest.raises(PipelineError, match="made for another pool"):
        curate(pipeline, open_pairs(str(other)), out=str(tmp_path / "d"), map_tasks=map_here)


def test_a_changed_column_of_scores_is_refused(pool, tmp_path):
    run(pool, tmp_path / "assets" / "hashes")
    pq.write_table(pa.table({"score": [1.0, 2.0, 3.0]}), tmp_path / "assets/hashes/a.parquet")
    pipeline = Pipeline.from_steps(
        [{"scores": {"of": "hashes"}}], name="s", assets=Assets(folders=(tmp_path / "assets",))
    )
    with pytest.raises(PipelineError, match=r"a\.parquet is not the file"):
        curate(pipeline, open_pairs(str(pool)), out=str(tmp_path / "d"), map_tasks=map_here)


def test_a_image_that_does_not_decode_is_named_or_set_aside(pool, tmp_path):
    write_tar(pool / "shards" / "00000001.tar", [4, 1], broken=4)
    with pytest.raises(PoolError, match=r"00000001\.tar, sample 000000: the image does not"):
        run(pool, tmp_path / "one")
    record = run(pool, tmp_path / "two", quarantine=True)
    assert record.counts == {"no_picture": 1, "pairs": 5, "rows": 7, "scored": 5}
    assert column(tmp_path / "two", "b")[1] is None


def test_other_scores_in_the_folder_are_refused(pool, tmp_path):
    run(pool, tmp_path / "out")
    assert run(pool, tmp_path / "out").counts["scored"] == 6  # the same again is done already
    write_tar(pool / "shards" / "00000001.tar", [4, 1, 2, 3])
    with pytest.raises(RecordError, match="another scorer"):
        run(pool, tmp_path / "out")


def test_a_perceptual_hash_survives_another_size_and_format():
    with Image.open(io.BytesIO(image(3))) as first:
        smooth = first.resize((200, 200), Image.Resampling.BICUBIC).convert("RGB")
    data = io.BytesIO()
    smooth.save(data, "JPEG", quality=80)
    left, other, unlike = phash([image(3), data.getvalue(), image(5)], ["", "", ""])
    near = (int(left) ^ int(other)).bit_count()
    far = (int(left) ^ int(unlike)).bit_count()
    assert near <= 6 < far


def test_uids_that_share_their_first_half_are_told_apart():
    known = np.array([(1, 2), (1, 5), (1, 9), (3, 1)], dtype=[("f0", "<u8"), ("f1", "<u8")])
    high = np.array([1, 1, 1, 1, 1, 2, 3, 3], np.uint64)
    low = np.array([2, 5, 9, 4, 10, 2, 1, 0], np.uint64)
    assert scoring._find(known, high, low).tolist() == [0, 1, 2, -1, -1, -1, 3, -1]
