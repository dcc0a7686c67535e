"""Tasks that tests send to Ray; each new process imports this module, so it imports little."""

from __future__ import annotations

import os
import time

import ray

from pipelines.errors import DataError


def memory_given(_: int) -> int:
    """Bytes that Ray reserved for this task."""
    return int(ray.get_runtime_context().get_assigned_resources()["memory"])


def fails_at_two(number: int) -> int:
    if number == 2:
        raise DataError("broken on purpose")
    return number


def on_a_gpu(_: int) -> tuple[str, str, float, float]:
    """The node where a task ran, the GPU it was given, and from when to when it held it."""
    began = time.time()
    time.sleep(0.3)
    context = ray.get_runtime_context()
    [gpu] = context.get_accelerator_ids()["GPU"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu
    return context.get_node_id(), gpu, began, time.time()


def process_of(_: int) -> int:
    return os.getpid()


def plus(amount: int, number: int) -> int:
    return amount + number
