"""The GPU bench cannot rot: all of its code runs here at toy sizes, and a fault is never silent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[2] / "benches"
sys.path.append(str(BENCHES))

NOT_ON_A_GPU = {"quality_score, documents"}


@pytest.mark.slow
def test_dry_run_measures_every_row(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "bench_gpu.py"), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu-dry.json").read_text())["rows"]
    empty = {row["work"]: row["reason"] for row in rows if row["ours"] is None}
    assert set(empty) == NOT_ON_A_GPU, done.stdout
    assert len(rows) > 12


def make_run(folder: Path, seconds: float = 60.0):
    from gpu_run import Run
    from rows import Rows

    return Run(Rows("gpu", folder=folder), seconds=seconds, dry=True, only=[])


def test_a_fault_is_an_empty_row_with_its_reason_and_a_traceback(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path)

    def broken() -> tuple[float, dict]:
        raise RuntimeError("the kernel refused")

    run.row("first", "x/s", broken, limit=5)
    run.row("second", "x/s", lambda: (2.0, {"batch": 4}), limit=5)
    first, second = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert first["ours"] is None
    assert first["reason"] == "RuntimeError: the kernel refused"
    assert "in broken" in capsys.readouterr().out
    assert second["ours"] == 2.0
    assert second["batch"] == 4


def test_a_slow_row_ends_at_its_limit(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    def slow() -> tuple[float, dict]:
        time.sleep(3000)  # without the limit the test times out
        return 1.0, {}

    run.row("slow", "x/s", slow, limit=0.2)
    assert "limit" in run.rows.rows[0]["reason"]


def test_rows_behind_the_end_of_the_run_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, seconds=0.0)
    run.row("late", "x/s", lambda: (1.0, {}), limit=5)
    assert "used up" in run.rows.rows[0]["reason"]
