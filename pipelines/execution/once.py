"""Wrap a task of a global step: skip it if it is committed, else time it and commit its result."""

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
    """Commit what `work` returns, with the CPU seconds it took; a committed task is not repeated.

    The seconds count for the task's step, unless `work` reports `timings` per step.
    """

    @wraps(work)
    def run(task: T) -> Done:
        store = open_store(task.uri)
        finished = find_done(store, task.key)
        if finished is not None:
            return finished
        started = time.process_time()
        done = work(task, store)
        seconds = round(time.process_time() - started, 4)
        measured = {
            "seconds": round(seconds, 3),
            "timings": done.timings or {str(task.step): seconds},
            "host": socket.gethostname(),
        }
        return commit(store, done.model_copy(update=measured))

    # Without this Ray reads the signature of `work` and asks for its arguments.
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
