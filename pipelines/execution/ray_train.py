"""One function in several processes at once on a Ray cluster, joined as a torch process group.

Ray Train starts the processes, on as many nodes as they need, and sets RANK, WORLD_SIZE and
LOCAL_RANK as torchrun does; the function is the same under both. When a process or node is lost,
all are started again, and the function resumes from what it has written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipelines.execution.executors import WorkerLost

T = TypeVar("T")

RESTARTS = 3  # after a lost process or node; an error of the function itself is raised at once

log = logging.getLogger(__name__)


def run_together(
    function: Callable[[T], Any],
    item: T,
    *,
    address: str,
    num_processes: int,
    use_gpu: bool,
    num_cpus: int,
    folder: str,
) -> None:
    """Run `function(item)` in every process; returns when all have ended.

    Each process has one GPU or none, and `num_cpus` CPU cores. `folder` is a path that all nodes
    share. Raises the function's own error, and WorkerLost when there is no cluster, when the
    processes do not fit on this machine, or when they were lost more than `RESTARTS` times.
    """
    from pipelines.execution.ray_executor import RayMap

    RayMap(address).connect()
    each = {"CPU": float(num_cpus), "GPU": float(use_gpu)}
    if address == "local":
        _check_room(each, num_processes)

    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    ray_folder, reserved_before = Path(folder) / ".ray", _reserved()
    for attempt in range(RESTARTS + 1):
        trainer = TorchTrainer(
            lambda: function(item),
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=num_processes, use_gpu=use_gpu, resources_per_worker=each
            ),
            run_config=RunConfig(name=f"attempt-{attempt}", storage_path=str(ray_folder)),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            failures = [failure for _, failure in sorted(error.worker_failures.items())]
            if not any(map(_is_of_ray, failures)):
                raise _cause(failures) from None
            log.warning("processes were lost, starting all again: %s", failures)
        except TrainingFailedError as error:
            log.warning("processes could not be started, trying again: %s", error)
        else:
            return
        finally:
            _free(_reserved() - reserved_before)
            shutil.rmtree(ray_folder, ignore_errors=True)
    raise WorkerLost(
        f"the {num_processes} processes were lost {RESTARTS + 1} times; what they wrote is kept: "
        "run the same command again, with more memory if it was short"
    )


def _check_room(each: dict[str, float], num_processes: int) -> None:
    """WorkerLost when this machine, which no autoscaler can extend, has too few CPUs or GPUs."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, amount in each.items():
        needed, available = amount * num_processes, resources.get(name, 0.0)
        if needed > available:
            raise WorkerLost(
                f"{num_processes} processes need {needed:.0f} {name}s, but this machine has "
                f"{available:.0f}; use fewer, or the address of a larger cluster"
            )


def _reserved() -> set[str]:
    """The ids of this driver's placement groups that hold resources or wait for them."""
    import ray
    from ray.util import placement_group_table

    job = ray.get_runtime_context().get_job_id()  # the end of the id of each of its groups
    groups: dict[str, dict[str, Any]] = placement_group_table()  # type: ignore[no-untyped-call]
    return {name for name, g in groups.items() if name.endswith(job) and g["state"] != "REMOVED"}


def _free(groups: set[str]) -> None:
    """Give back what a failed attempt reserved.

    Ray Train leaves the group of processes that die while their function is being started, and the
    next attempt would wait for its resources for ever.
    """
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for name in groups:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def _is_of_ray(failure: BaseException) -> bool:
    """Whether a process was lost, rather than its function failing."""
    return type(failure).__module__.startswith("ray.")


def _cause(failures: Sequence[BaseException]) -> BaseException:
    """The error that caused the others: when one process fails, its peers lose connections."""
    own = [error for error in failures if type(error) is not RuntimeError]
    own = [error for error in own if not type(error).__module__.startswith("torch.")]
    return [*own, *failures][0]
