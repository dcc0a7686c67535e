"""Centroids: found where they are planted, the same again, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.curation.kmeans import assign, kmeans, train_centroids
from datacomp.curation.kmeans_rounds import Options, train_rounds
from pipelines.errors import PipelineError
from pipelines.execution.executors import map_here
from pipelines.formats.pool import Pool, open_pool
from pipelines.image_text.clusters import nearest
from pipelines.records import AssetRecord, parse_record


def planted(rows: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 16)).astype(np.float32) * 5
    points = centres[rng.integers(0, 6, rows)] + rng.standard_normal((rows, 16)) * 0.1
    return points.astype(np.float32), centres


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    points, _ = planted()
    folder = tmp_path / "pool"
    folder.mkdir()
    for number, part in enumerate(np.array_split(points, 3)):
        pq.write_table(
            pa.table({"uid": [f"{n:032x}" for n in range(len(part))]}), folder / f"{number}.parquet"
        )
        np.savez(folder / f"{number}.npz", l14_img=part.astype(np.float16))
    return open_pool(str(folder))


def test_planted_clusters_are_found() -> None:
    points, centres = planted()
    centres_found, spread = kmeans(points, 24, rounds=20, seed=1)
    distance = np.linalg.norm(centres_found[:, None] - centres[None], axis=2)
    assert (distance.min(axis=0) < 0.5).all()  # every centre has a centroid
    assert spread[-1] < 0.2
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(spread))


def test_a_row_goes_to_the_nearest_centroid() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((500, 8)).astype(np.float32)
    centroids = rng.standard_normal((30, 8)).astype(np.float32)
    actual, _ = assign(rows, centroids)
    plain = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (actual == plain).all()
    inner = (rows @ centroids.T).argmax(axis=1)
    assert (nearest(rows, centroids) == inner).all()


def test_empty_clusters_take_half_of_a_large_one() -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    centres_found, _ = kmeans(rows, 8, rounds=5, seed=0)
    assert len(np.unique(centres_found, axis=0)) > 4
    assert np.isfinite(centres_found).all()


def test_the_file_has_a_record_and_is_the_same_again(pool: Pool, tmp_path: Path) -> None:
    first = train_centroids(pool, tmp_path / "a.npy", clusters=8, rounds=3, sample=0.5)
    second = train_centroids(pool, tmp_path / "b" / "a.npy", clusters=8, rounds=3, sample=0.5)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b" / "a.npy").read_bytes()
    assert first.id == second.id
    assert 1300 < first.counts["rows"] < 1700
    beside = (tmp_path / "a.npy.record.json").read_bytes()
    assert isinstance(parse_record(beside, source="beside"), AssetRecord)


def test_too_few_rows_are_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3000 rows of l14_img .* fewer than 5000 clusters"):
        train_centroids(pool, tmp_path / "a.npy", clusters=5000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_no_numbers_are_left_out_and_counted(
    pool: Pool, tmp_path: Path, value: float
) -> None:
    file = tmp_path / "pool" / "1.npz"
    rows = np.load(file)["l14_img"]
    rows[3, 5] = value
    np.savez(file, l14_img=rows)
    record = train_centroids(pool, tmp_path / "c.npy", clusters=6, rounds=3)
    assert record.counts == {"rows": 2999, "rows_without_numbers": 1}
    assert np.isfinite(np.load(tmp_path / "c.npy")).all()


def test_features_that_are_nowhere_are_named(pool: Pool, tmp_path: Path) -> None:
    expected = "no column 'nosuch'.*; features beside it are b32_img"
    with pytest.raises(PipelineError, match=expected):
        train_centroids(pool, tmp_path / "c.npy", features="nosuch", clusters=2)
    options = Options(features="nosuch", clusters=2, rounds=1)
    with pytest.raises(PipelineError, match=expected):
        train_rounds(pool, str(tmp_path / "w"), options, qualify=None, map_tasks=map_here)
