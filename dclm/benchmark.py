"""DCLM as the stages of a round: text pools, OpenLM models, log-likelihood tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dclm.options import PackOptions, TrainOptions
from leaderboard.benchmark import Progress, StageOptions, Stages, desk

if TYPE_CHECKING:
    import typer

    from dclm.recipe import Recipe
    from evals.models import LanguageModel, Precision
    from pipelines.assets.catalogue import Assets
    from pipelines.execution.executors import MapTasks
    from pipelines.records import ModelRecord, PackedRecord


class DCLM(Stages["Recipe"]):
    """DataComp for language models (Li et al. 2024)."""

    name = "dclm"
    pack_options = PackOptions
    train_options = TrainOptions

    def build_pool(self, scale: str, folder: str, *, map_tasks: MapTasks) -> None:
        from dclm.pool import pool

        pool.build_tiny(Path(folder), map_tasks=map_tasks)

    def assets(self, scale: str, *, workspace: str) -> Assets:
        """Files for pipelines: trained here, brought by the pool, shipped with the package."""
        from pipelines.assets.catalogue import Assets

        sources = Path(self.folder(scale, workspace=workspace)) / "sources"
        return Assets(folders=(desk(workspace) / "assets", sources, self.package / "assets"))

    def recipe(self, name: str) -> Recipe:
        from dclm.recipe import load_recipe

        return load_recipe(name)

    def num_steps(self, recipe: Recipe) -> int:
        from dclm.recipe import num_steps

        return num_steps(recipe)

    def budget(self, recipe: Recipe) -> int:
        """Tokens of one training run."""
        return recipe.tokens

    def operations(self, recipe: Recipe) -> float:
        """6 N D (Kaplan et al. 2020)."""
        from dclm.recipe import flops

        return flops(recipe)

    def in_other_order(self, recipe: Recipe, number: int) -> Recipe:
        """Another seed of the shuffle when packing, and of the epochs."""
        return recipe.model_copy(update={"data_seed": recipe.data_seed + number})

    def changed(
        self,
        recipe: Recipe,
        *,
        budget: float = 1.0,
        rate: float = 1.0,
        checkpoints: int | None = None,
    ) -> Recipe:
        from dclm.recipe import changed

        return changed(recipe, budget=budget, rate=rate, checkpoints=checkpoints)

    def checkpoint_steps(self, recipe: Recipe) -> tuple[int, ...]:
        from dclm.recipe import part_steps

        return part_steps(recipe)

    def check_room(
        self, recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: int
    ) -> None:
        from dclm.plan import check_room

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
        """Tokenize, shuffle and cut a dataset into training sequences."""
        from dclm.packing import pack

        chosen = options or PackOptions()
        assert isinstance(chosen, PackOptions)
        return pack.pack(
            dataset,
            recipe=recipe,
            out=out,
            map_tasks=map_tasks,
            layout=chosen.layout,
            mode=chosen.mode,
        )

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
        from dclm.training.train import train

        chosen = options or TrainOptions()
        assert isinstance(chosen, TrainOptions)
        return train(
            packed,
            recipe=recipe,
            seed=seed,
            out=out,
            num_threads=num_threads,
            progress=progress,
            wandb=chosen.wandb,
            stop_at_spike=not chosen.pass_spikes,
        )

    def progress(self, recipe: Recipe) -> Progress | None:
        from dclm.training.log_lines import log_lines

        return log_lines(recipe)

    def load(
        self,
        model: str,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        exact: bool = False,
        checkpoint: str | None = None,
        batch_tokens: int | None = None,
    ) -> LanguageModel:
        from dclm import eval_model

        return eval_model.load(
            model,
            device=device,
            precision=precision,
            exact=exact,
            checkpoint=checkpoint,
            batch_tokens=batch_tokens,
        )

    def check_training(self, packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
        """Mode, tokenizer and budget."""
        from dclm.recipe import budget_faults

        return budget_faults(packed, model, recipe)

    def commands(self) -> typer.Typer:
        from dclm import mix_commands
        from dclm.commands import app

        mixing = mix_commands.app.registered_commands
        app.registered_commands += [c for c in mixing if c not in app.registered_commands]
        return app
