"""GPUs of a machine without any: a driver and `nvidia-smi` are made up, the bookkeeping is real."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipelines.errors import PlanError
from pipelines.execution import gpus as module
from pipelines.execution.executors import Needs, WorkerLost
from pipelines.execution.gpus import VISIBLE, GpuMap, LocalMap, gpus_here, reserved

SMI = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559"
echo "1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559"
echo "2, GPU-cccc, NVIDIA A100-SXM4-40GB, 40960"
"""


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that says it has three GPUs."""
    driver = tmp_path / "nvidiactl"
    driver.touch()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(module, "DRIVER", driver)
    monkeypatch.setattr(module, "LOCKS", tmp_path / "locks")


def test_a_machine_without_a_driver_has_none(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "DRIVER", tmp_path / "nothing")
    assert gpus_here() == []


def test_all_gpus_with_their_memory(three_gpus) -> None:
    assert [(g.id, g.memory_bytes >> 30) for g in gpus_here()] == [("0", 79), ("1", 79), ("2", 40)]


@pytest.mark.parametrize(
    ("visible", "ids"),
    [("2,0", ["2", "0"]), ("GPU-bbbb", ["GPU-bbbb"]), ("", []), ("-1", [])],
)
def test_only_visible_gpus_are_used(three_gpus, monkeypatch, visible: str, ids: list[str]) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    gpus = gpus_here()
    assert [gpu.id for gpu in gpus] == ids
    assert all(gpu.memory_bytes for gpu in gpus)


def use(folder: str) -> tuple[str, float, float, int]:
    """A task that notes which GPU it had, from when to when."""
    began = time.monotonic()
    time.sleep(0.05)
    return os.environ[VISIBLE], began, time.monotonic(), os.getpid()


def test_two_tasks_never_share_a_gpu(three_gpus) -> None:
    uses = GpuMap(["0", "1", "2"])(use, ["x"] * 12)
    assert {gpu for gpu, *_ in uses} <= {"0", "1", "2"}
    assert len({pid for *_, pid in uses}) > 1
    for gpu in ("0", "1", "2"):
        spans = sorted((began, ended) for name, began, ended, _ in uses if name == gpu)
        overlaps = [a for a, b in pairwise(spans) if a[1] > b[0]]
        assert not overlaps, gpu
        assert len({pid for name, *_, pid in uses if name == gpu}) <= 1


def test_a_single_task_has_a_single_gpu(three_gpus) -> None:
    [(gpu, *_, pid)] = GpuMap(["1"])(use, ["x"])
    assert gpu == "1"
    assert pid != os.getpid()


def kill_once(folder: str) -> str:
    marker = Path(folder) / "killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return os.environ[VISIBLE]


def test_gpus_are_free_again_after_a_lost_worker(three_gpus, tmp_path: Path) -> None:
    spread = GpuMap(["0", "1"])
    with pytest.raises(WorkerLost):
        spread(kill_once, [str(tmp_path)] * 2)
    assert set(spread(kill_once, [str(tmp_path)] * 4)) <= {"0", "1"}


def test_a_gpu_in_use_is_refused_to_the_next_command(three_gpus) -> None:
    with reserved(["0", "1"]):
        with pytest.raises(PlanError, match=f"GPU 1 is in use by process {os.getpid()}"):
            GpuMap(["1", "2"])(use, ["x"])
        assert GpuMap(["2"])(use, ["x"])[0][0] == "2"
    assert GpuMap(["1"])(use, ["x"])[0][0] == "1"


def test_a_gpu_named_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="named twice"), reserved(["0", "0"]):
        pass


def test_tasks_of_a_model_go_to_the_gpus(three_gpus) -> None:
    spread = LocalMap(2).with_needs(Needs(num_gpus=1))
    assert isinstance(spread, GpuMap)
    assert spread.ids == ("0", "1")


def test_without_gpus_a_model_runs_on_processors(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "DRIVER", tmp_path / "nothing")
    processors = LocalMap(2)
    assert processors.with_needs(Needs(num_gpus=1)) is processors
