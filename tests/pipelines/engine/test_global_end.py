"""What a task of a pass takes of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.assets.catalogue import Assets
from pipelines.engine.global_end import needs_of
from pipelines.execution.executors import TASK_BYTES, MapTasks, Needs, map_here
from pipelines.pipeline import Pipeline

GIB = 1 << 30
LANGUAGE: dict[str, Any] = {"language_id": {"model": "languages.bin"}}
QUALITY: dict[str, Any] = {"quality_score": {"model": "quality.bin"}}
NEAR: dict[str, Any] = {"near_targets": {"centroids": "centroids.npy", "targets": "targets.npy"}}


class Nodes:
    """An executor that places tasks."""

    def with_needs(self, needs: Needs) -> MapTasks:
        return map_here


def made(folder: Path, **sizes: int) -> Assets:
    """Files of these sizes, without a block on the disk."""
    for name, size in sizes.items():
        with open(folder / name.replace("__", "."), "wb") as file:
            file.truncate(size)
    return Assets(folders=(folder,))


@pytest.mark.parametrize(
    ("steps", "num_gpus", "memory_bytes"),
    [
        ([{"word_count": {"min_words": 5}}], 0, 0),
        ([LANGUAGE], 0, 0),  # 130 MB: every processor has so much
        ([QUALITY], 0, 4 * GIB + TASK_BYTES),
        ([LANGUAGE, QUALITY, QUALITY], 0, 4 * GIB + (130 << 20) + TASK_BYTES),  # each once
        ([NEAR], 1, 0),
    ],
)
def test_a_task_has_room_for_the_models_of_its_steps(
    steps: list[dict[str, Any]], num_gpus: float, memory_bytes: int, tmp_path: Path
) -> None:
    assets = made(
        tmp_path,
        languages__bin=130 << 20,
        quality__bin=4 * GIB,
        centroids__npy=1 << 20,
        targets__npy=1 << 20,
    )
    pipeline = Pipeline.from_steps(steps, name="models", assets=assets)
    needs = needs_of(pipeline.steps, assets, Nodes())  # type: ignore[arg-type]
    assert needs is not None
    assert (needs.num_gpus, needs.memory_bytes) == (num_gpus, memory_bytes)


def test_an_executor_that_places_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    assets = made(tmp_path, quality__bin=4 * GIB)
    pipeline = Pipeline.from_steps([QUALITY], name="models", assets=assets)
    assert needs_of(pipeline.steps, assets, map_here) is None
