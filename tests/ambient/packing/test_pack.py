"""Packing: what a pipeline said of each image goes beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ambient.packing.pack import pack_dataset
from ambient.pool import pool
from ambient.pool.pool import Mix
from ambient.recipe import Recipe, load_recipe
from pipelines.engine.run import run
from pipelines.errors import PackError
from pipelines.execution.executors import map_here
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline
from tests.ambient.pool.test_pool import originals


def recipe(**changes: object) -> Recipe:
    return load_recipe("tiny").model_copy(update={"shard_size": 15, **changes})


def packed(
    folder: Path, steps: list[object], mix: Mix, **changes: object
) -> list[dict[str, object]]:
    pool.build(iter(originals()), str(folder / "pool"), mix=mix, name="test", shard_rows=15)
    pipeline = Pipeline.from_steps(steps, name="test")
    opened = open_pairs(str(folder / "pool"))
    run(pipeline, opened, out=str(folder / "dataset"), format="uids")
    out = str(folder / "packed")
    pack_dataset(str(folder / "dataset"), recipe=recipe(**changes), out=out, map_tasks=map_here)
    return pq.read_table(folder / "packed" / "rows.parquet").to_pylist()


HALF_NOISY = Mix(clean_share=0.5, kind="gaussian", level=0.5)


def test_without_steps_a_noisy_image_teaches_above_its_level(tmp_path: Path) -> None:
    rows = packed(tmp_path, [], HALF_NOISY)
    assert len(rows) == 40
    for row in rows:
        level = 0.5 if row["corruption"] == "gaussian" else 0.0
        assert (row["level"], row["sigma_min"], row["weight"]) == (level, level, 1.0)


def test_images_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = packed(tmp_path, [], Mix(clean_share=1.0))
    shards = [np.load(path) for path in sorted((tmp_path / "packed").glob("*.npy"))]
    assert [len(shard) for shard in shards] == [15, 15, 10]
    images = np.concatenate(shards)
    known = {pool.uid_of(original): original.image for original in originals()}
    for row, image in zip(rows, images, strict=True):
        np.testing.assert_allclose(image, known[str(row["uid"])], atol=1e-3)


def test_what_a_pipeline_writes_is_kept_through_a_selection(tmp_path: Path) -> None:
    """The values are written in a pass before the one that makes the list."""
    steps = [
        {"weight": {"clean": 3.0, "corrupted": 0.5}},
        {"noise_level": {"of_level": 2.0}},
        {"select": {"by": "level", "fraction": 0.75}},
    ]
    rows = packed(tmp_path, steps, HALF_NOISY)
    assert len(rows) == 30
    for row in rows:
        noisy = row["corruption"] == "gaussian"
        assert row["weight"] == (0.5 if noisy else 3.0)
        assert row["sigma_min"] == (1.0 if noisy else 0.0)
        assert row["level"] == (0.5 if noisy else 0.0)


def test_an_image_taught_below_its_level_counts_as_clean(tmp_path: Path) -> None:
    rows = packed(tmp_path, [{"noise_level": {"sigma_min": 0.1}}], HALF_NOISY)
    noisy = [row for row in rows if row["corruption"] == "gaussian"]
    assert {(row["level"], round(float(row["sigma_min"]), 3)) for row in noisy} == {(0.0, 0.1)}


def test_corruption_and_clean_share_choose_rows(tmp_path: Path) -> None:
    rows = packed(tmp_path, [{"corruption": {"keep": ["none"]}}], HALF_NOISY)
    assert {row["corruption"] for row in rows} == {"none"}
    other = packed(tmp_path / "b", [{"clean_share": {"clean": 0.0}}], HALF_NOISY)
    assert {row["corruption"] for row in other} == {"gaussian"}
    assert len(rows) + len(other) == 40


def test_blurred_images_need_a_noise_level(tmp_path: Path) -> None:
    mix = Mix(clean_share=0.5, kind="blur", level=1.0)
    with pytest.raises(PackError, match="from which level on they teach with a step noise_level"):
        packed(tmp_path / "a", [], mix)
    rows = packed(tmp_path / "b", [{"noise_level": {"of_level": 2.0}}], mix)
    assert {row["sigma_min"] for row in rows if row["corruption"] == "blur"} == {2.0}


def test_an_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="resizing would change its noise"):
        packed(tmp_path, [], HALF_NOISY, resolution=16)
