"""GPUs that a training run can be planned on, and what no plan of any benchmark lets begin."""

from __future__ import annotations

from pydantic import Field

from pipelines.errors import PlanError
from pipelines.records import Frozen


class Gpu(Frozen):
    """What planning must know of a device."""

    memory_bytes: float = Field(description="usable by a training run, bytes")
    peak_flops: float = Field(description="dense bf16, per second (the makers' data sheets)")
    dollars_per_hour: float = Field(description="an assumed price of renting one")

    @property
    def room(self) -> float:
        """Bytes that weights, states and activations may take."""
        return self.memory_bytes * (1 - RESERVED)


GPUS = {
    "h100": Gpu(memory_bytes=78e9, peak_flops=989e12, dollars_per_hour=2.5),
    "h200": Gpu(memory_bytes=139e9, peak_flops=989e12, dollars_per_hour=3.5),
    "a100": Gpu(memory_bytes=78e9, peak_flops=312e12, dollars_per_hour=1.5),
    "a100-40": Gpu(memory_bytes=38e9, peak_flops=312e12, dollars_per_hour=1.2),
    "l40s": Gpu(memory_bytes=44e9, peak_flops=362e12, dollars_per_hour=1.0),
}

RESERVED = 0.1
"""Of the memory: fragments, communication, libraries."""
CPU_FLOPS = 1e11
"""A second, of a machine's processors: what tiny models reach on a few cores."""
MAX_CPU_HOURS = 100  # a longer run on processors is taken for a mistake


def gpu_named(name: str) -> Gpu:
    """PlanError lists the names that are known."""
    if name not in GPUS:
        raise PlanError(f"unknown GPU {name!r}; known: {', '.join(sorted(GPUS))}")
    return GPUS[name]


def check_processors(scale: str, operations: float, *, program: str) -> None:
    """PlanError for a training run of so many operations that only GPUs end in time."""
    hours = operations / CPU_FLOPS / 3600
    if hours > MAX_CPU_HOURS:
        raise PlanError(
            f"{scale} needs GPUs: on processors its {operations:.1e} operations take about "
            f"{hours:,.0f} hours. Use a machine with GPUs or --cluster ADDRESS; `{program} plan "
            f"--scale {scale} --gpus 8` says what it takes there"
        )
