"""What a CLIP training run will need, reported before anything starts: hours, memory, cost, images.

FLOPs, parameters and memory follow from the shapes. Hours follow from samples a second that others
published, not from a measurement here; `--rate` replaces them by what your machine does.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from datacomp.recipe import MODELS, Recipe, accumulation, num_steps, samples_seen
from leaderboard.rounds.gpus import RESERVED, check_processors, gpu_named
from leaderboard.rounds.train_memory import memory_here
from pipelines.errors import PlanError
from pipelines.records import Frozen

SPEED = {"h100": 1.67, "h200": 1.67, "a100": 1.0, "a100-40": 1.0}
"""Against an A100 in open_clip. H100: NVIDIA's figures for CLIP g/14 in NeMo, 117 and 70 samples a
second."""

PUBLISHED = {"ViT-S-32": 850.0, "ViT-B-32": 850.0, "ViT-B-16": 396.0, "ViT-L-14": 78.6}
"""Samples a second of one A100: open_clip's scaling runs (Cherti et al. 2023) on JUWELS. Nobody
published ViT-S-32's; B-32, of twice its width, is no faster, so its figure is used."""

FORWARD_FLOPS = {"ViT-S-32": 5.66e9, "ViT-B-32": 14.78e9, "ViT-B-16": 41.09e9, "ViT-L-14": 175.33e9}
"""Of one sample, two for a multiplication with addition: open_clip's docs/model_profile.csv. What
`forward_flops` computes, for a board on which open_clip is not installed."""

IMAGES_PER_CORE = 325.0
"""Read, decode, crop to 224 pixels, a second and core: ffcv's and torchvision's published loaders
are between 300 and 350; docs/performance.md has what was measured here."""

MAX_PASSES = 8  # over the data; curated sets of small and medium are repeated four times and more


class Plan(Frozen):
    """What a training run will need; bytes and hours are estimates."""

    scale: str
    gpu: str
    num_gpus: int
    samples_per_gpu: int = Field(description="of one forward on one GPU")
    parts: int = Field(description="forwards that a GPU's share of the batch is computed in")
    memory_bytes: float = Field(description="per GPU")
    checkpoint_bytes: float = Field(description="of one checkpoint on disk; two for a moment")
    num_steps: int
    samples: int
    flops_per_sample: float = Field(description="forward and backward")
    samples_per_second: float = Field(description="over all GPUs")
    hours: float
    gpu_hours: float
    dollars: float
    images_per_second: float = Field(description="that the loaders of one GPU must give")
    cores_per_gpu: float = Field(description="that decoding at this rate takes")
    passes: float | None = Field(description="over the dataset; None when it was not named")
    warnings: tuple[str, ...] = ()


def plan(
    recipe: Recipe,
    *,
    num_gpus: int,
    gpu: str = "h100",
    samples_available: int | None = None,
    rate: float | None = None,
    dollars_per_hour: float | None = None,
) -> Plan:
    """Plan a training run on so many GPUs of a kind; `rate`: samples a second of one GPU, if known.

    PlanError names what cannot work: an unknown GPU, a model without published figures and no
    `rate`, too little memory for one sample. BatchError when the GPUs cannot share the batch.
    """
    device = gpu_named(gpu)
    if rate is None and gpu not in SPEED:
        raise PlanError(
            f"nobody published how fast open_clip trains on {gpu}; give --rate, samples a second, "
            f"or one of {', '.join(SPEED)}"
        )
    if rate is None and recipe.model not in PUBLISHED:
        raise PlanError(
            f"nobody published how fast {recipe.model} trains; scale {recipe.scale} is for a "
            "processor or two. Give --rate, samples a second"
        )
    config = model_config(recipe.model)
    fitting = largest_batch(recipe, config, memory_bytes=device.memory_bytes)
    if fitting < 1:
        raise PlanError(f"not even one sample of {recipe.model} fits a {gpu}")
    parts = accumulation(recipe, num_gpus=num_gpus, fitting=fitting)
    share = recipe.global_batch_size // num_gpus // parts
    speed = PUBLISHED[recipe.model] * SPEED[gpu] if rate is None else rate
    if parts > 1:
        speed *= 3 / 4  # the forward is computed twice
    samples = samples_seen(recipe)
    seconds = samples / (speed * num_gpus)
    price = device.dollars_per_hour if dollars_per_hour is None else dollars_per_hour
    gpu_hours = seconds / 3600 * num_gpus
    cores = speed / IMAGES_PER_CORE
    warnings = []
    if cores > recipe.loader_workers:
        warnings.append(
            f"the recipe's {recipe.loader_workers} loader processes a GPU give about "
            f"{recipe.loader_workers * IMAGES_PER_CORE:,.0f} images a second; train with "
            f"--loader-workers {math.ceil(cores)} where there are so many cores"
        )
    passes = None if samples_available is None else samples / max(samples_available, 1)
    if passes is not None and passes > MAX_PASSES:
        warnings.append(f"every sample is seen {passes:.1f} times")
    if rate is None:
        warnings.append("the hours assume published samples a second; nothing was measured here")
    return Plan(
        scale=recipe.scale,
        gpu=gpu,
        num_gpus=num_gpus,
        samples_per_gpu=share,
        parts=parts,
        memory_bytes=memory_per_gpu(recipe, config, share),
        checkpoint_bytes=12.0 * num_params(config),
        num_steps=num_steps(recipe),
        samples=samples,
        flops_per_sample=3 * forward_flops(config),
        samples_per_second=speed * num_gpus,
        hours=seconds / 3600,
        gpu_hours=gpu_hours,
        dollars=gpu_hours * price,
        images_per_second=speed,
        cores_per_gpu=cores,
        passes=passes,
        warnings=tuple(warnings),
    )


