"""The demo, killed at ten seeded moments and started again, ends as an undisturbed one.

Moments: inside each stage (pool, classifier, curation of each arm, packing, training, evaluation,
submission) and inside a commit (a half-written part file is on disk). Needs the demo's downloads.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from leaderboard.submissions.submission import read_entries

pytestmark = pytest.mark.soak

METHODS = ("no_filter", "random_same_size", "tiny_baseline")
MOMENTS = (
    ("pool", "pools/dclm-tiny/done/*.json"),
    ("classifier", "assets/*"),
    ("curate no_filter", "dclm-tiny/no_filter-*/dataset/done/*.json"),
    ("curate tiny_baseline", "dclm-tiny/tiny_baseline-*/dataset/done/*.json"),
    ("inside a commit", "dclm-tiny/*/dataset/**/.part-*"),
    ("curate random_same_size", "dclm-tiny/random_same_size-*/dataset/done/*.json"),
    ("pack", "dclm-tiny/*/packed-recipe/done/*.json"),
    ("train", "dclm-tiny/*/model-recipe-*/metrics.jsonl"),
    ("evaluate", "dclm-tiny/*/scores-*/done/*.json"),
    ("submit", "submissions/*/questions/*/*"),
)


def commands(workspace: Path) -> list[list[str]]:
    run = [sys.executable, "-m", "dclm"]
    pipelines = [part for name in METHODS for part in ("--pipeline", name)]
    position = ["--scale", "tiny", "--workspace", str(workspace)]
    return [
        [*run, "pool", *position],
        [*run, "train-quality", *position],
        [*run, "run", *position, *pipelines],
    ]


def play(workspace: Path, *, kill_at: str | None = None, delay: float = 0.0) -> bool:
    """Run the demo's commands; with `kill_at`, kill the tree `delay` after a new match appears."""
    for command in commands(workspace):
        before = set(workspace.glob(kill_at)) if kill_at else set()
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if kill_at and set(workspace.glob(kill_at)) - before:
                time.sleep(delay)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.002)
        assert process.returncode == 0, command
    return False


def ids(workspace: Path) -> list[tuple[str, list[str]]]:
    return sorted(
        (entry.record.id, sorted(record.id for record in entry.record.chain))
        for entry in read_entries(workspace / "submissions")
    )


def test_killed_ten_times_the_demo_ends_alike(tmp_path: Path) -> None:
    chance = random.Random(124)
    killed = {}
    for name, pattern in MOMENTS:
        delay = 0.0 if name == "inside a commit" else chance.uniform(0, 0.3)
        killed[name] = play(tmp_path / "killed", kill_at=pattern, delay=delay)
    play(tmp_path / "killed")
    play(tmp_path / "calm")
    sys.stdout.write(orjson.dumps(killed, option=orjson.OPT_INDENT_2).decode() + "\n")
    assert sum(killed.values()) == len(MOMENTS), killed
    assert ids(tmp_path / "killed") == ids(tmp_path / "calm")
    assert len(ids(tmp_path / "calm")) == len(METHODS)
