"""The stages of DCLM that the leaderboard's round calls; the entry point of this benchmark.

Each function imports its module when it is called, so that `--help` and reading the rules load
neither torch nor a tokenizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from dclm.recipe import Recipe
    from pipelines.assets.catalogue import Assets
    from pipelines.execution.executors import MapTasks
    from pipelines.formats.pool import Pool
    from pipelines.records import ModelRecord, PackedRecord


def open_pool(scale: str, *, workspace: str, map_tasks: MapTasks) -> Pool:
    """The pool of a scale, fetched or built below `workspace` when it is not there yet."""
    from dclm.pool import pool

    return pool.open_scale(scale, workspace=workspace, map_tasks=map_tasks)


def assets(scale: str, *, workspace: str) -> Assets:
    """Where the pipelines of a scale find the files they need."""
    from dclm.pool import pool

    return pool.assets(scale, workspace=workspace)


def recipe(name: str) -> Recipe:
    """The frozen recipe of a scale, or an experimental one from a YAML file."""
    from dclm.recipe import load_recipe

    return load_recipe(name)


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of one training."""
    from dclm.recipe import num_steps as steps

    return steps(recipe)


def budget(recipe: Recipe) -> int:
    """Tokens of one training."""
    return recipe.tokens


def pack(
    dataset: str, recipe: Recipe, *, out: str, map_tasks: MapTasks, **options: Any
) -> PackedRecord:
    """Tokenize, shuffle and cut a dataset into training sequences."""
    from dclm.packing import pack

    return pack.pack(dataset, recipe=recipe, out=out, map_tasks=map_tasks, **options)


def train(packed: str, recipe: Recipe, *, seed: int, out: str, **options: Any) -> ModelRecord:
    """Train one model under the recipe."""
    from dclm.training import train as training

    return training.train(packed, recipe=recipe, seed=seed, out=out, **options)


def load(model: str, **options: Any) -> Any:
    """A trained model behind the language-model protocol of evals; options as of scoring.load."""
    from dclm import eval_model

    return eval_model.load(model, **options)


def eval_data(scale: str, *, workspace: str) -> str:
    """The folder with the evaluation data of a scale."""
    from dclm.pool import pool

    return pool.eval_data(scale, workspace=workspace)


def commands() -> typer.Typer:
    """This benchmark's own commands."""
    from dclm.commands import app

    return app


def check_training(packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
    """The broken rules of packing and training, for the judge: mode, tokenizer, budget."""
    from dclm.recipe import budget_faults

    return budget_faults(packed, model, recipe)