def check_room(recipe: Recipe, *, num_gpus: int, num_processes: int, memory_bytes: float) -> None:
    """PlanError or BatchError for a training run that cannot work there; no GPUs: processors.

    `memory_bytes` is that of one GPU, 0 where it is unknown.
    """
    accumulation(recipe, num_gpus=num_processes)
    if recipe.model not in PUBLISHED:  # a small model of ours: it fits and runs anywhere
        return
    config = model_config(recipe.model)
    if num_gpus == 0:
        operations = 3 * forward_flops(config) * samples_seen(recipe)
        check_processors(recipe.scale, operations, program="datacomp")
        return
    if memory_bytes and largest_batch(recipe, config, memory_bytes=memory_bytes) < 1:
        raise PlanError(
            f"not even one sample of {recipe.model} fits a GPU of {memory_bytes / 1e9:.0f} GB"
        )


def model_config(name: str) -> dict[str, Any]:
    """A model's configuration: ours, or open_clip's, read without importing it."""
    spec = importlib.util.find_spec("open_clip")
    folders = [MODELS]
    if spec is not None and spec.submodule_search_locations:
        folders.append(Path(next(iter(spec.submodule_search_locations))) / "model_configs")
    for folder in folders:
        path = folder / f"{name}.json"
        if path.is_file():
            config: dict[str, Any] = orjson.loads(path.read_bytes())
            return config
    raise PlanError(f"there is no model {name!r} in {', '.join(map(str, folders))}")


def _towers(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Width, layers and places of the two transformers. PlanError for a convolutional tower."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision.get("layers"), int) or "patch_size" not in vision:
        raise PlanError("shapes are planned for vision transformers only")
    places = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    return [
        (vision["width"], vision["layers"], places),
        (text["width"], text["layers"], text["context_length"]),
    ]


def forward_flops(config: dict[str, Any]) -> float:
    """FLOPs of one sample's forward, two for a multiplication with addition.

    24 w^2 + 4 n w for each place and layer, and the patches. B/32, B/16 and L/14 give 14.8, 41.1
    and 175 G, as in open_clip's docs/model_profile.csv.
    """
    total = 0.0
    for width, layers, places in _towers(config):
        total += layers * places * (24.0 * width**2 + 4.0 * places * width)
    vision = config["vision_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return total + patches * 6.0 * vision["patch_size"] ** 2 * vision["width"]


def num_params(config: dict[str, Any]) -> int:
    """Parameters of both towers."""
    total, dim = 0, config["embed_dim"]
    for width, layers, places in _towers(config):
        total += layers * (12 * width**2 + 13 * width) + places * width + width * dim
    vision, text = config["vision_cfg"], config["text_cfg"]
    total += 3 * vision["patch_size"] ** 2 * vision["width"]
    return total + int(text["vocab_size"] * text["width"])


def memory_per_gpu(recipe: Recipe, config: dict[str, Any], samples: int) -> float:
    """Bytes on one GPU without recomputation.

    20 a parameter: weights, gradients, their copy for communication, two moments, all of 32 bits.
    34 w for each place and layer in 16 bits (Korthikanti et al. 2022, without the attention
    matrix), twice that in 32. Similarities of a GPU's samples to the whole batch, four of 32 bits.
    """
    wide = 2 if recipe.precision == "fp32" else 1
    activations = sum(34.0 * wide * w * layers * n for w, layers, n in _towers(config))
    similarities = 4 * 4.0 * recipe.global_batch_size
    return 20.0 * num_params(config) + samples * (activations + similarities)


def largest_batch(recipe: Recipe, config: dict[str, Any], *, memory_bytes: float) -> int:
    """The most samples of one forward that fit."""
    room = memory_bytes * (1 - RESERVED) - memory_per_gpu(recipe, config, 0)
    each = memory_per_gpu(recipe, config, 1) - memory_per_gpu(recipe, config, 0)
    return int(room // each)


def fitting_here(recipe: Recipe) -> int | None:
    """The most samples of one forward that fit the GPU of this process; None without one."""
    memory = memory_here() if recipe.model in PUBLISHED else None
    if memory is None:
        return None
    return max(1, largest_batch(recipe, model_config(recipe.model), memory_bytes=memory))
