"""Estimate what a training run needs before it starts: steps, memory, hours, cost.

Parameters and operations follow from the shapes of the network. Hours assume the fraction of a
GPU's peak that U-Nets of this size reach (`UTILISATION`); `--rate` gives a measured rate instead.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field

from ambient.recipe import Recipe, images_seen, num_steps, parts
from leaderboard.rounds.gpus import RESERVED, check_processors, gpu_named
from leaderboard.rounds.train_memory import memory_here
from pipelines.errors import PlanError
from pipelines.records import Frozen

UTILISATION = 0.15  # assumed: convolutions of 128 to 256 channels at 32 x 32 are small for a GPU


class Plan(Frozen):
    """What a training run will need; bytes and hours are estimates."""

    scale: str
    gpu: str
    num_gpus: int
    images_per_gpu: int = Field(description="of one forward on one GPU")
    pieces: int
    params: float
    memory_bytes: float = Field(description="per GPU")
    num_steps: int
    images: int
    flops_per_image: float = Field(description="forward and backward")
    images_per_second: float = Field(description="over all GPUs")
    hours: float
    dollars: float
    passes: float | None = Field(description="over the dataset; None when it was not named")
    warnings: tuple[str, ...] = ()


def plan(
    recipe: Recipe,
    *,
    num_gpus: int,
    gpu: str = "h100",
    images_available: int | None = None,
    rate: float | None = None,
) -> Plan:
    """Plan a run on `num_gpus` GPUs of a kind; `rate`: images per second of one GPU, if known.

    PlanError for an unknown GPU, or one too small for a single image.
    """
    device = gpu_named(gpu)
    fitting = largest_batch(recipe, memory_bytes=device.memory_bytes)
    if fitting < 1:
        raise PlanError(f"not even one image of scale {recipe.scale} fits a {gpu}")
    pieces = parts(recipe, num_processes=num_gpus, fitting=fitting)
    share = recipe.global_batch_size // num_gpus // pieces
    speed = device.peak_flops * UTILISATION / (3 * forward_flops(recipe)) if rate is None else rate
    hours = images_seen(recipe) / (speed * num_gpus) / 3600
    seen = images_seen(recipe)
    warnings = [] if rate is not None else ["the hours assume a rate; nothing was measured here"]
    return Plan(
        scale=recipe.scale,
        gpu=gpu,
        num_gpus=num_gpus,
        images_per_gpu=share,
        pieces=pieces,
        params=num_params(recipe),
        memory_bytes=memory_per_gpu(recipe, share),
        num_steps=num_steps(recipe),
        images=seen,
        flops_per_image=3 * forward_flops(recipe),
        images_per_second=speed * num_gpus,
        hours=hours,
        dollars=hours * num_gpus * device.dollars_per_hour,
        passes=None if images_available is None else seen / max(images_available, 1),
        warnings=tuple(warnings),
    )


def check_room(recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: float) -> None:
    """PlanError or BatchError for a run that cannot work; `num_gpus` 0 means on processors."""
    parts(recipe, num_processes=num_processes)
    if num_gpus == 0:
        operations = 3 * forward_flops(recipe) * images_seen(recipe)
        check_processors(recipe.scale, operations, program="ambient")
        return
    if memory_bytes and largest_batch(recipe, memory_bytes=memory_bytes) < 1:
        raise PlanError(
            f"not even one image of {recipe.scale} fits a GPU of {memory_bytes / 1e9:.0f} GB"
        )


def _layers(recipe: Recipe) -> list[tuple[float, float, float]]:
    """Parameters, operations and activations of each layer: of one image's forward."""
    net = recipe.network
    if net.kind == "mlp":
        ends = recipe.channels * recipe.resolution**2
        sizes = [ends, *[net.width] * net.layers, ends]
        return [(a * b, 2.0 * a * b, float(b)) for a, b in pairwise(sizes)]
    layers = []
    widths = [net.width * factor for factor in net.multipliers]
    for down in (True, False):  # the way up has one block more, and twice the input channels
        for level, width in enumerate(widths):
            side = recipe.resolution >> level
            for _ in range(net.layers + (not down)):
                before = width if down else 2 * width
                weights = 9.0 * (before * width + width * width) + 4 * net.width * width
                layers.append((weights, 2.0 * weights * side**2, 6.0 * width * side**2))
                if side in net.attention:
                    more = 4.0 * width**2
                    work = 2 * more * side**2 + 4.0 * side**4 * width
                    layers.append((more, work, 4.0 * width * side**2 + side**4))
    middle = widths[-1]
    side = recipe.resolution >> (len(widths) - 1)
    weights = 36.0 * middle**2
    layers.append((weights, 2 * weights * side**2, 12.0 * middle * side**2))
    return layers


def num_params(recipe: Recipe) -> float:
    """Number of trained parameters, approximately."""
    return sum(params for params, _, _ in _layers(recipe))


def forward_flops(recipe: Recipe) -> float:
    """FLOPs of one image's forward pass; a multiply-add counts as two."""
    return sum(flops for _, flops, _ in _layers(recipe))


def memory_per_gpu(recipe: Recipe, images: int) -> float:
    """Bytes without recomputation, for `images` per forward pass.

    24 per parameter: weights, gradients, DDP's copy, two moments and the average, all of 32 bits.
    Activations of 16 or 32 bits.
    """
    width = 4 if recipe.precision == "fp32" else 2
    activations = width * sum(number for _, _, number in _layers(recipe))
    return 24.0 * num_params(recipe) + images * activations


def largest_batch(recipe: Recipe, *, memory_bytes: float) -> int:
    """The most images per forward pass that fit into `memory_bytes`."""
    room = memory_bytes * (1 - RESERVED) - memory_per_gpu(recipe, 0)
    return int(room // (memory_per_gpu(recipe, 1) - memory_per_gpu(recipe, 0)))


def fitting_here(recipe: Recipe) -> int | None:
    """The most images per forward pass that fit this process's GPU; None without one."""
    memory = memory_here()
    if memory is None:
        return None
    return max(1, largest_batch(recipe, memory_bytes=memory))
