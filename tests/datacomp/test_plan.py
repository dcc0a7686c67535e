"""Plans: sums of shapes against published figures, and what cannot work."""

from __future__ import annotations

import pytest

from datacomp.plan import (
    FORWARD_FLOPS,
    forward_flops,
    memory_per_gpu,
    model_config,
    num_params,
    plan,
)
from datacomp.recipe import load_recipe
from pipelines.errors import BatchError, PlanError


@pytest.mark.parametrize(
    ("name", "giga_flops", "millions"),
    # open_clip, docs/model_profile.csv: gflops and mparams
    [
        ("ViT-S-32", 5.66, 63.09),
        ("ViT-B-32", 14.78, 151.28),
        ("ViT-B-16", 41.09, 149.62),
        ("ViT-L-14", 175.33, 427.62),
    ],
)
def test_flops_and_parameters_are_those_of_open_clip(name, giga_flops, millions) -> None:
    config = model_config(name)
    assert forward_flops(config) / 1e9 == pytest.approx(giga_flops, rel=0.01)
    assert FORWARD_FLOPS[name] / 1e9 == pytest.approx(giga_flops, rel=1e-3)
    assert num_params(config) / 1e6 == pytest.approx(millions, rel=0.001)


def test_medium_on_one_node() -> None:
    """128M samples (31,260 steps) at 850 x 1.67 on each of 8: 3.1 hours."""
    made = plan(load_recipe("medium"), num_gpus=8, samples_available=12_800_000)
    assert (made.samples_per_gpu, made.parts) == (512, 1)
    assert made.num_steps == 5 * 6252
    assert made.samples_per_second == pytest.approx(8 * 1419.5)
    assert made.hours == pytest.approx(5 * 6252 * 4096 / (8 * 1419.5) / 3600)
    assert made.passes == pytest.approx(10, rel=0.01)
    assert made.images_per_second == pytest.approx(1419.5)
    assert any("--loader-workers 5" in warning for warning in made.warnings)
    assert any("10.0 times" in warning for warning in made.warnings)


def test_a_rate_of_ones_own_replaces_the_published() -> None:
    made = plan(load_recipe("medium"), num_gpus=8, rate=5500)
    assert made.cores_per_gpu == pytest.approx(5500 / 325)
    assert not any("published" in warning for warning in made.warnings)


def test_a_batch_that_does_not_fit_is_computed_in_parts() -> None:
    made = plan(load_recipe("xlarge"), num_gpus=64, gpu="a100-40")
    assert made.samples_per_gpu * made.parts * 64 == 90_112
    assert made.parts > 1
    assert made.memory_bytes < 38e9 * 0.9
    recipe = load_recipe("xlarge")
    config = model_config("ViT-L-14")
    assert memory_per_gpu(recipe, config, 2 * made.samples_per_gpu) > made.memory_bytes


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(PlanError, match="unknown GPU 'h1000'; known: a100, a100-40, h100, h200"):
        plan(load_recipe("small"), num_gpus=1, gpu="h1000")
    with pytest.raises(BatchError, match="6 GPUs cannot share the batch of 4096"):
        plan(load_recipe("small"), num_gpus=6)
    with pytest.raises(PlanError, match=r"scale tiny is for a processor or two\. Give --rate"):
        plan(load_recipe("tiny"), num_gpus=1)
