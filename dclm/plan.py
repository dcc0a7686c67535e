"""What a training run will need, reported before anything starts: memory, micro-batch, hours, cost,
data.

Memory follows from the shapes. Hours follow from a share of the GPU's peak (model FLOPs
utilisation, 6 N D over dense bf16) that is interpolated between published trainers, not measured
here; `--mfu` replaces it by what your machine does.
"""

from __future__ import annotations

import math
from itertools import pairwise

from pydantic import Field

from dclm.recipe import RESHARD_PARAMS, Recipe, flops, num_sequences, num_steps
from leaderboard.rounds.gpus import RESERVED, check_processors, gpu_named
from pipelines.errors import PlanError
from pipelines.records import Frozen

# Parameters, and the best published share of an H100's peak at that size: llm-foundry's table for
# 0.8, 1.3 and 2.7 billion, open_lm's 8-GPU run for 6.9 billion. Below, an extrapolation.
PUBLISHED = (
    (25e6, 0.06),
    (100e6, 0.14),
    (0.8e9, 0.32),
    (1.3e9, 0.37),
    (2.7e9, 0.39),
    (6.9e9, 0.45),
)

CHUNK_TOKENS = 4096  # of dclm.loss on a GPU
MAX_MICRO_BATCH = 32  # sequences: larger ones are no faster
MAX_PASSES = 4  # over the data; more repeats are worth little (Muennighoff et al. 2023)


class Plan(Frozen):
    """What a training run will need; bytes and hours are estimates."""

    scale: str
    gpu: str
    num_gpus: int
    micro_batch: int = Field(description="sequences of one forward on one GPU")
    accumulation: int = Field(description="forwards per step on one GPU")
    memory_bytes: float = Field(description="per GPU at this micro-batch")
    checkpoint_bytes: float = Field(description="of one checkpoint on disk; two exist for a moment")
    num_steps: int
    tokens: int
    mfu: float = Field(description="assumed share of the peak")
    tokens_per_second: float = Field(description="over all GPUs")
    hours: float = Field(description="of the whole training")
    gpu_hours: float
    dollars: float | None
    passes: float | None = Field(description="over the dataset; None when it was not named")
    warnings: tuple[str, ...] = ()


def plan(
    recipe: Recipe,
    *,
    num_gpus: int,
    gpu: str = "h100",
    sequences_available: int | None = None,
    mfu: float | None = None,
    dollars_per_hour: float | None = None,
) -> Plan:
    """Plan a training run on so many GPUs of a kind, with a packed dataset of so many sequences.

    PlanError names what cannot work: an unknown GPU, a global batch that does not divide, too
    little memory for a single sequence, less data than one step.
    """
    device = gpu_named(gpu)
    if num_gpus < 1:
        raise PlanError(f"{num_gpus} GPUs; expected at least 1")
    if recipe.global_batch_size % num_gpus:
        raise PlanError(_does_not_divide(recipe, num_gpus))
    micro = micro_batch(recipe, num_gpus=num_gpus, memory_bytes=device.memory_bytes)
    if micro is None:
        raise PlanError(_too_little(recipe, num_gpus, gpu, device.memory_bytes))
    share = published_mfu(recipe.counted_params) if mfu is None else mfu
    if not 0 < share < 1:
        raise PlanError(f"mfu {share}: expected a share of the peak between 0 and 1")
    seconds = flops(recipe) / (share * device.peak_flops * num_gpus)
    price = device.dollars_per_hour if dollars_per_hour is None else dollars_per_hour
    gpu_hours = seconds / 3600 * num_gpus
    passes = None
    warnings = []
    if sequences_available is not None:
        if sequences_available < recipe.global_batch_size:
            raise PlanError(
                f"the data has {sequences_available} sequences, less than one step of "
                f"{recipe.global_batch_size}; curate more"
            )
        passes = num_sequences(recipe) / sequences_available
        if passes > MAX_PASSES:
            warnings.append(
                f"the data is read {passes:.1f} times; more than {MAX_PASSES} adds little"
            )
    if mfu is None:
        warnings.append("the hours assume a published share of the peak; nothing was measured here")
    return Plan(
        scale=recipe.scale,
        gpu=gpu,
        num_gpus=num_gpus,
        micro_batch=micro,
        accumulation=recipe.global_batch_size // num_gpus // micro,
        memory_bytes=memory_per_gpu(recipe, num_gpus=num_gpus, micro_batch=micro),
        checkpoint_bytes=12.0 * recipe.model.num_params,
        num_steps=num_steps(recipe),
        tokens=recipe.tokens,
        mfu=share,
        tokens_per_second=recipe.tokens / seconds,
        hours=seconds / 3600,
        gpu_hours=gpu_hours,
        dollars=gpu_hours * price,
        passes=passes,
        warnings=tuple(warnings),
    )


