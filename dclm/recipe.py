"""Recipe: every number that decides how a scale is trained. Imports no torch.

A recipe is a YAML file in `dclm/recipes/`, one per scale. It is frozen with the benchmark version:
no command line option changes a field. A recipe read from another file trains all the same, but
`is_official` is then false, the record embeds it whole, and submission refuses it.

Numbers come from the DCLM scales (Li et al. 2024, "DataComp-LM", and its training configurations);
the learning rate, the token budget and the number of steps follow OpenLM to the last digit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leaderboard.rounds.recipe_file import read_recipe
from pipelines.records import Frozen, ModelRecord, PackedRecord

RECIPES = Path(__file__).parent / "recipes"

# Larger models free their gathered weights after each block; of smaller ones all fit at once. It
# changes speed and memory, never a number.
RESHARD_PARAMS = 2_000_000_000

Positive = Annotated[int, Field(gt=0)]


Norm = Literal[
    "gain_only_lp_layer_norm",
    "gain_only_layer_norm",
    "default_layer_norm",
    "lp_layer_norm",
    "no_wb_layer_norm",
    "rms_norm",
]
NORM_TENSORS = {"default_layer_norm": 2, "lp_layer_norm": 2, "no_wb_layer_norm": 0}  # others: 1


class ModelConfig(Frozen):
    """The shape of an OpenLM decoder."""

    vocab_size: Positive = Field(description="rows of the embedding; ids are below it")
    dim: Positive = Field(description="width of the residual stream")
    num_layers: Positive
    num_heads: Positive
    seq_len: Positive = Field(description="longest input the model is trained on, in tokens")
    norm: Norm = Field(
        "gain_only_lp_layer_norm",
        description="LayerNorm with gain, with gain and bias, or with neither; or RMSNorm",
    )
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool = Field(True, description="normalise whole q and k vectors before the head split")
    post_embed_norm: bool = Field(False, description="normalise the embedding's output")
    weight_tying: bool = Field(False, description="the head is the embedding table")
    ffn: Literal["swiglu", "gelu", "gemma_geglu"] = "swiglu"
    rotary: Literal["rotary", "head_rotary", "llama_rotary", "none"] = Field(
        "rotary",
        description="half-split over positions; over heads (an old defect); interleaved pairs",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even width; "
                "choose num_heads so that dim / num_heads is even"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden width of the feed-forward part: 256 * ceil(int(8 dim / 3) / 256), or 4 dim."""
        if self.ffn == "gelu":
            return 4 * self.dim
        return 256 * math.ceil(int(8 * self.dim / 3) / 256)

    @property
    def num_params(self) -> int:
        """All trained numbers, norm gains and embeddings included."""
        norm = self.dim * NORM_TENSORS.get(self.norm, 1)
        attention = 4 * self.dim * self.dim + (2 * norm if self.qk_norm else 0)
        matrices = 2 if self.ffn == "gelu" else 3
        ffn = matrices * self.dim * self.ffn_dim
        if self.ffn == "gemma_geglu":
            ffn += 2 * self.ffn_dim + self.dim
        tables = self.vocab_size * self.dim * (1 if self.weight_tying else 2)
        final = norm * (2 if self.post_embed_norm else 1)
        return self.num_layers * (attention + ffn + 2 * norm) + tables + final


class TokenizerSpec(Frozen):
    """Which tokenizer, pinned by content, and its two special ids."""

    name: str = Field(description="gpt-neox-20b or tiny-bpe; a folder or file for experiments")
    sha256: str | None = Field(
        None, description="of the canonical tokenizer.json, see dclm.tokenizer.canonical"
    )
    end_of_text: int = Field(ge=0, description="id put after every document")
    pad: int = Field(ge=0, description="id outside the used vocabulary that fills the last row")


