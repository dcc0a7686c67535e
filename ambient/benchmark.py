"""Ambient as the stages of a round: pools of corrupted images, diffusion models, samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ambient.extra import ambient_extra
from ambient.options import TrainOptions
from leaderboard.benchmark import Progress, StageOptions, Stages
from pipelines.errors import UsageError

if TYPE_CHECKING:
    import typer

    from ambient.recipe import Recipe
    from evals.models import ImageGenerator, Precision
    from leaderboard.benchmark import EvalModel
    from pipelines.execution.executors import MapTasks
    from pipelines.formats.pool import Pool
    from pipelines.records import ModelRecord, PackedRecord


class Ambient(Stages["Recipe"]):
    """Which imperfect images are worth training on? (Daras et al. 2023 to 2025)"""

    name = "ambient"
    train_options = TrainOptions
    built_scales = ("tiny", "tiny-solver", "mini")

    def folder(self, scale: str, *, workspace: str, own_track: str = "") -> str:
        """A scale of solvers has the pool of its models' scale."""
        of_models = scale.removesuffix("-solver")
        return super().folder(of_models, workspace=workspace, own_track=own_track)

    def build_pool(self, scale: str, folder: str, *, map_tasks: MapTasks) -> None:
        from ambient.pool.mini_pool import build_mini
        from ambient.pool.tiny_pool import build_tiny

        build = build_mini if scale == "mini" else build_tiny
        build(Path(folder))

    def build_pool_of(self, track: str, scale: str, folder: str) -> None:
        from ambient.pool.tiny_pool import build_unknown

        if scale != "tiny":
            super().build_pool_of(track, scale, folder)
        build_unknown(Path(folder))

    def open_tables(self, folder: str) -> Pool:
        from pipelines.images.pairs import open_pairs

        return open_pairs(folder)

    def recipe(self, name: str) -> Recipe:
        from ambient.recipe import load_recipe

        return load_recipe(name)

    def num_steps(self, recipe: Recipe) -> int:
        from ambient.recipe import num_steps

        return num_steps(recipe)

    def budget(self, recipe: Recipe) -> int:
        """Images of one training run, repeats counted."""
        from ambient.recipe import images_seen

        return images_seen(recipe)

    def operations(self, recipe: Recipe) -> float:
        """Of the network's layers, forward and backward."""
        from ambient.plan import forward_flops
        from ambient.recipe import images_seen

        return 3 * forward_flops(recipe) * images_seen(recipe)

    def changed(
        self,
        recipe: Recipe,
        *,
        budget: float = 1.0,
        rate: float = 1.0,
        checkpoints: int | None = None,
    ) -> Recipe:
        from ambient.recipe import changed

        if checkpoints is not None:
            raise UsageError("image generators save no intermediate weights: leave out checkpoints")

        return changed(recipe, budget=budget, rate=rate)

    def check_room(
        self, recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: int
    ) -> None:
        from ambient.plan import check_room

        check_room(
            recipe, num_gpus=num_gpus, num_processes=num_processes, memory_bytes=memory_bytes
        )

    def pack(
        self,
        dataset: str,
        recipe: Recipe,
        *,
        out: str,
        map_tasks: MapTasks,
        options: StageOptions | None = None,
    ) -> PackedRecord:
        """Copy the images of a dataset's list into arrays, with a table of their corruption."""
        from ambient.packing.pack import pack_dataset

        return pack_dataset(dataset, recipe=recipe, out=out, map_tasks=map_tasks)

    def train(
        self,
        packed: str,
        recipe: Recipe,
        *,
        seed: int,
        out: str,
        num_threads: int = 1,
        progress: Progress | None = None,
        options: StageOptions | None = None,
    ) -> ModelRecord:
        chosen = options or TrainOptions()
        assert isinstance(chosen, TrainOptions)
        with ambient_extra():
            from ambient.plan import fitting_here
            from ambient.training.train import train

            return train(
                packed,
                recipe=recipe,
                seed=seed,
                out=out,
                num_threads=num_threads,
                max_batch=chosen.max_batch or fitting_here(recipe),
                progress=progress,
            )

    def load(
        self,
        model: str,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        exact: bool = False,
        checkpoint: str | None = None,
        batch_tokens: int | None = None,
    ) -> ImageGenerator:
        if precision != "fp32" or exact or checkpoint is not None or batch_tokens is not None:
            raise UsageError("image generators are evaluated in fp32: leave out these options")
        with ambient_extra():
            from ambient.eval_model import load

            return load(model, device=device)

    def as_recorded(self, model: EvalModel, settings: object, *, run_code: bool) -> EvalModel:
        from evals.images.solvers import as_recorded

        recorded: EvalModel = as_recorded(model, settings, run_code=run_code)
        return recorded

    def check_training(self, packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
        from ambient.recipe import training_faults

        return training_faults(packed, model, recipe)

    def commands(self) -> typer.Typer:
        from ambient.commands import app

        return app
