"""DataComp as the stages of a round: pools of image-text pairs, CLIP models, zero-shot tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datacomp.extra import image_extra
from datacomp.options import PackOptions, RegisterOptions, TrainOptions
from leaderboard.benchmark import Packed, Progress, Registered, StageOptions, Stages
from pipelines.errors import UsageError

if TYPE_CHECKING:
    import typer

    from datacomp.recipe import Recipe
    from evals.models import ImageTextModel, Precision
    from pipelines.execution.executors import MapTasks
    from pipelines.formats.pool import Pool
    from pipelines.records import ModelRecord, PackedRecord


class DataComp(Stages["Recipe"]):
    """DataComp (Gadre et al. 2023)."""

    name = "datacomp"
    register_options = RegisterOptions
    pack_options = PackOptions
    train_options = TrainOptions

    def build_pool(self, scale: str, folder: str, *, map_tasks: MapTasks) -> None:
        from datacomp.pool import pool

        pool.build_tiny(Path(folder), map_tasks=map_tasks)

    def open_tables(self, folder: str) -> Pool:
        """The tables of pairs; those next to the tars describe the download."""
        from pipelines.images.pairs import open_pairs

        return open_pairs(folder)

    def register(
        self, *, out: str, name: str, map_tasks: MapTasks, options: StageOptions
    ) -> Registered:
        from datacomp.pool import registered

        assert isinstance(options, RegisterOptions)
        return registered.register(options, out=out, name=name, map_tasks=map_tasks)

    def recipe(self, name: str) -> Recipe:
        from datacomp.recipe import load_recipe

        return load_recipe(name)

    def num_steps(self, recipe: Recipe) -> int:
        from datacomp.recipe import num_steps

        return num_steps(recipe)

    def budget(self, recipe: Recipe) -> int:
        """Samples of one training run, repeats counted."""
        from datacomp.recipe import samples_seen

        return samples_seen(recipe)

    def operations(self, recipe: Recipe) -> float | None:
        """Of both towers, forward and backward; None for the small models of our own."""
        from datacomp.plan import FORWARD_FLOPS
        from datacomp.recipe import samples_seen

        forward = FORWARD_FLOPS.get(recipe.model)
        return None if forward is None else 3 * forward * samples_seen(recipe)

    def changed(
        self,
        recipe: Recipe,
        *,
        budget: float = 1.0,
        rate: float = 1.0,
        checkpoints: int | None = None,
    ) -> Recipe:
        from datacomp.recipe import changed

        return changed(recipe, budget=budget, rate=rate, checkpoints=checkpoints)

    def checkpoint_steps(self, recipe: Recipe) -> tuple[int, ...]:
        from datacomp.recipe import part_steps

        return part_steps(recipe)

    def check_room(
        self, recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: int
    ) -> None:
        with image_extra():
            from datacomp.plan import check_room

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
        """Copy the samples of a dataset's list from the pool's tars into training shards."""
        from datacomp.packing import pack

        chosen = options or PackOptions()
        assert isinstance(chosen, PackOptions)
        return pack.pack_dataset(
            dataset, recipe=recipe, out=out, map_tasks=map_tasks, tars=chosen.tars
        )

    def pack_without_recipe(
        self, *, out: str, map_tasks: MapTasks, options: StageOptions
    ) -> Packed:
        """Copy the samples of a bare list of uids."""
        from datacomp.packing import pack

        assert isinstance(options, PackOptions)
        return pack.pack_uids(options, out=out, map_tasks=map_tasks)

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
        with image_extra():
            from datacomp.plan import fitting_here
            from datacomp.training.train import train

            return train(
                packed,
                recipe=recipe,
                seed=seed,
                out=out,
                num_threads=num_threads,
                progress=progress,
                max_batch=chosen.max_batch or fitting_here(recipe),
                loader_workers=chosen.loader_workers,
                compiled=chosen.compile,
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
    ) -> ImageTextModel:
        if precision != "fp32" or exact or batch_tokens:
            raise UsageError(
                "CLIP models are evaluated in fp32, image by image: leave out these options"
            )
        with image_extra():
            from datacomp import eval_model

            return eval_model.load(model, device=device, checkpoint=checkpoint)

    def check_training(self, packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
        from datacomp.recipe import training_faults

        return training_faults(packed, model, recipe)

    def commands(self) -> typer.Typer:
        from datacomp.commands import app
        from datacomp.pool_commands import app as pools

        app.registered_commands += pools.registered_commands
        return app
