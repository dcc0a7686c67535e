"""The same `map_tasks` on Ray: one task per item, retried when its worker or node is lost.

This is the only module that imports ray. Tasks hold everything they need and commit what they
write, so a task that runs twice does no harm. No more than a few tasks per processor are in flight,
so a run of a million shards does not fill Ray's memory; autoscaling is left to Ray.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError
from ray.util.metrics import Gauge

from pipelines.execution.executors import Needs, OnError, OnResult, WorkerLost
from pipelines.execution.progress import say
from pipelines.execution.ray_address import check_cluster

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 5  # of a task whose worker or node was lost; errors of the task itself are not retried
IN_FLIGHT_PER_CPU = 2  # one that works, one that is ready: no processor waits
PACKS_PER_GPU = 4
"""Ray ends a process after one task with a GPU, so that its memory is free again, and the next one
loads its model anew. So items are dealt to few tasks; what one has committed is not done twice."""
GPUS_TO_COME = 8  # of a cluster that has none yet and grows when it is asked
ENDED_AT_ONCE = 16  # a look waits for this part of what is in flight, or for LOOK_SECONDS
LOOK_SECONDS = 1.0
LOCAL_OBJECT_STORE_BYTES = 256 << 20  # results are small: names, checksums, counts
FORWARDED = ("AWS_", "OMP_NUM_THREADS", "XDG_CACHE_HOME")


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _call_pack(
    function: Callable[[T], R], items: Sequence[T], *, stop: bool
) -> list[tuple[R | None, Exception | None]]:
    """Several items in one process, which loads a model once; with `stop` up to the first error."""
    answers: list[tuple[R | None, Exception | None]] = []
    for item in items:
        try:
            answers.append((function(item), None))
        except Exception as error:
            answers.append((None, error))
            if stop:
                break
    return answers


def _dealt(count: int, packs: int) -> list[range]:
    """The places 0 to count - 1 dealt like cards: where the long ones are first, each has some."""
    return [range(first, count, packs) for first in range(min(packs, count))]


class RayMap:
    """Runs tasks on a Ray cluster: `local` starts one here, else the address of a running one.

    `num_gpus` and `memory_bytes` are what one task is given.
    """

    def __init__(
        self,
        address: str = "local",
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory_bytes: int | None = None,
        optional_gpus: bool = False,
    ) -> None:
        self.optional_gpus = optional_gpus
        self.address = address
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.memory_bytes = memory_bytes
        self._gauges: dict[str, Gauge] = {}

    def connect(self) -> None:
        """Connect to the cluster, or start one on this machine."""
        if ray.is_initialized():
            return
        variables = {k: v for k, v in os.environ.items() if k.startswith(FORWARDED)}
        variables.setdefault("OMP_NUM_THREADS", "1")
        options: dict[str, Any] = {
            "runtime_env": {"env_vars": variables},
            "log_to_driver": False,
            "logging_level": "ERROR",
            "include_dashboard": False,
        }
        if self.address == "local":
            options["address"] = "local"  # or Ray would join whatever runs on this machine
            options["object_store_memory"] = LOCAL_OBJECT_STORE_BYTES
        else:
            options["address"] = self.address
            del options["include_dashboard"]
            check_cluster(self.address)
        context = ray.init(**options)
        if context.dashboard_url:
            say(f"Ray dashboard: http://{context.dashboard_url}")

    def __call__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
    ) -> list[R]:
        self.connect()
        num_gpus = self.num_gpus
        if num_gpus and self.optional_gpus and not self.num_gpus_there():
            num_gpus = 0
        self._check_room(num_gpus)
        if not num_gpus:
            return self._run(function, items, 0, on_result=on_result, on_error=on_error)
        packs = _dealt(len(items), self._num_packs(num_gpus))
        results: list[Any] = [None] * len(items)

        def settle(index: int, value: Any, error: Exception | None) -> None:
            if error is not None:
                if on_error is None:
                    raise error
                value = on_error(index, error)
            results[index] = value
            if on_result:
                on_result(index, value)

        def settle_pack(number: int, answers: Sequence[tuple[Any, Exception | None]]) -> None:
            for index, (value, error) in zip(packs[number], answers, strict=False):
                settle(index, value, error)

        def lost(number: int, error: Exception) -> list[tuple[Any, Exception | None]]:
            return [(None, error) for _ in packs[number]]

        call = partial(_call_pack, function, stop=on_error is None)
        packed = [[items[index] for index in pack] for pack in packs]
        self._run(call, packed, num_gpus, on_result=settle_pack, on_error=lost)
        return results

    def _num_packs(self, num_gpus: float) -> int:
        """How many tasks items on GPUs are dealt to: a few for each place that there is."""
        there = self.num_gpus_there() or GPUS_TO_COME
        return max(1, int(PACKS_PER_GPU * there / num_gpus))

    def _run(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        num_gpus: float,
        *,
        on_result: OnResult | None,
        on_error: OnError | None,
    ) -> list[R]:
        run: Any = ray.remote(
            num_cpus=self.num_cpus,
            num_gpus=num_gpus,
            memory=self.memory_bytes or 0,
            max_retries=RETRIES,
            retry_exceptions=False,
        )(function if inspect.isfunction(function) else _call)
        # Ray takes functions alone: of anything else with arguments of its own, one copy is shared.
        given = () if inspect.isfunction(function) else (ray.put(function),)
        results: list[Any] = [None] * len(items)
        waiting: dict[Any, int] = {}
        upcoming = iter(enumerate(items))
        try:
            while True:
                num_free = self._in_flight() - len(waiting)
                for index, item in islice(upcoming, max(num_free, 0)):
                    waiting[run.remote(*given, item)] = index
                if not waiting:
                    return results
                # Asking for one at a time would look through all that wait for each that ends.
                some = max(1, len(waiting) // ENDED_AT_ONCE)
                ready, _ = ray.wait(list(waiting), num_returns=some, timeout=LOOK_SECONDS)
                for reference in ready:
                    index = waiting.pop(reference)
                    try:
                        results[index] = _result(reference)
                    except Exception as error:
                        if on_error is None:
                            raise
                        results[index] = on_error(index, error)
                    if on_result:
                        on_result(index, results[index])
        finally:
            for reference in waiting:
                ray.cancel(reference)

    def with_needs(self, needs: Needs) -> RayMap:
        """The same cluster for tasks that take this of a node."""
        return RayMap(
            self.address,
            num_cpus=max(self.num_cpus, needs.num_cpus),
            num_gpus=max(self.num_gpus, needs.num_gpus),
            memory_bytes=max(self.memory_bytes or 0, needs.memory_bytes) or None,
            optional_gpus=self.optional_gpus or needs.optional_gpus,
        )

    def num_gpus_there(self) -> int:
        """GPUs of all nodes that are there now; an autoscaler may add more."""
        self.connect()
        return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]

    def num_nodes(self) -> int:
        """How many machines of the cluster are alive."""
        self.connect()
        return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]

    def publish(self, run: str, figures: Mapping[str, float]) -> None:
        """Set gauges `curation_<name>` with the tag `run`; Ray's exporter serves them.

        Prometheus sees them as `ray_curation_<name>` at the ports that Ray announces.
        """
        for name, value in figures.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(
                    f"curation_{name}",
                    description=f"{name.replace('_', ' ')} of the stage at work",
                    tag_keys=("run",),
                )
            self._gauges[name].set(value, tags={"run": run})

    def _check_room(self, num_gpus: float) -> None:
        """Refuse a task that fits no node, where none can be added: it would wait for ever."""
        if self.address != "local":
            return
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for name, needed in (("GPU", num_gpus), ("memory", self.memory_bytes or 0)):
            if needed > there.get(name, 0):
                raise WorkerLost(
                    f"a task takes {needed:,.0f} of {name}, and this machine has "
                    f"{there.get(name, 0):,.0f}; use a cluster that has it (--cluster ADDRESS), or "
                    "--workers, where nothing is reserved"
                )

    def _in_flight(self) -> int:
        cpus = ray.cluster_resources().get("CPU", 1.0)  # type: ignore[no-untyped-call]
        return max(2, int(IN_FLIGHT_PER_CPU * cpus / max(self.num_cpus, 0.1)))


def _result(reference: Any) -> Any:
    """A task's result; its own error as it was raised, or WorkerLost after all retries."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except (WorkerCrashedError, RayError) as error:
        raise WorkerLost(
            f"a task was lost {RETRIES + 1} times ({type(error).__name__}: {error}); finished work "
            "is kept: run the same command again, with more memory per worker if it was short"
        ) from None
