"""The recipes: the paper's numbers, and the batch whatever the number of GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datacomp.recipe import (
    accumulation,
    arguments,
    load_recipe,
    num_steps,
    samples_seen,
    steps_per_piece,
)
from pipelines.errors import BatchError
from pipelines.execution.process import process_of

# Gadre et al. 2023, tables 1 and 8: model, samples seen, batch, learning rate, warmup, beta2.
PAPER = {
    "debug": ("ViT-B-32", 128_000, 1024, 1e-4, 500, 0.98),
    "small": ("ViT-B-32", 12_800_000, 4096, 5e-4, 500, 0.98),
    "medium": ("ViT-B-32", 128_000_000, 4096, 5e-4, 500, 0.98),
    "large": ("ViT-B-16", 1_280_000_000, 8192, 5e-4, 500, 0.98),
    "xlarge": ("ViT-L-14", 12_800_000_000, 90_112, 1e-3, 10_000, 0.95),
}


@pytest.mark.parametrize("scale", PAPER)
def test_recipes_are_the_papers(scale: str) -> None:
    recipe = load_recipe(scale)
    numbers = (
        recipe.model,
        recipe.samples,
        recipe.global_batch_size,
        recipe.learning_rate,
        recipe.warmup_steps,
        recipe.betas[1],
    )
    assert numbers == PAPER[scale]
    assert (recipe.weight_decay, recipe.betas[0], recipe.eps) == (0.2, 0.9, 1e-6)
    assert recipe.seeds[0] == 0


@pytest.mark.parametrize(("scale", "part"), [("1m", 10), ("3m", 4)])
def test_proxies_are_parts_of_small(scale: str, part: int) -> None:
    proxy, small = load_recipe(scale), load_recipe("small")
    assert proxy.samples * part == small.samples
    assert not proxy.ranked
    changes = {"scale", "ranked", "model", "samples", "global_batch_size", "warmup_steps", "seeds"}
    assert proxy.model_dump(exclude=changes) == small.model_dump(exclude=changes)


def test_steps_are_rounded_up_as_the_reference_rounds() -> None:
    """2,560,000 / 4096 = 625 batches a part, to a multiple of 4 loaders: 628; five parts."""
    small = load_recipe("small")
    assert num_steps(small) == 5 * 628
    assert samples_seen(small) == 5 * 628 * 4096


def test_the_batch_is_shared_or_computed_in_parts() -> None:
    small = load_recipe("small")
    assert accumulation(small, num_gpus=8) == 1
    assert accumulation(small, num_gpus=8, fitting=512) == 1
    assert accumulation(small, num_gpus=8, fitting=511) == 2
    assert accumulation(small, num_gpus=1, fitting=100) == 64  # 4096 = 64 x 64, the largest below


def test_numbers_of_gpus_that_would_work_are_named() -> None:
    with pytest.raises(BatchError, match=r"6 GPUs cannot share the batch of 4096 .*: 4, 8"):
        accumulation(load_recipe("small"), num_gpus=6)
    # 90112 = 2^13 x 11
    with pytest.raises(BatchError, match=r"90112 .*: 8, 11, 16"):
        accumulation(load_recipe("xlarge"), num_gpus=10)


def test_arguments_keep_the_batch_for_any_number_of_gpus() -> None:
    small = load_recipe("small")
    for gpus, parts in ((1, 64), (8, 1), (8, 4), (512, 1)):
        options = arguments(small, seed=3, num_gpus=gpus, parts=parts)
        value = {
            name: options[position + 1]
            for position, name in enumerate(options)
            if name[:2] == "--" and position + 1 < len(options)
        }
        assert int(value["--batch-size"]) * int(value["--accum-freq"]) * gpus == 4096
        assert int(value["--train-num-samples"]) * int(value["--epochs"]) == 5 * 628 * 4096
        assert int(value["--epochs"]) == 20, "five parts, four points to resume from in each"
        assert value["--seed"] == "3"
        assert "--dataset-resampled" in options
        assert "--grad-checkpointing" not in options


def test_a_part_is_cut_into_equal_pieces_or_refused() -> None:
    small = load_recipe("small")
    assert steps_per_piece(small) == 157
    fields = small.model_dump() | {"resume_points": 3}
    with pytest.raises(ValueError, match="a part has 628 steps, not in 3 equal pieces"):
        type(small).model_validate(fields)


def test_open_clip_knows_every_argument() -> None:
    from open_clip_train.params import parse_args

    for scale in (*PAPER, "tiny"):
        recipe = load_recipe(scale)
        parsed = parse_args(arguments(recipe, seed=1, num_gpus=1, parts=1))
        assert parsed.lr == recipe.learning_rate
        assert parsed.beta2 == recipe.betas[1]
        assert parsed.precision == recipe.precision
        assert parsed.dataset_resampled


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_STEP_ID": "0"}, (5, 16)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_torchrun_and_slurm_tell_the_process_its_number(environment, expected) -> None:
    assert process_of(environment) == expected


def test_a_recipe_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no recipe 'smal'; .*debug, large, medium"):
        load_recipe("smal")
    fields = load_recipe("tiny").model_dump(mode="json") | {"learning_rate": -1}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(ValueError, match=r"r\.yaml: learning_rate: Input should be greater"):
        load_recipe(str(tmp_path / "r.yaml"))
    with pytest.raises(ValueError, match="less than one batch"):
        type(load_recipe("tiny")).model_validate(load_recipe("tiny").model_dump() | {"samples": 10})
