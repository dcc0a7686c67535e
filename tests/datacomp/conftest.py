"""Packed shards of drawn images, and a recipe that trains on them in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datacomp.recipe import Recipe
from tests.datacomp.image_pool import write_images

SMALL = {
    "scale": "tiny",
    "model": "tiny-vit",
    "samples": 3 * 4 * 32,
    "global_batch_size": 32,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "precision": "fp32",
    "num_checkpoints": 3,
    "resume_points": 2,
    "loader_workers": 0,
    "shard_size": 50,
    "log_every": 1,
    "seeds": [0, 1, 2],
}


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """Three parts of four steps of 32 samples, in two pieces each."""
    return Recipe.model_validate(SMALL)


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="session")
def packed_images(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe) -> Path:
    """A pool of drawn images, curated by no_filter and packed; the folder has `pool` too."""
    from datacomp.curation.curate import curate
    from datacomp.packing.pack import pack_dataset
    from pipelines.execution.executors import map_here
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline

    folder = tmp_path_factory.mktemp("pictures")
    write_images(folder / "pool", broken=2)
    pool = open_pool(str(folder / "pool" / "metadata"))
    curate(
        Pipeline.from_steps([], name="no_filter"),
        pool,
        out=str(folder / "dataset"),
        map_tasks=map_here,
    )
    pack_dataset(
        str(folder / "dataset"),
        recipe=small_recipe,
        out=str(folder / "packed"),
        map_tasks=map_here,
    )
    return folder
