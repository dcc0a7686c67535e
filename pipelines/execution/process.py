"""The rank of this process among those that train together."""

from __future__ import annotations

import os
from collections.abc import Mapping


def process_of(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """The rank of this process and the number of processes, as set by torchrun, Ray or srun.

    The batch script of a Slurm job, and a shell started by `salloc`, are one process each.
    """
    variables = os.environ if environment is None else environment
    if "WORLD_SIZE" in variables:
        return int(variables.get("RANK", "0")), int(variables["WORLD_SIZE"])
    if "SLURM_STEP_ID" in variables and "SLURM_NTASKS" in variables:
        return int(variables.get("SLURM_PROCID", "0")), int(variables["SLURM_NTASKS"])
    return 0, 1
