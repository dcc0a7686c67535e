"""The memory of the device that a process of a training run has."""

from __future__ import annotations

import os


def memory_here() -> float | None:
    """Bytes of the GPU that this process of a training run uses; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    device = torch.cuda.get_device_properties(local_rank % torch.cuda.device_count())
    return float(device.total_memory)
