"""Pairs whose features are near: who stays, whatever cuts the work, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.curation.curate import curate
from pipelines.assets.catalogue import Assets
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.storage.local import LocalStore

DIM = 768


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tables of 40 pairs; in all, 30 images, each four times with a little noise."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "metadata").mkdir()
    rng = np.random.default_rng(2)
    images = rng.normal(size=(30, DIM))
    for table in range(3):
        numbers = np.arange(40 * table, 40 * table + 40)
        features = images[numbers % 30] + 0.05 * rng.normal(size=(40, DIM))
        if table == 2:
            features[0] = np.nan
            features[1] = 0
        content = {
            "uid": [f"{number:032x}" for number in numbers],
            "url": [f"https://a.b/{number}" for number in numbers],
            "text": [f"caption {number}" for number in numbers],
            "score": (numbers % 7).astype(np.float32),
        }
        pq.write_table(pa.table(content), folder / "metadata" / f"{table}.parquet")
        np.savez(folder / "metadata" / f"{table}.npz", l14_img=features.astype(np.float16))
    of_three = images.reshape(10, 3, DIM).sum(axis=1)  # so a cluster holds three images
    np.save(folder / "centroids.npy", of_three.astype(np.float32))
    return folder


def kept(pool: Path, out: Path, map_tasks: MapTasks = map_here, **options: Any) -> list[int]:
    step = {"embedding_dedup": {"centroids": "centroids.npy", **options}}
    pipeline = Pipeline.from_steps([step], assets=Assets(folders=(pool,)))
    curate(pipeline, open_pool(str(pool / "metadata")), out=str(out), map_tasks=map_tasks)
    return [int(low) for _, low in np.load(out / "subset.npy").tolist()]


def test_the_first_of_each_image_stays(pool: Path, tmp_path: Path) -> None:
    # rows 80 and 81 have no direction and are never duplicates
    assert kept(pool, tmp_path / "out") == [*range(30), 80, 81]


def test_the_best_of_each_image_stays(pool: Path, tmp_path: Path) -> None:
    rows = kept(pool, tmp_path / "out", keep_by="score")
    best = [
        max((n for n in range(120) if n % 30 == image and n not in (80, 81)), key=lambda n: n % 7)
        for image in range(30)
    ]
    assert rows == sorted([*best, 80, 81])


def test_processes_keep_the_same_pairs(pool: Path, tmp_path: Path) -> None:
    here = kept(pool, tmp_path / "a", min_cosine=0.99)
    assert kept(pool, tmp_path / "b", ProcessMap(2), min_cosine=0.99) == here


@pytest.mark.ray
@pytest.mark.slow
def test_ray_keeps_the_same_pairs(pool: Path, tmp_path: Path, ray_cluster: MapTasks) -> None:
    assert kept(pool, tmp_path / "out", ray_cluster) == [*range(30), 80, 81]


def test_the_copy_that_stays_and_the_cosine_are_known(pool: Path, tmp_path: Path) -> None:
    from pipelines.reports.global_evidence import kept_copy

    kept(pool, tmp_path / "out")
    store = LocalStore(tmp_path / "out")
    step = {"embedding_dedup": {"centroids": "centroids.npy"}}
    [plan_step] = Pipeline.from_steps([step], assets=Assets(folders=(pool,))).steps
    row = 1 << 32  # the 40th pair: the tenth image again
    copy = kept_copy(store, plan_step, row)
    assert copy is not None
    assert copy[0] == 10
    assert copy[1] is not None
    assert 0.99 < copy[1] < 1
    assert kept_copy(store, plan_step, 3) is None


def test_features_of_another_model_are_refused(pool: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "centroids.npy", np.ones((2, 5), np.float32))
    step = {"embedding_dedup": {"centroids": "centroids.npy"}}
    pipeline = Pipeline.from_steps([step], assets=Assets(folders=(tmp_path,)))
    with pytest.raises(Exception, match=r"has 768 numbers per image, the centroids have 5"):
        curate(
            pipeline,
            open_pool(str(pool / "metadata")),
            out=str(tmp_path / "out"),
            map_tasks=map_here,
        )
