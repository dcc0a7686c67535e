"""What every command line of the project has: short help, a version, completion in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from pipelines.assets.catalogue import Assets
from pipelines.console import AssetFolders, main, out
from pipelines.environment import ASSET_FOLDERS

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


@pytest.mark.parametrize(
    "arguments",
    [["look", "--assets", "A"], ["--assets", "A", "look"], ["look", "--assets=A"]],
)
def test_folders_of_assets_may_be_given_anywhere_in_a_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("x")
    app = typer.Typer()

    @app.command()
    def look() -> None:
        out(str(Assets().path("list.txt")))

    @app.command()
    def own(assets: AssetFolders = None) -> None:
        out(f"{assets} {os.environ.get(ASSET_FOLDERS)}")

    given = [text.replace("A", str(tmp_path)) for text in arguments]
    with pytest.raises(SystemExit) as ended:
        main(app, given)
    assert (ended.value.code or 0, capsys.readouterr().out) == (0, f"{tmp_path}/list.txt\n")
    assert ASSET_FOLDERS not in os.environ
    with pytest.raises(SystemExit):
        main(app, ["own", "--assets", "B"])
    assert capsys.readouterr().out == "['B'] None\n"


def test_workers_look_into_the_folders_of_their_command(tmp_path: Path) -> None:
    code = "from pipelines.assets.catalogue import Assets; print(Assets().folders)"
    environment = {**os.environ, ASSET_FOLDERS: f"{tmp_path}{os.pathsep}/b"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"(PosixPath('{tmp_path}'), PosixPath('/b'))\n"


def test_a_crash_in_compiled_code_names_the_lines_that_called_it(tmp_path: Path) -> None:
    program = tmp_path / "crashes.py"
    program.write_text(
        "import ctypes\nimport typer\nfrom pipelines.console import program\n"
        "app = typer.Typer()\n\n\n@app.command()\ndef crash() -> None:\n"
        "    ctypes.string_at(0)\n\n\nprogram(app)\n"
    )
    crashed = subprocess.run(
        [sys.executable, str(program), "crash"], capture_output=True, text=True, cwd=ROOT
    )
    assert crashed.returncode < 0
    assert 'crashes.py", line 9 in crash' in crashed.stderr
