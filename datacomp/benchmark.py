"""The stages of DataComp that the leaderboard's round calls; the entry point of this benchmark.

Each function imports its module when it is called, so that `--help` and reading the rules load
neither torch nor open_clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datacomp.extra import image_extra

if TYPE_CHECKING:
    import typer

    from datacomp.recipe import Recipe
    from pipelines.assets.catalogue import Assets
    from pipelines.engine.run import Result
    from pipelines.execution.executors import MapTasks
    from pipelines.formats.pool import Pool
    from pipelines.pipeline import Pipeline
    from pipelines.records import ModelRecord, PackedRecord


def open_pool(scale: str, *, workspace: str, map_tasks: MapTasks) -> Pool:
    """The pool of a scale, fetched or built below `workspace` when it is not there yet."""
    from datacomp.pool import pool

    return pool.open_scale(scale, workspace=workspace, map_tasks=map_tasks)


def assets(scale: str, *, workspace: str) -> Assets:
    """Where the pipelines of a scale find the files they need."""
    from datacomp.pool import pool

    return pool.assets(scale, workspace=workspace)


def eval_data(scale: str, *, workspace: str) -> str:
    """The folder with the evaluation data of a scale."""
    from datacomp.pool import pool

    return pool.eval_data(scale, workspace=workspace)


def curate(
    pipeline: Pipeline, pool: Pool, *, out: str, map_tasks: MapTasks, quarantine: bool = False
) -> Result:
    """Run a pipeline over the pool's tables, to a sorted list of uids."""
    from datacomp.curation import curate as curation

    return curation.curate(pipeline, pool, out=out, map_tasks=map_tasks, quarantine=quarantine)


def recipe(name: str) -> Recipe:
    """The frozen recipe of a scale, or an experimental one from a YAML file."""
    from datacomp.recipe import load_recipe

    return load_recipe(name)


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of one training."""
    from datacomp.recipe import num_steps as steps

    return steps(recipe)


def budget(recipe: Recipe) -> int:
    """Samples of one training, repeats counted."""
    from datacomp.recipe import samples_seen

    return samples_seen(recipe)


def pack(
    dataset: str, recipe: Recipe, *, out: str, map_tasks: MapTasks, **options: Any
) -> PackedRecord:
    """Copy the samples of a dataset's list from the pool's tars into training shards."""
    from datacomp.packing import pack

    return pack.pack_dataset(dataset, recipe=recipe, out=out, map_tasks=map_tasks, **options)


def train(packed: str, recipe: Recipe, *, seed: int, out: str, **options: Any) -> ModelRecord:
    """Train one model under the recipe."""
    from datacomp.training import train as training

    with image_extra():
        return training.train(packed, recipe=recipe, seed=seed, out=out, **options)


def load(model: str, **options: Any) -> Any:
    """A trained model behind the protocol of evals for pictures and texts."""
    with image_extra():
        from datacomp import eval_model

        return eval_model.load(model, **options)


def check_training(packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
    """The broken rules of packing and training, for the judge."""
    from datacomp.recipe import training_faults

    return training_faults(packed, model, recipe)


def commands() -> typer.Typer:
    """This benchmark's own commands, and its own forms of stages."""
    from datacomp.commands import app
    from datacomp.pool_commands import app as pools

    app.registered_commands += pools.registered_commands
    return app
