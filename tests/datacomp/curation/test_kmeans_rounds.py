"""k-means by passes: planted clusters, the same anywhere, resumed, and rows that qualify first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.curation import kmeans_rounds
from datacomp.curation.kmeans import assign
from datacomp.curation.kmeans_rounds import Options, train_by_rounds, train_rounds
from pipelines.errors import PipelineError
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import Pool, open_pool
from pipelines.pipeline import Pipeline

CENTRES = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32) * 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Five tables of 400 rows of six clusters; every fourth row, of a seventh, has no caption."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("pool")
    for table in range(5):
        which = rng.integers(0, 6, 400)
        points = CENTRES[which] + rng.standard_normal((400, 16)) * 0.1
        points[::4] = 30
        points[1] = np.nan
        texts = ["" if n % 4 == 0 else "a caption of words" for n in range(400)]
        uids = [f"{400 * table + n:032x}" for n in range(400)]
        pq.write_table(pa.table({"uid": uids, "text": texts}), folder / f"{table}.parquet")
        np.savez(folder / f"{table}.npz", l14_img=points.astype(np.float16))
    return open_pool(str(folder))


CAPTIONS = Pipeline.from_steps([{"caption_size": {"min_words": 2}}], name="captions")


def trained(pool: Pool, work: Path, map_tasks: Any = map_here, **named: Any) -> np.ndarray:
    options = Options(**{"clusters": 24, "rounds": 6, "seed": 1, "parts": 3, **named})
    made, spread, counts = train_rounds(
        pool, str(work), options, qualify=CAPTIONS, map_tasks=map_tasks
    )
    assert counts == {"rows": 1495, "rows_without_numbers": 5}
    assert spread[-1] <= spread[0]
    return made


@pytest.mark.parametrize("batch", [1.0, 0.3])
def test_every_planted_cluster_has_a_centroid(pool: Pool, tmp_path: Path, batch: float) -> None:
    made = trained(pool, tmp_path, batch=batch)
    distance = np.linalg.norm(made[:, None] - CENTRES[None], axis=2)
    assert (distance.min(axis=0) < 0.5).all()
    # rows without a caption were left out before
    assert np.linalg.norm(made - 30, axis=1).min() > 20


def test_processes_find_the_same_and_finished_parts_are_not_done_again(
    pool: Pool, tmp_path: Path
) -> None:
    here = trained(pool, tmp_path / "a")
    assert np.array_equal(trained(pool, tmp_path / "b", ProcessMap(2)), here)
    [*files] = sorted((tmp_path / "a").rglob("00*.npz"))
    removed = files[-1]
    before = {file: file.stat().st_mtime_ns for file in files if file != removed}
    removed.unlink()  # as if the run had been stopped before its last part
    assert np.array_equal(trained(pool, tmp_path / "a"), here)
    assert removed.exists()
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.ray
@pytest.mark.slow
def test_ray_finds_the_same(pool: Pool, tmp_path: Path, ray_cluster: MapTasks) -> None:
    here = trained(pool, tmp_path / "a")
    assert np.array_equal(trained(pool, tmp_path / "b", ray_cluster), here)


def test_a_participants_rule_is_carried_to_the_workers_and_changed_code_is_other_work(
    pool: Pool, tmp_path: Path
) -> None:
    """The same working folder: what one rule left there is not taken for the other's."""
    counts = []
    for word in ("caption", "nothing"):
        (tmp_path / "mine.py").write_text(f"""
from pipelines.operators import Filter, because

class Mine(Filter):
    reasons = ("other",)

    def reject(self, batch):
        return because(["{word}" not in t for t in batch.text.to_pylist()], "other")
""")
        (tmp_path / "mine.yaml").write_text("steps: [mine.py:Mine]")
        rule = Pipeline.load(tmp_path / "mine.yaml")
        options = Options(clusters=2, rounds=1, parts=2)
        work = str(tmp_path / "w")
        try:
            _, _, here = train_rounds(pool, work, options, qualify=rule, map_tasks=ProcessMap(2))
            counts.append(here["rows"])
        except ValueError as error:
            counts.append(str(error))
    assert counts[0] == 1495
    assert "0 rows" in str(counts[1])


def test_the_record_says_what_rows_had_to_be(pool: Pool, tmp_path: Path) -> None:
    options = Options(clusters=8, rounds=1)
    record = train_by_rounds(
        pool,
        tmp_path / "c.npy",
        work=str(tmp_path / "w"),
        options=options,
        qualify=CAPTIONS,
        map_tasks=map_here,
    )
    parameters = record.work.parameters
    assert [name for name, _ in parameters["qualify"]] == ["caption_size"]  # type: ignore[union-attr, misc]
    assert np.load(tmp_path / "c.npy").shape == (8, 16)


def test_lengths_appended_make_products_of_distances() -> None:
    rng = np.random.default_rng(4)
    rows, centroids = (rng.standard_normal((n, 8)).astype(np.float32) for n in (200, 12))
    ones = np.concatenate([rows, np.ones((200, 1), np.float32)], axis=1)
    products = ones @ kmeans_rounds._with_lengths(centroids).T
    assert (products.argmax(axis=1) == assign(rows, centroids)[0]).all()


def test_what_does_not_fit_is_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1995 rows of l14_img .* fewer than 5000 clusters"):
        train_rounds(
            pool,
            str(tmp_path),
            Options(clusters=5000, rounds=1),
            qualify=None,
            map_tasks=map_here,
        )
    url = Pipeline.from_steps([{"exact_dedup": {}}], name="d")
    with pytest.raises(PipelineError, match=r"exact_dedup.* is not a filter"):
        train_rounds(
            pool, str(tmp_path), Options(clusters=5, rounds=1), qualify=url, map_tasks=map_here
        )
