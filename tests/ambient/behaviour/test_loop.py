"""A program takes part with image generators: the whole loop of JSON over the tiny pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from ambient import recipe
from tests.leaderboard.program import installed, play

pytestmark = pytest.mark.slow
THREE_STEPS = {
    "images": 96,
    "global_batch_size": 32,
    "network": {"kind": "mlp", "width": 16, "layers": 1},
    "warmup_images": 32,
    "sampler_steps": 4,
    "log_every": 1,
}


def test_a_program_plays_the_whole_loop(tmp_path: Path) -> None:
    tiny = recipe.load_recipe("tiny").model_dump(mode="json")
    with installed(recipe, tmp_path, tiny | THREE_STEPS):
        proposals = [
            (f"clean_{weight:g}", [{"weight": {"clean": weight, "corrupted": 1.0}}])
            for weight in (2.0, 5.0)
        ]
        play("ambient", tmp_path, proposals)