def check_room(recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: float) -> None:
    """PlanError for a training run that cannot work there; `num_gpus` 0 means processors.

    `memory_bytes` is that of one GPU, 0 where it is unknown.
    """
    if recipe.global_batch_size % num_processes:
        raise PlanError(_does_not_divide(recipe, num_processes))
    if num_gpus == 0:
        check_processors(recipe.scale, flops(recipe), program="dclm")
        return
    if memory_bytes and micro_batch(recipe, num_gpus=num_gpus, memory_bytes=memory_bytes) is None:
        raise PlanError(_too_little(recipe, num_gpus, "GPUs", memory_bytes))


def _does_not_divide(recipe: Recipe, num_gpus: int) -> str:
    divisors = [n for n in range(1, 4097) if recipe.global_batch_size % n == 0]
    near = max(n for n in divisors if n <= num_gpus)
    return (
        f"the global batch of {recipe.global_batch_size} sequences does not divide over "
        f"{num_gpus} GPUs; use {near}"
    )


def _too_little(recipe: Recipe, num_gpus: int, gpu: str, memory_bytes: float) -> str:
    needed = memory_per_gpu(recipe, num_gpus=num_gpus, micro_batch=1)
    return (
        f"{recipe.scale} needs {needed / 1e9:.0f} GB a GPU for a single sequence on {num_gpus} "
        f"{gpu}, which has {memory_bytes * (1 - RESERVED) / 1e9:.0f} GB to give; use more GPUs"
    )


def micro_batch(recipe: Recipe, *, num_gpus: int, memory_bytes: float) -> int | None:
    """The most sequences of one forward that fit, None if not even one does.

    A divisor of the rows of one GPU, at most 32.
    """
    rows = recipe.global_batch_size // num_gpus
    room = memory_bytes * (1 - RESERVED)
    sizes = [size for size in range(1, min(rows, MAX_MICRO_BATCH) + 1) if rows % size == 0]
    fitting = [
        size
        for size in sizes
        if memory_per_gpu(recipe, num_gpus=num_gpus, micro_batch=size) <= room
    ]
    return max(fitting, default=None)


def memory_per_gpu(recipe: Recipe, *, num_gpus: int, micro_batch: int) -> float:
    """Bytes on one GPU: states, gathered weights and gradients, activations, one chunk of logits.

    Sharded: float32 weights, gradients and two moments, 16 bytes a parameter. Gathered: weights in
    the training precision, all of them up to 2 billion parameters, else two blocks and the tables;
    and as many gradients. Activations without recomputation: 34 dim bytes per token and layer in
    two-byte numbers (Korthikanti et al. 2022, without the attention matrix).
    """
    model = recipe.model
    total = model.num_params
    width = 2 if recipe.precision == "bf16" else 4
    tables = model.vocab_size * model.dim * (1 if model.weight_tying else 2)
    block = (total - tables) / model.num_layers
    is_resharded = total > RESHARD_PARAMS
    gathered = tables + 2 * block if is_resharded else total
    gradients = gathered if is_resharded else total
    tokens = micro_batch * model.seq_len
    activations = 17.0 * width * model.dim * model.num_layers * tokens
    logits = min(CHUNK_TOKENS, tokens) * model.vocab_size * (4 + width)
    head = model.vocab_size * model.dim * 4
    return (
        16.0 * total / num_gpus + width * gathered + 4.0 * gradients + activations + logits + head
    )


def published_mfu(num_params: int) -> float:
    """The share of an H100's bf16 peak that published trainers reach, by size."""
    sizes = [math.log(size) for size, _ in PUBLISHED]
    size = min(max(math.log(num_params), sizes[0]), sizes[-1])
    for (low, below), (high, above) in pairwise(PUBLISHED):
        if size <= math.log(high):
            share = (size - math.log(low)) / (math.log(high) - math.log(low))
            return below + share * (above - below)
    return PUBLISHED[-1][1]


def progress_line(
    recipe: Recipe,
    step: int,
    total: int,
    loss: float,
    tokens_per_second: float,
    *,
    peak_flops: float | None = None,
) -> str:
    """One line for a terminal: step, loss, speed, share of the peak where known, time to go."""
    per_step = recipe.global_batch_size * recipe.model.seq_len
    left = (total - step) * per_step / max(tokens_per_second, 1e-9)
    hours, minutes = divmod(int(left) // 60, 60)
    eta = f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{int(left) % 60:02d}s"
    parts = [f"step {step}/{total}", f"loss {loss:.3f}", f"{tokens_per_second:,.0f} tokens/s"]
    if peak_flops is not None:
        parts.append(f"MFU {6 * recipe.counted_params * tokens_per_second / peak_flops:.1%}")
    return "  ".join([*parts, f"ETA {eta}"])
