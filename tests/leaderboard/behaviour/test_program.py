"""A program that takes part: propose, run, read the score, decide, all JSON, killed on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

ROUND = (
    "from leaderboard.rounds.commands import command_line\n"
    "from pipelines.console import main\n"
    "main(command_line('mini'))\n"
)
BOARD = "from leaderboard.__main__ import entry\nentry()\n"
STAGES = ("dataset/run.json", "packed-*", "model-*", "scores-*")
"""What a stage leaves first; a program is killed as soon as it is there."""


class Program:
    """What an agent has: commands that print JSON, and no memory of its own."""

    def __init__(self, benchmark: Path, workspace: Path) -> None:
        self.env = {**os.environ, "PYTHONPATH": f"{benchmark}:{Path.cwd()}"}
        self.workspace = workspace
        self.kills = 0
        workspace.mkdir()

    def command(self, code: str, *args: str, kill_at: str | None = None) -> Any:
        """The JSON that a command prints; None when it was killed, as soon as a file is there."""
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            start_new_session=True,
        )
        while kill_at is not None and process.poll() is None:
            if list(self.workspace.glob(kill_at)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.kills += process.returncode == -signal.SIGKILL
                return None
            time.sleep(0.01)
        out, err = process.communicate()
        assert process.returncode == 0, err.decode()
        return orjson.loads(out)

    def notebook(self, *note: str) -> Any:
        options = ("--workspace", str(self.workspace))
        return self.command(BOARD, "notebook", "mini", "mini", *options, *note)

    def run(self, pipeline: Path, *, kills: Sequence[str] = ()) -> Any:
        args = ("run", "--scale", "mini", "--pipeline", str(pipeline), "--team", "program")
        options = ("--workspace", str(self.workspace), "--workers", "1")
        for stage in kills:
            home = f"mini-mini/{pipeline.stem}-*/{stage}"
            self.command(ROUND, *args, *options, kill_at=home)
        return self.command(ROUND, *args, *options)

    def propose(self, words: int) -> Path:
        """The next filter: pages with at least so many stop words."""
        path = self.workspace / f"stop_words_{words}.yaml"
        step = {"stop_words": {"min_stop_words": words}}
        path.write_text(yaml.safe_dump({"name": path.stem, "steps": [step]}))
        return path


def own_row(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    [row] = [line for line in rows if line["method"] == method]
    return row


@pytest.fixture(scope="module")
def program(written_benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(written_benchmark, tmp_path_factory.mktemp("program") / "work")


def test_a_program_plays_the_whole_loop_and_is_killed_on_the_way(program: Program) -> None:
    scores: dict[str, float] = {}
    for words in (1, 2):
        pipeline = program.propose(words)
        rows = program.run(pipeline, kills=STAGES if words == 2 else ())  # run
        row = own_row(rows, pipeline.stem)
        scores[pipeline.stem] = row["headline"]["value"]  # read
        assert row["tries"] == words
        better = min(scores, key=lambda name: scores[name])  # decide: bits per byte
        program.notebook("--note", f"keep {better}")
    notebook = program.notebook()
    assert notebook["tries"] == 2
    lines = notebook["lines"]
    assert [line["text"] for line in lines if line["state"] == "note"][-1].startswith("keep ")
    scored = {line["method"]: line["value"] for line in lines if line["state"] == "scored"}
    assert scored == pytest.approx(scores)
    started = [line for line in lines if line["state"] == "started"]
    assert program.kills == len(STAGES)
    assert len(started) > 2  # a start for each time that training was reached
    assert len({line["dataset"] for line in started}) == 2


def test_what_was_killed_gives_the_same_row_as_what_was_not(
    program: Program, written_benchmark: Path, tmp_path: Path
) -> None:
    other = Program(written_benchmark, tmp_path / "calm")
    pipeline = other.propose(2)
    calm = own_row(other.run(pipeline), pipeline.stem)
    killed = own_row(
        program.command(BOARD, "board", "--submissions", str(program.workspace / "submissions")),
        pipeline.stem,
    )
    assert calm["headline"] == killed["headline"]
    assert calm["dataset_id"] == killed["dataset_id"]
    assert calm["tries"] == 1  # another workspace, another notebook


def test_every_failure_of_a_command_is_one_line_and_a_code(program: Program) -> None:
    bad = subprocess.run(
        [sys.executable, "-c", ROUND, "run", "--scale", "mini", "--pipeline", "nothing", "--json"],
        capture_output=True,
        text=True,
        env=program.env,
        cwd=program.workspace,
    )
    assert bad.returncode == 2
    assert bad.stdout == ""
    *_, last = bad.stderr.splitlines()
    assert last.startswith("error: there is no baseline 'nothing'; give a .yaml file")
