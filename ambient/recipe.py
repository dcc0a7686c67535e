"""The recipe of a scale: every hyperparameter of a training run, frozen. Imports no torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from leaderboard.benchmark import training_texts
from leaderboard.rounds.recipe_file import read_recipe
from pipelines.errors import BatchError
from pipelines.records import Frozen, ModelRecord, PackedRecord

RECIPES = Path(__file__).parent / "recipes"


class Network(Frozen):
    """The shape of the denoiser: an MLP over all pixels, or a U-Net of diffusers."""

    kind: Literal["mlp", "unet"]
    width: int = Field(gt=0, description="units of an MLP's layer; channels of a U-Net's first")
    layers: int = Field(ge=1, description="layers of an MLP; residual blocks a resolution")
    multipliers: tuple[int, ...] = Field((1, 2, 2), description="U-Net: channels by resolution")
    attention: tuple[int, ...] = Field((), description="U-Net: resolutions with attention")
    dropout: float = Field(0.0, ge=0, lt=1)


class Recipe(Frozen):
    """Everything that determines a training run, except its data and its seed."""

    scale: str
    resolution: int = Field(gt=0)
    channels: int = Field(ge=1)
    network: Network
    images: int = Field(gt=0, description="images seen, repeats counted")
    global_batch_size: int = Field(gt=0, description="images of one step, over all GPUs")
    learning_rate: float = Field(gt=0)
    warmup_images: int = Field(ge=0)
    decay: Literal["none", "cosine"] = "none"
    betas: tuple[float, float] = (0.9, 0.999)
    ema_half_life: int = Field(gt=0, description="images after which half of the average is new")
    max_grad_norm: float = Field(1.0, gt=0)
    log_mean: float = Field(-1.2, description="of ln sigma (Karras et al. 2022, table 1)")
    log_std: float = Field(1.2, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    delta: float = Field(0.1, ge=0, lt=1, description="further fraction of a masked image to hide")
    flip: bool = Field(False, description="mirror half of the images left to right")
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_steps: int = Field(gt=0)
    log_every: int = Field(50, ge=1, description="steps between two lines of metrics")
    shard_size: int = Field(10_000, ge=1, description="images of a packed shard")
    sampler_steps: int = Field(18, ge=2, description="of Heun's method, in evaluation")
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.images < self.global_batch_size:
            raise ValueError("the run has less than one batch")
        if self.network.kind == "unet":
            halvings = len(self.network.multipliers) - 1
            if self.resolution % (1 << halvings):
                raise ValueError(f"resolution {self.resolution} cannot be halved {halvings} times")
        return self


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of the whole run."""
    return recipe.images // recipe.global_batch_size


def images_seen(recipe: Recipe) -> int:
    """Images of all steps."""
    return num_steps(recipe) * recipe.global_batch_size


def changed(recipe: Recipe, *, budget: float = 1.0, rate: float = 1.0) -> Recipe:
    """The recipe with its images and its learning rate multiplied, for experiments.

    Warmup and weight averaging keep their fraction of the run. ValueError below one batch.
    """
    values = recipe.model_dump(mode="json")
    values["images"] = round(recipe.images * budget)
    values["warmup_images"] = round(recipe.warmup_images * budget)
    values["ema_half_life"] = max(1, round(recipe.ema_half_life * budget))
    values["learning_rate"] = recipe.learning_rate * rate
    return Recipe.model_validate(values)


def parts(recipe: Recipe, *, num_processes: int, fitting: int | None = None) -> int:
    """Pieces in which each process computes its share of a batch; `fitting`: images it can hold."""
    if recipe.global_batch_size % num_processes:
        raise BatchError(
            f"{num_processes} processes cannot share the batch of {recipe.global_batch_size} that "
            f"scale {recipe.scale} has; use a number that divides it"
        )
    share = recipe.global_batch_size // num_processes
    for number in range(1, share + 1):
        if share % number == 0 and (fitting is None or share // number <= fitting):
            return number
    raise BatchError(f"not even one image fits: --max-batch {fitting}")


@cache
def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a scale by name, or any recipe file by path. ValueError says what is wrong."""
    return read_recipe(Recipe, name, folder=RECIPES)


def training_faults(packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
    """What is wrong with a packed dataset and a training run, in words; empty if nothing."""
    faults = []
    if packed.work.layout != "arrays" or packed.work.mode != "ambient":
        faults.append(
            f"packed {packed.id} is {packed.work.layout}/{packed.work.mode}, expected arrays made "
            "by `ambient pack`"
        )
    expected = {"resolution": recipe.resolution, "channels": recipe.channels}
    for name, value in expected.items():
        if packed.work.parameters.get(name) != value:
            faults.append(
                f"packed {packed.id} has {name} {packed.work.parameters.get(name)}, expected "
                f"{value}"
            )
    faults += training_texts(
        packed, model, steps=num_steps(recipe), unit="images", seen=images_seen(recipe)
    )
    return faults
