"""What every task of a global step does around its work: look whether it is done, time, commit."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from pipelines.storage.base import Store
from pipelines.storage.commits import Done, commit, find_done
from pipelines.storage.open import open_store


class Task(Protocol):
    """Work of one step (counted from 0) whose commit has the name `key` below `uri`."""

    @property
    def uri(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def step(self) -> int: ...


T = TypeVar("T", bound=Task)


def once(work: Callable[[T, Store], Done]) -> Callable[[T], Done]:
    """Commit what `work` returns, with the CPU seconds it took; do nothing when it is committed.

    They count for the task's step, unless `work` says itself what each step took.
    """

    @wraps(work)
    def run(task: T) -> Done:
        store = open_store(task.uri)
        standing = find_done(store, task.key)
        if standing is not None:
            return standing
        started = time.process_time()
        done = work(task, store)
        seconds = round(time.process_time() - started, 4)
        measured = {
            "seconds": round(seconds, 3),
            "timings": done.timings or {str(task.step): seconds},
            "host": socket.gethostname(),
        }
        return commit(store, done.model_copy(update=measured))

    del run.__wrapped__  # type: ignore[attr-defined] # or Ray would ask for what `work` takes
    return run
