"""How a model is split over processes and devices: who they are, which mesh, which precision.

Alone on a CPU in float32 the model is a plain module. In every other case it is sharded with FSDP2,
a single GPU included, since FSDP2 also keeps the float32 masters of bf16 weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from dclm.recipe import RESHARD_PARAMS, Recipe
from dclm.training.model import OpenLM
from leaderboard.rounds.gpus import GPUS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def processes(recipe: Recipe) -> Iterator[tuple[int, int, torch.device, DeviceMesh | None]]:
    """Rank, number of processes, device, and the mesh (None for plain CPU training alone)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cpu")
    if has_gpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    if world == 1 and not has_gpu and recipe.precision == "fp32":
        yield rank, world, device, None
        return
    is_ours = not dist.is_initialized()  # Ray Train, for one, brings its own
    if is_ours:
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        if world == 1:
            alone = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=alone, rank=0, world_size=1)
        else:
            dist.init_process_group(backend)
    try:
        yield rank, world, device, _mesh(recipe, world, device)
    finally:
        if is_ours:
            dist.destroy_process_group()


def _mesh(recipe: Recipe, world: int, device: torch.device) -> DeviceMesh:
    """One axis; for large models over several nodes two: copies over nodes, shards inside one."""
    inside = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    if recipe.model.num_params > RESHARD_PARAMS and 1 < inside < world:
        shape = (world // inside, inside)
        return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))


def build(
    recipe: Recipe, seed: int, device: torch.device, mesh: DeviceMesh | None, *, compiled: bool
) -> OpenLM:
    """The initialised model: the same numbers for a seed, on any device and number of processes."""
    torch.manual_seed(seed)
    if mesh is None:
        return OpenLM(recipe.model)
    weights = OpenLM(recipe.model).state_dict() if dist.get_rank() == 0 else {}
    with torch.device("meta"):
        model = OpenLM(recipe.model)
    dtype = DTYPES[recipe.precision]
    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=DTYPES[recipe.reduce_precision],
        cast_forward_inputs=False,
    )
    reshard = recipe.model.num_params > RESHARD_PARAMS
    if compiled:
        from torch._inductor import config as inductor

        # Eager rounds to bf16 between the operations that a compiled kernel fuses.
        inductor.emulate_precision_casts = True
    for block in model.layers:
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "loss")
    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=options)
    return model


@contextmanager
def fast_attention(device: torch.device) -> Iterator[None]:
    """On a GPU, cuDNN's attention kernel before the others: the fastest on Hopper."""
    if device.type == "cpu":
        yield
        return
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield


def mean_over_processes(values: Tensor, world: int) -> Tensor:
    if world > 1:
        dist.all_reduce(values)
        values /= world
    return values


def agree(is_due: bool, must_stop: bool, device: torch.device, world: int) -> tuple[bool, bool]:
    """True where any process says so: all of them write a checkpoint at the same step."""
    if world == 1:
        return is_due, must_stop
    flags = torch.tensor([is_due, must_stop], dtype=torch.int32, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags[0]), bool(flags[1])


def peak_flops() -> float | None:
    """Dense bf16 operations a second of all processes' GPUs together; None for unknown devices."""
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().lower().split()
    known = [gpu.peak_flops for name, gpu in GPUS.items() if name in words]
    return known[0] * int(os.environ.get("WORLD_SIZE", "1")) if known else None
