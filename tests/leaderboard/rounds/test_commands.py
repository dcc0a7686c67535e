"""What the commands of a round print."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from leaderboard.__main__ import app as leaderboard_app
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.show import comparable, heading
from pipelines.console import main
from tests.leaderboard.made_up import make_folder


def row(method: str, **changed: str) -> Any:
    fields = {
        "benchmark": "dclm",
        "scale": "tiny",
        "track": "filtering",
        "pool_id": "p",
        "suite": "tiny",
        "suite_version": "1",
        "data_id": "d",
    }
    return SimpleNamespace(method=method, **{**fields, **changed})


def test_only_rows_that_may_be_compared_are_in_one_table_and_headings_differ() -> None:
    others = [
        row("b", scale="25m"),
        row("d", pool_id="q"),
        row("e", suite="other"),
        row("f", suite_version="2"),
        row("g", data_id="x"),
    ]
    groups = comparable([row("a"), others[0], row("c"), *others[1:]])
    methods = [["a", "c"], ["b"], ["d"], ["e"], ["f"], ["g"]]
    assert [[r.method for r in group] for group in groups] == methods
    assert len({heading(group[0]) for group in groups}) == 6
    expected = "dclm at tiny, filtering track, pool p, suite tiny version 1, evaluation data d"
    assert heading(groups[0][0]) == expected
    assert comparable([]) == []


def test_a_folder_of_two_boards_prints_each_under_its_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for benchmark in ("dclm", "datacomp"):
        make_folder(tmp_path, method=f"of {benchmark}", benchmark=benchmark)
    with pytest.raises(SystemExit) as ended:
        main(leaderboard_app, ["board", "--submissions", str(tmp_path)])
    assert ended.value.code in (None, 0)
    starts = ("datacomp at tiny, ", "1     of datacomp", "dclm at tiny, ", "1     of dclm")
    lines = capsys.readouterr().out.splitlines()
    assert [start for line in lines for start in starts if line.startswith(start)] == [*starts]


def test_a_folder_without_submissions_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(leaderboard_app, ["board", "--submissions", str(tmp_path / "nothing")])
    assert "there is no submission in" in " ".join(capsys.readouterr().err.split())


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
