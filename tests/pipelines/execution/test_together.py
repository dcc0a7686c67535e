"""Processes that start together on this machine: their ranks, their errors, and kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines.errors import Interrupted, TrainingError
from pipelines.execution import together as module
from pipelines.execution.executors import WorkerLost
from pipelines.execution.gpus import VISIBLE
from pipelines.execution.together import run_here_together

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", VISIBLE)


def note(folder: str) -> None:
    values = " ".join(os.environ[name] for name in NAMES)
    (Path(folder) / f"{os.environ['RANK']}-{os.getpid()}").write_text(values)


def notes(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in folder.iterdir())


def test_each_process_has_its_rank_and_no_gpu(tmp_path: Path) -> None:
    run_here_together(note, str(tmp_path), num_processes=2)
    assert notes(tmp_path) == ["0 0 2 2 -1", "1 1 2 2 -1"]


def test_processes_see_the_gpus_that_they_were_given(tmp_path: Path, monkeypatch) -> None:
    from pipelines.execution import gpus

    monkeypatch.setattr(gpus, "LOCKS", tmp_path / "locks")
    folder = tmp_path / "notes"
    folder.mkdir()
    run_here_together(note, str(folder), num_processes=2, gpus=("4", "7"))
    assert notes(folder) == ["0 0 2 2 4,7", "1 1 2 2 4,7"]


def fail(folder: str) -> None:
    note(folder)
    if os.environ["RANK"] == "1":
        raise TrainingError("the loss is nan")
    raise RuntimeError("connection closed by peer")


def test_the_error_that_began_it_comes_back_and_nothing_starts_again(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss is nan"):
        run_here_together(fail, str(tmp_path), num_processes=2)
    assert len(notes(tmp_path)) == 2


def die_once(folder: str) -> None:
    note(folder)
    if os.environ["RANK"] == "1" and len(list(Path(folder).glob("1-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_starts_all_again(tmp_path: Path) -> None:
    run_here_together(die_once, str(tmp_path), num_processes=2)
    assert len(list(tmp_path.glob("1-*"))) == 2


def die(folder: str) -> None:
    note(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def test_kills_again_and_again_are_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "RESTARTS", 1)
    with pytest.raises(WorkerLost, match="the 2 processes were lost 2 times"):
        run_here_together(die, str(tmp_path), num_processes=2)


def wait_for_sigterm(folder: str) -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    note(folder)
    assert stopped.wait(300)
    raise Interrupted("a checkpoint is written")


def test_sigterm_reaches_every_process(tmp_path: Path) -> None:
    def stop_when_started() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_started, daemon=True).start()
    with pytest.raises(Interrupted):
        run_here_together(wait_for_sigterm, str(tmp_path), num_processes=2)
