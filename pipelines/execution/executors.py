"""One function, `map_tasks`, that runs independent pieces of work here or in several processes.

What runs is a module-level function over picklable items; results come back in the order of the
items. Work decides for itself whether it is already done (see `storage.commit`), so an executor
needs no memory: start it again with any number of workers and only what is missing runs.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Protocol, TypeVar, runtime_checkable

from pipelines.errors import FailedError

T = TypeVar("T")
R = TypeVar("R")
OnResult = Callable[[int, Any], None]
OnError = Callable[[int, Exception], Any]


class WorkerLost(FailedError):
    """A worker process died (killed, or out of memory)."""


@dataclass(frozen=True)
class Needs:
    """What one task takes of a machine; a cluster places tasks by it.

    `optional_gpus`: where a cluster has no GPU at all, processors do the same work.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    memory_bytes: int = 0
    optional_gpus: bool = False

    def with_(self, other: Needs) -> Needs:
        """What a task takes that does both, one after the other."""
        return Needs(
            max(self.num_cpus, other.num_cpus),
            max(self.num_gpus, other.num_gpus),
            max(self.memory_bytes, other.memory_bytes),
            self.optional_gpus or other.optional_gpus,
        )


LARGE_MODEL_BYTES = 256 << 20
"""Below it a model fits into what every processor of a node has beside it, and nothing is asked."""
TASK_BYTES = 1 << 30  # of a task beside its models


def room_for(model_bytes: int) -> int:
    """Bytes of memory to ask of a cluster for a task with models of this size; 0: as it comes."""
    return model_bytes + TASK_BYTES if model_bytes >= LARGE_MODEL_BYTES else 0


class MapTasks(Protocol):
    """Runs `function` over `items`; results in the order of the items.

    `on_result(index, result)` is called in the calling process as each result arrives; an
    exception from it, or from the function, stops the rest and is raised. Where `on_error` is
    given, `on_error(index, error)` says what the result of a failed item is, or raises and so stops
    the rest.
    """

    def __call__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
    ) -> list[R]: ...


@runtime_checkable
class Placed(Protocol):
    """An executor that places tasks by what they take."""

    def with_needs(self, needs: Needs) -> MapTasks:
        """The executor for tasks that take this of a machine."""
        ...


@runtime_checkable
class Cluster(Protocol):
    """What an executor on several machines can report, and accept, besides running tasks."""

    def with_needs(self, needs: Needs) -> MapTasks:
        """The executor for tasks that take this of a machine."""
        ...

    def num_nodes(self) -> int:
        """How many machines are at work."""
        ...

    def publish(self, run: str, figures: Mapping[str, float]) -> None:
        """Give the figures of a run to the cluster's monitoring."""
        ...


def map_here(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    on_result: OnResult | None = None,
    on_error: OnError | None = None,
) -> list[R]:
    """Run everything in this process, in order."""
    results = []
    for index, item in enumerate(items):
        try:
            result = function(item)
        except Exception as error:
            if on_error is None:
                raise
            result = on_error(index, error)
        results.append(result)
        if on_result:
            on_result(index, result)
    return results


class ProcessMap:
    """Runs tasks in `workers` processes of this machine.

    They are started when first needed, and stay for the calls that follow.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers}: expected at least 1")
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
    ) -> list[R]:
        if self.runs_here(items):
            return map_here(function, items, on_result=on_result, on_error=on_error)
        calls = _Calls(function, items, on_result, on_error)
        try:
            while lost := self._run(calls):
                if on_error is None:
                    raise WorkerLost(LOST)
                for index in lost:
                    self._run_alone(calls, index)
        except BaseException:
            self.close()
            raise
        return calls.results

    def runs_here(self, items: Sequence[Any]) -> bool:
        """Whether these items are not worth a process."""
        return self.workers == 1 or len(items) < 2

    def start(self) -> ProcessPoolExecutor:
        """New worker processes."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, mp_context=context, initializer=one_thread)

    def close(self) -> None:
        """End the worker processes, whatever waits for them; the next call starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, packed: bytes) -> Future[Any]:
        if self._pool is None:
            self._pool = self.start()
            # waited for: a pool that is closing itself when Python ends closes pipes under it
            weakref.finalize(self, self._pool.shutdown)
        return self._pool.submit(_call, packed)

    def _run(self, calls: _Calls) -> list[int]:
        """Run what is left of the items; those that were under way when a process died, if one did.

        None of them is known to be to blame, so each is run again by itself.
        """
        waiting: dict[Future[Any], int] = {}
        lost: list[int] = []

        def submit_next() -> None:
            for index in calls.left:
                packed = calls.packed(index)
                try:
                    waiting[self._submit(packed)] = index
                except BrokenProcessPool:
                    lost.append(index)
                    return
                if len(waiting) >= 2 * self.workers:
                    return

        submit_next()
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                index = waiting.pop(future)
                try:
                    calls.settle(index, future)
                except BrokenProcessPool:
                    lost.append(index)
            if not lost:
                submit_next()
        if lost:
            self.close()
        return sorted(lost)

    def _run_alone(self, calls: _Calls, index: int) -> None:
        """Run one item while no other is under way: if its process dies, the item is to blame."""
        future = self._submit(calls.packed(index))
        try:
            calls.settle(index, future)
        except BrokenProcessPool:
            self.close()
            calls.fail(index, WorkerLost(LOST_ALONE))


LOST = (
    "a worker process died (killed, or out of memory); finished work is kept: run the same command "
    "again, with fewer --workers if memory was short"
)
LOST_ALONE = (
    "its worker process died (killed, or out of memory), and again when nothing else was running"
)


class _Calls:
    """One call of an executor: the items, what is left of them, and their results."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        on_result: OnResult | None,
        on_error: OnError | None,
    ) -> None:
        self.function, self.items = function, items
        self.on_result, self.on_error = on_result, on_error
        self.left = iter(range(len(items)))
        self.results: list[Any] = [None] * len(items)

    def packed(self, index: int) -> bytes:
        """The call of one item; an item that cannot be pickled is reported here."""
        return pickle.dumps((self.function, self.items[index]))

    def settle(self, index: int, future: Future[Any]) -> None:
        """Take in the result of an item. BrokenProcessPool when its process, or another, died."""
        try:
            result = future.result()
        except BrokenProcessPool:
            raise
        except Exception as error:
            self.fail(index, error)
        else:
            self._note(index, result)

    def fail(self, index: int, error: Exception) -> None:
        """The result of an item that failed; raises the error where no failure is allowed."""
        if self.on_error is None:
            raise error
        self._note(index, self.on_error(index, error))

    def _note(self, index: int, result: Any) -> None:
        self.results[index] = result
        if self.on_result:
            self.on_result(index, result)


def _call(packed: bytes) -> Any:
    function, item = pickle.loads(packed)
    return function(item)


def _end_with_parent() -> None:
    """Wait for the driver's end, by whatever signal, and end: nobody else ends a worker then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def one_thread() -> None:
    """Libraries in a worker use one thread: workers share the machine, and end with the driver."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
