"""Choose the executor for a command line's options."""

from __future__ import annotations

from pipelines.execution.executors import MapTasks, map_here
from pipelines.execution.gpus import LocalMap


def executor(workers: int = 1, *, cluster: str | None = None) -> MapTasks:
    """The `map_tasks` for this many local processes, or for a Ray cluster."""
    if cluster is not None:
        from pipelines.execution.ray_executor import RayMap

        return RayMap(cluster)
    return map_here if workers == 1 else LocalMap(workers)
