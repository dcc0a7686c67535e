"""The GPUs of this machine: list them, reserve them, and run tasks with one GPU each.

A GPU is named as `CUDA_VISIBLE_DEVICES` names it: by its number, or by its UUID. Nothing here
imports torch, so a driver process never takes memory of a GPU that a worker needs. Two commands of
one machine never share a GPU by accident: who uses one locks a file of its name, and the next one
is refused with the process's number.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import PlanError
from pipelines.execution.executors import (
    MapTasks,
    Needs,
    OnError,
    OnResult,
    ProcessMap,
    R,
    T,
    one_thread,
)

DRIVER = Path("/dev/nvidiactl")
LOCKS = Path(tempfile.gettempdir()) / "curation-gpus"
VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY = "index,uuid,name,memory.total"


class Gpu(NamedTuple):
    """One GPU of this machine; `memory_bytes` is 0 if the driver does not report it."""

    id: str
    name: str = "GPU"
    memory_bytes: int = 0


@lru_cache(maxsize=1)
def has_gpu_here() -> bool:
    """Whether this process may use a GPU; false for a cluster task that was assigned none."""
    return bool(gpus_here())


def gpus_here() -> list[Gpu]:
    """The GPUs that this process may use, in the order of `CUDA_VISIBLE_DEVICES`."""
    if not DRIVER.exists():
        return []
    listed = _listed()
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return [gpu for gpu, _ in listed]
    by_name = {name: gpu for gpu, uuid in listed for name in (gpu.id, uuid)}
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [by_name.get(name, Gpu(name))._replace(id=name) for name in names]


def _listed() -> list[tuple[Gpu, str]]:
    """All GPUs of the machine with their UUIDs."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
        return [(Gpu(str(number)), "") for number in range(len(devices))]
    rows = [line.split(", ") for line in answer.stdout.splitlines() if line.count(", ") == 3]
    return [
        (Gpu(index, name, int(memory) << 20 if memory.isdigit() else 0), uuid)
        for index, uuid, name, memory in rows
    ]


@contextmanager
def reserved(ids: Sequence[str]) -> Iterator[None]:
    """Reserve these GPUs for the block. PlanError names the process of this user that uses one."""
    if len(set(ids)) != len(ids):
        raise PlanError(f"a GPU is named twice: {', '.join(ids)}; check {VISIBLE}")
    LOCKS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in ids:
            file = stack.enter_context(open(LOCKS / f"{name}-{os.getuid()}", "a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise PlanError(
                    f"GPU {name} is in use by process {file.read().strip() or 'of another command'}"
                    f"; wait for it, or name other GPUs in {VISIBLE}"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


class GpuMap(ProcessMap):
    """Runs tasks in one process for each GPU; a process sees its own GPU and no other.

    The processes end with the call, and their memory of the GPUs is free for what follows.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(len(ids))
        self.ids = tuple(ids)

    def __call__(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        on_result: OnResult | None = None,
        on_error: OnError | None = None,
    ) -> list[R]:
        with reserved(self.ids):
            try:
                return super().__call__(function, items, on_result=on_result, on_error=on_error)
            finally:
                self.close()

    def runs_here(self, items: Sequence[Any]) -> bool:
        return not items  # this process has no GPU

    def start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        free = context.SimpleQueue()
        for name in self.ids:
            free.put(name)
        return ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=_take_gpu, initargs=(free,)
        )


class LocalMap(ProcessMap):
    """Processes on this machine; tasks that need a GPU run in one process per GPU."""

    def with_needs(self, needs: Needs) -> MapTasks:
        """The executor for tasks with these needs: one process per GPU if they need GPUs."""
        if not needs.num_gpus:
            return self
        ids = [gpu.id for gpu in gpus_here()][: self.workers]
        return GpuMap(ids) if ids else self


def _take_gpu(free: Any) -> None:
    """In a new worker: take the next free GPU for the life of the process."""
    one_thread()
    os.environ[VISIBLE] = free.get()