class Recipe(Frozen):
    """Every hyperparameter of one scale."""

    scale: str = Field(description="the scale's name, as in the rule book")
    ranked: bool = Field(description="whether results of this scale count on the board")
    model: ModelConfig
    tokenizer: TokenizerSpec
    counted_params: Positive = Field(
        description="parameters as DCLM counts them (norm gains of q and k left out); "
        "the token budget is 20 times this"
    )
    tokens: Positive = Field(description="training budget in tokens")
    num_checkpoints: Positive = Field(5, description="parts that the budget is divided into")
    global_batch_size: Positive = Field(description="sequences per step, over all devices")
    learning_rate: float = Field(gt=0, description="after warmup")
    min_learning_rate: float = Field(ge=0, description="at the end of the cosine")
    warmup_steps: int = Field(ge=0, description="steps of linear warmup")
    weight_decay: float = Field(ge=0, description="AdamW, on all parameters, gains included")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this L2 norm")
    z_loss: float = Field(ge=0, description="coefficient of the mean squared logsumexp")
    precision: Literal["fp32", "bf16"] = Field(
        description="of weights and activations in forward and backward; masters are fp32"
    )
    reduce_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the gradient sum over devices"
    )
    data_seed: int = Field(124, ge=0, description="of the shuffle when packing, and of the epochs")
    seeds: tuple[int, ...] = Field((124,), min_length=1, description="allowed for initialisation")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        vocab = self.model.vocab_size
        special = self.tokenizer
        for name, value in (("end_of_text", special.end_of_text), ("pad", special.pad)):
            if value >= vocab:
                raise ValueError(f"tokenizer.{name} is {value}, but model.vocab_size is {vocab}")
        steps = num_steps(self)
        if steps < 1:
            raise ValueError(
                f"{self.tokens} tokens are less than one step of {self.global_batch_size} "
                f"sequences of {self.model.seq_len}; raise tokens or lower global_batch_size"
            )
        if self.warmup_steps > steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than the {steps} steps of the budget; "
                "the learning rate would never be reached"
            )
        return self


def sequences_per_checkpoint(recipe: Recipe) -> int:
    """Sequences between two checkpoints: each part of the budget is rounded down on its own."""
    return recipe.tokens // recipe.num_checkpoints // recipe.model.seq_len


def num_steps(recipe: Recipe) -> int:
    """Optimizer steps of the whole training, as OpenLM rounds them."""
    sequences = sequences_per_checkpoint(recipe) * recipe.num_checkpoints
    return sequences // recipe.global_batch_size


