"""Plans follow from shapes and say what cannot work."""

from __future__ import annotations

import pytest

from dclm.plan import (
    PUBLISHED,
    memory_per_gpu,
    micro_batch,
    plan,
    progress_line,
    published_mfu,
)
from dclm.recipe import load_recipe, recipe_names
from pipelines.errors import PlanError


def test_hours_are_flops_over_the_share_of_the_peak() -> None:
    made = plan(load_recipe("400m-1x"), num_gpus=8, gpu="h100", mfu=0.37, dollars_per_hour=2.0)
    # 6 * 411,616,256 * 8,232,325,120 / (0.37 * 989e12) seconds of one GPU
    assert made.gpu_hours == pytest.approx(15.43, abs=0.01)
    assert made.hours == pytest.approx(15.43 / 8, abs=0.01)
    assert made.dollars == pytest.approx(2 * 15.43, abs=0.02)
    assert made.tokens_per_second == pytest.approx(8_232_325_120 / (made.hours * 3600))
    assert made.num_steps == 7850
    assert not made.warnings


def test_micro_batches_keep_the_global_batch() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        for num_gpus in (1, 8, 64):
            if recipe.global_batch_size % num_gpus or recipe.precision == "fp32":
                continue
            micro = micro_batch(recipe, num_gpus=num_gpus, memory_bytes=78e9)
            if micro is None:
                continue
            rows = recipe.global_batch_size // num_gpus
            assert rows % micro == 0
            room = 78e9 * 0.9
            assert memory_per_gpu(recipe, num_gpus=num_gpus, micro_batch=micro) <= room


def test_states_of_one_gpu_are_sixteen_bytes_a_parameter() -> None:
    recipe = load_recipe("7b-1x")
    two = memory_per_gpu(recipe, num_gpus=2, micro_batch=1)
    four = memory_per_gpu(recipe, num_gpus=4, micro_batch=1)
    assert two - four == pytest.approx(16 * recipe.model.num_params / 4)


def test_seven_billion_do_not_fit_one_gpu() -> None:
    with pytest.raises(PlanError, match=r"7b-1x needs \d+ GB a GPU .* on 1 h100.*more GPUs"):
        plan(load_recipe("7b-1x"), num_gpus=1)
    assert plan(load_recipe("7b-1x"), num_gpus=16).micro_batch >= 2


def test_number_of_gpus_that_does_not_divide_is_refused() -> None:
    with pytest.raises(PlanError, match="512 sequences does not divide over 6 GPUs; use 4"):
        plan(load_recipe("400m-1x"), num_gpus=6)


def test_unknown_gpu_lists_the_known() -> None:
    with pytest.raises(PlanError, match=r"unknown GPU 'h1000'; known: a100, .*h100"):
        plan(load_recipe("400m-1x"), num_gpus=8, gpu="h1000")


def test_too_little_data_is_refused_and_many_repeats_are_told() -> None:
    recipe = load_recipe("400m-1x")
    with pytest.raises(PlanError, match="511 sequences, less than one step of 512"):
        plan(recipe, num_gpus=8, sequences_available=511)
    made = plan(recipe, num_gpus=8, sequences_available=401_920, mfu=0.3)
    assert made.passes == pytest.approx(10.0)
    assert made.warnings == ("the data is read 10.0 times; more than 4 adds little",)


def test_assumed_speed_is_said_to_be_assumed() -> None:
    (warning,) = plan(load_recipe("1b-1x"), num_gpus=8).warnings
    assert "nothing was measured here" in warning


def test_published_shares_are_met_at_their_sizes_and_grow() -> None:
    for size, share in PUBLISHED:
        assert published_mfu(int(size)) == pytest.approx(share)
    assert published_mfu(1000) == PUBLISHED[0][1]
    assert published_mfu(10**12) == PUBLISHED[-1][1]


def test_progress_line_says_step_loss_speed_share_and_time() -> None:
    recipe = load_recipe("400m-1x")
    line = progress_line(recipe, 850, 7850, 3.25, 150_000.0, peak_flops=989e12)
    # 7,000 steps of 2**20 tokens at 150,000 a second
    assert line == "step 850/7850  loss 3.250  150,000 tokens/s  MFU 37.5%  ETA 13h35m"
