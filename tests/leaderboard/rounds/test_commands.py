"""What the commands of a round print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from leaderboard.__main__ import app as leaderboard_app
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.show import comparable
from pipelines.console import main


def row(scale: str, pool: str, method: str) -> Any:
    return SimpleNamespace(
        benchmark="dclm",
        scale=scale,
        track="filtering",
        pool_id=pool,
        suite_version="1",
        method=method,
    )


def test_only_rows_that_may_be_compared_are_in_one_table() -> None:
    rows = [
        row("tiny", "p", "a"),
        row("25m", "p", "b"),
        row("tiny", "p", "c"),
        row("tiny", "q", "d"),
    ]
    assert [[r.method for r in group] for group in comparable(rows)] == [["a", "c"], ["b"], ["d"]]
    assert comparable([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "unknown precision 'int8'"),
        (["--precision", "bf16"], "leave out these options"),
        (["--batch-tokens", "100"], "leave out these options"),
    ],
)
def test_what_a_benchmarks_models_do_not_offer_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CLIP models are evaluated in fp32, image by image."""
    given = ["evaluate", str(tmp_path), "--suite", "datacomp/tiny", "--data", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(command_line("datacomp"), [*given, "--out", str(tmp_path / "o"), *options])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp", "ambient"])
def test_every_step_of_a_program_s_loop_prints_json(benchmark: str) -> None:
    """Propose, run, read the score, decide: by the benchmark's own command, and by the board's."""
    own = typer.main.get_command(command_line(benchmark)).commands  # type: ignore[attr-defined]
    board = typer.main.get_command(leaderboard_app).commands  # type: ignore[attr-defined]
    loop = ("run", "curate", "pack", "train", "evaluate", "submit", "baselines", "ablate", "noise")
    commands = [own[name] for name in loop]
    commands += [board[name] for name in ("notebook", "board", "check", "recheck", "review")]
    for command in commands:
        assert any("--json" in parameter.opts for parameter in command.params), command.name
