"""This process among those that train together."""

from __future__ import annotations

import os
from collections.abc import Mapping


def process_of(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's number and how many there are, as torchrun, Ray or srun sets them.

    A Slurm job's own script, and a shell that `salloc` gave, are one process each.
    """
    variables = os.environ if environment is None else environment
    if "WORLD_SIZE" in variables:
        return int(variables.get("RANK", "0")), int(variables["WORLD_SIZE"])
    if "SLURM_STEP_ID" in variables and "SLURM_NTASKS" in variables:
        return int(variables.get("SLURM_PROCID", "0")), int(variables["SLURM_NTASKS"])
    return 0, 1
