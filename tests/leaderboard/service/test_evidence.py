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
from tests.leaderboard.made_up import make_zip


def parsed(program: Any, words: list[str]) -> dict[str, Any]:
    """What a command line would run with; UsageError when it does not parse."""
    command = program.commands[words[0]]
    params: dict[str, Any] = command.make_context(words[0], words[1:]).params
    return params


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp"])
def test_the_commands_that_make_a_submission_again_parse(benchmark: str, tmp_path: Path) -> None:
    bundle = open_bundle(make_zip(tmp_path, benchmark=benchmark, method="-my 'method"))
    lines = [shlex.split(line, comments=True) for line in reproduce(bundle.record).splitlines()]
    programs = {
        benchmark: typer.main.get_command(command_line(benchmark)),
        "leaderboard": typer.main.get_command(app),
    }
    (tmp_path / f"{bundle.record.id}.zip").touch()
    seen = []
    for program, *words in lines:
        if program == "git":
            continue
        words = [str(tmp_path / word) if word.endswith(".zip") else word for word in words]
        seen.append((program, words[0], parsed(programs[program], words)))
    assert [(program, command) for program, command, _ in seen] == [
        (benchmark, "run"),
        ("leaderboard", "check"),
    ]
    assert seen[0][2]["scale"] == "tiny"
