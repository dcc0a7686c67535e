"""CLIP next to its peers: clip_benchmark's figures, and a compiled model's losses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datacomp.recipe import Recipe
from datacomp.training.train import train
from leaderboard.rounds.train_folder import metric_lines
from tests.datacomp.conftest import packed_images, recipe_file, small_recipe  # noqa: F401

pytestmark = [pytest.mark.soak]
ROOT = Path(__file__).parents[2]


def test_every_metric_equals_that_of_clip_benchmark() -> None:
    """The bench ends with an error where a metric differs by more than 1e-6."""
    bench = ROOT / "benches" / "bench_clip_eval.py"
    answer = ["--every", "3", "--images", "24", "--one", "32", "--again", "--check"]
    done = subprocess.run([sys.executable, str(bench), *answer], capture_output=True, text=True)
    assert "metrics of 13 datasets are equal" in done.stdout, done.stdout + done.stderr


def test_a_compiled_model_has_the_same_losses(
    packed_images: Path,  # noqa: F811
    small_recipe: Recipe,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = small_recipe.model_copy(update={"samples": 4 * 32, "num_checkpoints": 1})
    collected = []
    for compiled in (False, True):
        out = tmp_path / str(compiled)
        train(
            str(packed_images / "packed"),
            recipe=recipe,
            seed=0,
            out=str(out),
            compiled=compiled,
        )
        collected.append([row["loss"] for row in metric_lines(out / "metrics.jsonl")])
    np.testing.assert_allclose(collected[1], collected[0], rtol=1e-5)
