"""Ray on this machine for tests: one cluster for all that do not test how a cluster starts."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from pipelines.execution.ray_executor import FORWARDED, RayMap
from tests.test_structure import ROOT

NUM_CPUS = 2  # at least: two processes train one model


def joined() -> RayMap:
    """The cluster that this process has started for its tests; it is started where it is not."""
    if not ray.is_initialized():
        forwarded = {name: text for name, text in os.environ.items() if name.startswith(FORWARDED)}
        ray.init(
            address="local",  # and not a cluster that somebody runs on this machine
            num_cpus=max(NUM_CPUS, os.cpu_count() or 1),
            object_store_memory=100 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": forwarded | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
        )
    return RayMap("local")


def left() -> None:
    """End the cluster and this process's connection to it."""
    ray.shutdown()
