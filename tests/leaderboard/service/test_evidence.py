"""The commands that a page gives to make a submission again."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from leaderboard.__main__ import app
from leaderboard.rounds.commands import command_line
from leaderboard.service.evidence import reproduce
from leaderboard.submissions.bundle import open_bundle
from pipelines.records import Submission
from tests.leaderboard.frauds import altered, put, record_of
from tests.leaderboard.made_up import make_folder, make_zip


def parsed(program: Any, words: list[str]) -> dict[str, Any]:
    """What a command line would run with; UsageError when it does not parse."""
    command = program.commands[words[0]]
    params: dict[str, Any] = command.make_context(words[0], words[1:]).params
    return params


def commands_of(record: Submission, folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Program, command and parameters of each line that makes a submission again, but for git."""
    benchmark = record.work.benchmark
    lines = [shlex.split(line, comments=True) for line in reproduce(record).splitlines()]
    programs = {
        benchmark: typer.main.get_command(command_line(benchmark)),
        "leaderboard": typer.main.get_command(app),
    }
    (folder / f"{record.id}.zip").touch()
    seen = []
    for program, *words in lines:
        if program == "git":
            continue
        words = [str(folder / word) if word.endswith(".zip") else word for word in words]
        seen.append((program, words[0], parsed(programs[program], words)))
    return seen


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp", "ambient"])
def test_the_commands_that_make_a_submission_again_parse(benchmark: str, tmp_path: Path) -> None:
    bundle = open_bundle(make_zip(tmp_path, benchmark=benchmark, method="-my 'method"))
    seen = commands_of(bundle.record, tmp_path)
    assert [(program, command) for program, command, _ in seen] == [
        (benchmark, "run"),
        ("leaderboard", "check"),
    ]
    assert seen[0][2]["scale"] == "tiny"


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp"])
def test_a_speedrun_is_made_again_by_its_own_command(benchmark: str, tmp_path: Path) -> None:
    bundle = open_bundle(make_zip(tmp_path, benchmark=benchmark, track="speedrun"))
    (_, command, params), _ = commands_of(bundle.record, tmp_path)
    assert (command, params["submit"], params["repeat"]) == ("speedrun", True, 1)


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp", "ambient"])
def test_each_seed_of_data_from_elsewhere_is_trained_and_evaluated(
    benchmark: str, tmp_path: Path
) -> None:
    seeds = (124, 125) if benchmark == "dclm" else (0, 1)
    folder = make_folder(tmp_path, benchmark=benchmark, seeds=seeds)
    folder = altered(folder, "dataset", put("work", "external", value=True))
    if benchmark == "datacomp":  # what `register --uids` writes
        folder = altered(folder, "dataset", put("work", "output", value={"format": "uids"}))
    record = record_of(folder)
    seen = commands_of(record, tmp_path)
    assert [command for _, command, _ in seen] == [
        "register",
        "pack",
        *("train", "evaluate") * 2,
        "check",
    ]
    trained = [params for _, command, params in seen if command == "train"]
    assert [params["seed"] for params in trained] == list(seeds)
    models = [params["model"] for params in trained]
    assert models == [params["model"] for _, command, params in seen if command == "evaluate"]
