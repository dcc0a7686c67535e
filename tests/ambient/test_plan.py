"""Plans: shapes by hand, and refusals."""

from __future__ import annotations

import pytest

from ambient import plan as planning
from ambient.recipe import load_recipe
from ambient.training.model import build, num_params
from leaderboard.rounds.gpus import GPUS
from pipelines.errors import BatchError, PlanError


@pytest.mark.parametrize("scale", ["mini", "small", "medium", "large", "mri"])
def test_every_scale_can_be_planned(scale: str) -> None:
    made = planning.plan(load_recipe(scale), num_gpus=8)
    assert made.memory_bytes < GPUS["h100"].memory_bytes
    assert made.images_per_gpu * made.pieces * 8 == load_recipe(scale).global_batch_size
    assert made.hours > 0


@pytest.mark.parametrize("scale", ["tiny", "mini"])
def test_parameters_are_about_those_of_the_model(scale: str) -> None:
    recipe = load_recipe(scale)
    real = num_params(build(recipe, masked=False))
    assert planning.num_params(recipe) == pytest.approx(real, rel=0.35)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(PlanError, match="unknown GPU"):
        planning.plan(load_recipe("small"), num_gpus=1, gpu="abacus")
    with pytest.raises(BatchError, match="cannot share the batch"):
        planning.plan(load_recipe("small"), num_gpus=7)
    with pytest.raises(PlanError, match="needs GPUs"):
        planning.check_room(load_recipe("large"), num_gpus=0, num_processes=1, memory_bytes=0)
    planning.check_room(load_recipe("tiny"), num_gpus=0, num_processes=1, memory_bytes=0)
