"""What every command line of the project has: short help, a version, completion in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("pipelines", "evals", "leaderboard", "dclm", "datacomp")


def call(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[0] = {name!r}; from {name}.__main__ import entry; entry()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_short_help_and_a_version(name: str) -> None:
    assert "Usage" in call(name, "-h").stdout
    assert call(name, "--version").stdout == f"curation-bench {version('curation-bench')}\n"


def test_short_help_works_behind_a_command() -> None:
    assert "--quarantine" in call("dclm", "curate", "-h").stdout


def test_the_shell_completes_commands() -> None:
    words = {"COMP_WORDS": "dclm cu", "COMP_CWORD": "1", "_DCLM_COMPLETE": "complete_bash"}
    assert call("dclm", **words).stdout.split() == ["curate"]