def part_steps(recipe: Recipe) -> tuple[int, ...]:
    """Steps at the ends of the budget's parts but the last: where OpenLM keeps the weights."""
    per_part = sequences_per_checkpoint(recipe)
    parts = range(1, recipe.num_checkpoints)
    return tuple(per_part * part // recipe.global_batch_size for part in parts)


def num_sequences(recipe: Recipe) -> int:
    """Sequences that the steps consume, repeats counted."""
    return num_steps(recipe) * recipe.global_batch_size


def lr(recipe: Recipe, step: int) -> float:
    """Learning rate of the step, counted from 0: linear warmup, then a cosine to the minimum."""
    warmup = recipe.warmup_steps
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    total = num_steps(recipe)
    if step >= total:
        return recipe.min_learning_rate
    progress = (step - warmup) / (total - warmup)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.min_learning_rate + share * (recipe.learning_rate - recipe.min_learning_rate)


def changed(
    recipe: Recipe, *, budget: float = 1.0, rate: float = 1.0, checkpoints: int | None = None
) -> Recipe:
    """The recipe with its tokens and its learning rates multiplied, for experiments.

    The warmup keeps its share of the steps. ValueError where not even one step is left.
    """
    values = recipe.model_dump(mode="json")
    values["tokens"] = round(recipe.tokens * budget)
    values["warmup_steps"] = round(recipe.warmup_steps * budget)
    values["num_checkpoints"] = checkpoints or recipe.num_checkpoints
    values["learning_rate"] = recipe.learning_rate * rate
    values["min_learning_rate"] = recipe.min_learning_rate * rate
    return Recipe.model_validate(values)


def flops(recipe: Recipe) -> float:
    """6 N D: floating-point operations of the training run as DCLM counts them."""
    return 6.0 * recipe.counted_params * recipe.tokens


def recipe_names() -> list[str]:
    """The installed scales, smallest first."""
    recipes = [load_recipe(path.stem) for path in sorted(RECIPES.glob("*.yaml"))]
    return [recipe.scale for recipe in sorted(recipes, key=flops)]


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of a scale by name, or any recipe file by path. ValueError says what is wrong."""
    return read_recipe(Recipe, name, folder=RECIPES)


def is_official(recipe: Recipe) -> bool:
    """Whether the recipe is, to the last digit, the installed one of its scale."""
    path = RECIPES / f"{recipe.scale}.yaml"
    return path.is_file() and load_recipe(recipe.scale) == recipe


def _is_official_training(recipe: Recipe) -> bool:
    """Whether the recipe is the installed one but for where weights are kept on the way."""
    path = RECIPES / f"{recipe.scale}.yaml"
    return path.is_file() and recipe == changed(
        load_recipe(recipe.scale), checkpoints=recipe.num_checkpoints
    )


def budget_faults(packed: PackedRecord, model: ModelRecord, recipe: Recipe) -> list[str]:
    """What a judge finds broken in how data was packed and a model trained, one sentence each.

    Empty when the packing is lossless and with the recipe's tokenizer, length and seed, and the
    training used the official recipe, an allowed seed, and all of its budget.
    """
    faults = []
    work = packed.work
    expected_values = {
        "mode": (work.mode, "lossless"),
        "sequence length": (work.sequence_length, recipe.model.seq_len),
        "data seed": (work.seed, recipe.data_seed),
        "tokenizer": (work.tokenizer and work.tokenizer.name, recipe.tokenizer.name),
        "pad id": (work.parameters.get("pad"), recipe.tokenizer.pad),
        "end of text": (work.parameters.get("end_of_text"), recipe.tokenizer.end_of_text),
        "vocabulary": (work.parameters.get("vocab_size"), recipe.model.vocab_size),
    }
    if recipe.tokenizer.sha256 is not None:
        expected_values["tokenizer's sha256"] = (
            work.tokenizer and work.tokenizer.sha256,
            recipe.tokenizer.sha256,
        )
    for name, (actual, expected) in expected_values.items():
        if actual != expected:
            faults.append(f"packed with {name} {actual!r}; the recipe has {expected!r}")
    if not _is_official_training(recipe):
        faults.append(f"the recipe is not the installed one of {recipe.scale}: it was edited")
    trained = model.work.recipe
    for name, expected in recipe.model_dump(mode="json").items():
        if trained.get(name) != expected:
            faults.append(f"trained with {name} {trained.get(name)!r}; the recipe has {expected!r}")
    if model.work.seed not in recipe.seeds:
        faults.append(f"trained with seed {model.work.seed}; the recipe allows {recipe.seeds}")
    if model.parents.get("packed") != packed.id:
        faults.append("the model was trained on other packed data")
    if model.counts.get("steps") != num_steps(recipe):
        faults.append(
            f"trained for {model.counts.get('steps')} steps; the recipe has {num_steps(recipe)}"
        )
    results = model.results if isinstance(model.results, dict) else {}
    tokens = num_steps(recipe) * recipe.global_batch_size * recipe.model.seq_len
    if results.get("tokens_seen") != tokens:
        faults.append(f"saw {results.get('tokens_seen')} tokens; the recipe has {tokens}")
    params = model.counts.get("params", recipe.model.num_params)
    if params != recipe.model.num_params:
        faults.append(f"has {params} params; the recipe's model has {recipe.model.num_params}")
    expected_flops = 6.0 * recipe.model.num_params * tokens  # Kaplan et al. 2020
    claimed = results.get("flops", expected_flops)
    if not isinstance(claimed, int | float) or not 0.5 < claimed / expected_flops < 2:
        faults.append(f"cost {claimed} flops; 6 N D of the recipe is {expected_flops:.3g}")
    return faults
