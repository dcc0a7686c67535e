"""The recipes are DCLM's to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dclm.recipe import (
    RECIPES,
    Recipe,
    flops,
    is_official,
    load_recipe,
    lr,
    num_sequences,
    num_steps,
    recipe_names,
    sequences_per_checkpoint,
)
from evals.suite import load_suite
from leaderboard import rules
from pipelines import installed

OPENLM = "dclm-eval/openlm"


def recipe_like(fixture: dict) -> Recipe:
    """The installed recipe with the fixture's budget, and its number of checkpoints."""
    matches = [
        recipe
        for recipe in map(load_recipe, recipe_names())
        if recipe.tokens == fixture["tokens"] and recipe.learning_rate == fixture["lr"]
    ]
    assert matches, f"no installed recipe has {fixture['tokens']} tokens"
    return matches[0].model_copy(update={"num_checkpoints": fixture["num_checkpoints"]})


@pytest.mark.parity
def test_learning_rate_equals_open_lm_at_every_recorded_step(fixtures: Path) -> None:
    paths = sorted((fixtures / OPENLM).glob("lr_*.json"))
    if not paths:
        pytest.skip("no lr_*.json in the fixtures")
    for path in paths:
        expected = json.loads(path.read_text())
        recipe = recipe_like(expected)
        assert recipe.global_batch_size == expected["global_bs"]
        assert recipe.warmup_steps == expected["warmup"]
        assert sequences_per_checkpoint(recipe) == expected["train_num_samples_per_ckpt"]
        assert num_steps(recipe) == expected["total_steps"]
        ours = [lr(recipe, step) for step in expected["steps"]]
        assert ours == pytest.approx(expected["lrs"], rel=1e-12, abs=0)
        total = sum(lr(recipe, step) for step in range(num_steps(recipe)))
        assert total == pytest.approx(expected["lr_sum_all_steps"], abs=1e-5)


@pytest.mark.parity
def test_parameter_counts_equal_those_of_open_lm(fixtures: Path) -> None:
    path = fixtures / OPENLM / "dclm_param_counts.json"
    if not path.exists():
        pytest.skip("no dclm_param_counts.json in the fixtures")
    by_total = {load_recipe(name).model.num_params: load_recipe(name) for name in recipe_names()}
    for name, expected in json.loads(path.read_text()).items():
        assert expected["total"] in by_total, name
        model = by_total[expected["total"]].model
        assert (model.ffn_dim, model.head_dim) == (expected["ffn_hidden"], expected["head_dim"])
        without = model.num_params - model.vocab_size * model.dim
        assert without == expected["no_embed"]


# DCLM, training/configs/*.json: tokens, sequences a step, steps with five checkpoints.
BUDGETS = [
    ("400m-1x", 8_232_325_120, 512, 7_850),
    ("1b-1x", 28_795_904_000, 256, 54_923),
    ("3b-1x", 55_918_643_200, 256, 106_656),
    ("7b-1x", 137_788_211_200, 2048, 32_851),
    ("7b-2x", 275_576_422_400, 2048, 65_702),
]


@pytest.mark.parametrize(("scale", "tokens", "batch", "steps"), BUDGETS)
def test_budgets_are_those_of_dclm(scale: str, tokens: int, batch: int, steps: int) -> None:
    recipe = load_recipe(scale)
    assert (recipe.tokens, recipe.global_batch_size, num_steps(recipe)) == (tokens, batch, steps)
    assert num_sequences(recipe) == batch * steps
    assert recipe.tokens == recipe.counted_params * 20 * (2 if scale == "7b-2x" else 1)
    assert recipe.ranked
    assert is_official(recipe)


def test_counted_parameters_leave_out_the_gains_of_q_and_k() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        gains = 2 * recipe.model.dim * recipe.model.num_layers
        assert recipe.counted_params == recipe.model.num_params - gains, name


def test_warmup_is_linear_and_the_cosine_ends_at_the_minimum() -> None:
    recipe = load_recipe("400m-1x")
    assert lr(recipe, 0) == 0.003 / 2000
    assert lr(recipe, 1999) == 0.003
    assert lr(recipe, 2000) == 0.003
    middle = 2000 + (7850 - 2000) // 2
    assert lr(recipe, middle) == pytest.approx((0.003 + 3e-5) / 2, rel=1e-12)
    assert lr(recipe, 7850) == 3e-5


def test_names_are_sorted_by_cost() -> None:
    costs = [flops(load_recipe(name)) for name in recipe_names()]
    assert costs == sorted(costs)
    assert len(costs) == len(list(RECIPES.glob("*.yaml")))


def test_edited_recipe_is_not_official(tmp_path: Path) -> None:
    values = yaml.safe_load((RECIPES / "400m-1x.yaml").read_text())
    values["learning_rate"] = 0.0031
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    assert not is_official(load_recipe(path))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no recipe '400m'.*400m-1x"):
        load_recipe("400m")


def test_unknown_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((RECIPES / "400m-1x.yaml").read_text() + "\nlearning_rte: 1\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: learning_rte"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1000}, "less than one step"),
        ({"warmup_steps": 10_000}, "more than the 7850 steps"),
        ({"learning_rate": 0.0}, "greater than 0"),
    ],
)
def test_impossible_recipe_is_refused(change: dict, message: str) -> None:
    values = load_recipe("400m-1x").model_dump() | change
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(values)


def test_every_recipe_has_a_scale_and_every_scale_a_suite() -> None:
    book = rules.load_benchmark("dclm")
    assert {scale.recipe for scale in book.scales} == set(recipe_names())
    for scale in book.scales:
        assert scale.ranked == load_recipe(scale.recipe).ranked
        suite = load_suite(installed.folder("dclm") / "suites" / f"{scale.suite}.yaml")
        assert suite.version == scale.suite_version
