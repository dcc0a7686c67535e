"""Processes that die: whose item is to blame, and what becomes of the others."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from pipelines.execution.executors import ProcessMap, WorkerLost


def dies_at(deadly: int, item: int) -> int:
    if item == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def dies_once(marks: str, item: int) -> int:
    """The first time that it is asked for item 2, its process is killed."""
    mark = Path(marks) / "killed"
    if item == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def test_an_item_that_kills_its_process_is_named_and_the_others_are_done() -> None:
    errors: dict[int, Exception] = {}
    arrived: list[int] = []

    def failed(index: int, error: Exception) -> int:
        errors[index] = error
        return -1

    executor = ProcessMap(2)
    results = executor(
        partial(dies_at, 3),
        range(8),
        on_result=lambda index, _: arrived.append(index),
        on_error=failed,
    )
    executor.close()
    assert results == [0, 1, 4, -1, 16, 25, 36, 49]
    assert sorted(arrived) == list(range(8))  # each once
    assert list(errors) == [3]
    assert isinstance(errors[3], WorkerLost)
    assert "again when nothing else was running" in str(errors[3])


def test_a_process_that_was_killed_from_outside_costs_no_item(tmp_path: Path) -> None:
    def failed(index: int, error: Exception) -> int:
        raise AssertionError(f"item {index}: {error}")

    executor = ProcessMap(2)
    results = executor(partial(dies_once, str(tmp_path)), range(8), on_error=failed)
    executor.close()
    assert results == [n * n for n in range(8)]


def test_where_no_failure_is_allowed_the_command_ends() -> None:
    executor = ProcessMap(2)
    with pytest.raises(WorkerLost, match="finished work is kept: run the same command again"):
        executor(partial(dies_at, 3), range(8))
    assert executor(partial(dies_at, -1), range(3)) == [0, 1, 4]  # new processes
    executor.close()
