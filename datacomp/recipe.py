"""The recipe of a scale: every hyperparameter of a CLIP training, frozen. Imports no torch.

Gadre et al. 2023, tables 1 and 8: batch, learning rate, warmup, samples seen and model by scale;
what they leave unsaid is open_clip's default and is written down here too.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from leaderboard.benchmark import training_texts
from leaderboard.rounds.recipe_file import read_recipe
from pipelines.errors import BatchError
from pipelines.records import JSON, Frozen, ModelRecord, PackedRecord

RECIPES = Path(__file__).parent / "recipes"
MODELS = Path(__file__).parent / "models"


class Recipe(Frozen):
    """Everything that a training run is given besides its data and its seed."""

    scale: str
    ranked: bool = True
    model: str = Field(description="a model configuration of open_clip, or of `datacomp/models`")
    samples: int = Field(gt=0, description="samples seen, repeats counted")
    global_batch_size: int = Field(gt=0, description="samples of one step, over all GPUs")
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = Field(0.2, description="on matrices only")
    precision: Literal["amp", "amp_bf16", "fp32"] = "amp"
    num_checkpoints: int = Field(
        5, ge=1, description="parts of the training run, to which the reference rounds"
    )
    resume_points: int = Field(
        1, ge=1, description="checkpoints per part; a training run can resume after each"
    )
    loader_workers: int = Field(
        4, ge=0, description="loader processes of each GPU, to whose number steps are rounded up"
    )
    resampled: Literal[True] = Field(True, description="shards are drawn with replacement")
    augmentation: dict[str, JSON] = Field(
        default_factory=dict, description="of images, where open_clip's default is not kept"
    )
    shard_size: int = Field(10_000, ge=1, description="samples of a packed shard")
    log_every: int = Field(100, ge=1, description="steps between two lines of metrics")
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.samples // self.num_checkpoints < self.global_batch_size:
            raise ValueError("a part of the training run has less than one batch")
        if steps_per_part(self) % self.resume_points:
            raise ValueError(
                f"a part has {steps_per_part(self)} steps, not in {self.resume_points} equal pieces"
            )
        return self


def samples_per_part(recipe: Recipe) -> int:
    """Samples between two checkpoints, as the reference rounds: down."""
    return recipe.samples // recipe.num_checkpoints


def steps_per_part(recipe: Recipe) -> int:
    """Steps between two checkpoints: open_clip rounds batches up, for every loader process."""
    workers = max(1, recipe.loader_workers)
    batches = -(-samples_per_part(recipe) // recipe.global_batch_size)
    return -(-batches // workers) * workers


def steps_per_piece(recipe: Recipe) -> int:
    """Steps between two points that a training run can resume from."""
    return steps_per_part(recipe) // recipe.resume_points


def part_steps(recipe: Recipe) -> tuple[int, ...]:
    """Steps at the ends of the budget's parts but the last: where training keeps the weights."""
    return tuple(steps_per_part(recipe) * part for part in range(1, recipe.num_checkpoints))


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of the whole training."""
    return steps_per_part(recipe) * recipe.num_checkpoints


def samples_seen(recipe: Recipe) -> int:
    """Samples of all steps: a little over the budget, by the rounding."""
    return num_steps(recipe) * recipe.global_batch_size


def changed(
    recipe: Recipe, *, budget: float = 1.0, rate: float = 1.0, checkpoints: int | None = None
) -> Recipe:
    """The recipe with its samples and its learning rate multiplied, for experiments.

    The warmup keeps its share of the steps. ValueError where a part has not even one batch.
    """
    values = recipe.model_dump(mode="json")
    values["samples"] = round(recipe.samples * budget)
    values["warmup_steps"] = round(recipe.warmup_steps * budget)
    values["learning_rate"] = recipe.learning_rate * rate
    values["num_checkpoints"] = checkpoints or recipe.num_checkpoints
    values["resume_points"] = 1  # further ones must divide the steps of a part
    return Recipe.model_validate(values)


def accumulation(recipe: Recipe, *, num_gpus: int, fitting: int | None = None) -> int:
    """Parts in which each GPU computes its share of the batch; `fitting`: samples that it can hold.

    The batch stays what the recipe says. BatchError names the numbers of GPUs that would work.
    """
    if recipe.global_batch_size % num_gpus:
        near = [
            gpus
            for gpus in range(max(1, num_gpus // 2), 2 * num_gpus + 1)
            if recipe.global_batch_size % gpus == 0
        ]
        raise BatchError(
            f"{num_gpus} GPUs cannot share the batch of {recipe.global_batch_size} that scale "
            f"{recipe.scale} has; numbers near it that can: {', '.join(map(str, near))}"
        )
    share = recipe.global_batch_size // num_gpus
    for parts in range(1, share + 1):
        if share % parts == 0 and (fitting is None or share // parts <= fitting):
            return parts
    raise BatchError(f"not even one sample fits a GPU: --max-batch {fitting}")


def arguments(
    recipe: Recipe, *, seed: int, num_gpus: int, parts: int, loader_workers: int | None = None
) -> list[str]:
    """The arguments of `open_clip_train.main`: all but the number of loaders the recipe fixes."""
    named: dict[str, object] = {
        "model": recipe.model,
        "dataset-type": "webdataset",
        "train-num-samples": steps_per_piece(recipe) * recipe.global_batch_size,
        "epochs": recipe.num_checkpoints * recipe.resume_points,
        "batch-size": recipe.global_batch_size // num_gpus // parts,
        "accum-freq": parts,
        "lr": recipe.learning_rate,
        "warmup": recipe.warmup_steps,
        "beta1": recipe.betas[0],
        "beta2": recipe.betas[1],
        "eps": recipe.eps,
        "wd": recipe.weight_decay,
        "precision": recipe.precision,
        "workers": recipe.loader_workers if loader_workers is None else loader_workers,
        "seed": seed,
        "report-to": "tensorboard",
        "save-frequency": recipe.resume_points if recipe.num_checkpoints > 1 else 0,
        "log-every-n-steps": recipe.log_every,
    }
    flags = ["dataset-resampled", "local-loss", "gather-with-grad", "save-most-recent"]
    if num_gpus > 1 and parts == 1:
        flags.append("ddp-static-graph")
    options = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    if recipe.augmentation:
        changed = [f"{key}={_literal(value)}" for key, value in recipe.augmentation.items()]
        options += ["--aug-cfg", *changed]
    return [*options, *(f"--{flag}" for flag in flags)]


def _literal(value: JSON) -> str:
    """As open_clip reads it: a Python literal, lists as tuples."""
    return repr(tuple(value) if isinstance(value, list) else value)


@cache
def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a scale by name, or any recipe file by path. ValueError says what is wrong."""
    return read_recipe(Recipe, name, folder=RECIPES)


def training_faults(packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
    """What a judge finds wrong with a packing and a training run, in words."""
    faults = []
    if packed.work.layout != "webdataset" or packed.work.mode not in ("reshard", "registered"):
        faults.append(
            f"packed {packed.id} is {packed.work.layout}/{packed.work.mode}, expected shards made "
            "by `datacomp pack` or registered"
        )
    if packed.work.parameters.get("shard_size") != recipe.shard_size:
        faults.append(
            f"packed {packed.id} has shards of {packed.work.parameters.get('shard_size')} samples, "
            f"expected {recipe.shard_size}"
        )
    faults += training_texts(
        packed, model, steps=num_steps(recipe), unit="samples", seen=samples_seen(recipe)
    )
    return faults
