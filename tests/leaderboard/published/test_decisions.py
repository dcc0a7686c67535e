"""Decision accuracy on tables that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.published.decisions import decide, decisions
from pipelines.errors import DataError

SMALL = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}


def test_pairs_are_counted() -> None:
    """Of six pairs one is turned round (c and d); e is at one scale only."""
    large = {"a": 0.5, "b": 0.6, "c": 0.8, "d": 0.7, "e": 0.9}
    result = decide(SMALL, large)
    assert (result.num_methods, result.num_pairs) == (4, 6)
    assert result.accuracy == pytest.approx(5 / 6)
    assert result.low <= 5 / 6 <= result.high


def test_the_same_order_is_all_right_and_the_opposite_all_wrong() -> None:
    assert decide(SMALL, SMALL).accuracy == 1.0
    assert decide(SMALL, {name: -value for name, value in SMALL.items()}).accuracy == 0.0


def test_a_tie_is_half_right() -> None:
    assert decide(SMALL, dict.fromkeys(SMALL, 1.0)).accuracy == 0.5


def table(folder: Path, lines: list[str]) -> Path:
    path = folder / "models.csv"
    path.write_text("\n".join(["Dataset,params,tokens,Core,hellaswag", *lines]) + "\n")
    return path


def test_scales_are_ordered_by_compute_and_repeated_runs_are_one(tmp_path: Path) -> None:
    lines = [
        *(f"{n},4e8,8e9,{value},0.25" for n, value in zip("abcd", (1, 2, 3, 4), strict=True)),
        "a,4e8,8e9,9,0.25",  # the median of 1, 9 and 1 is 1
        "a,4e8,8e9,1,0.25",
        *(f"{n},7e9,1.4e11,{value},0.8" for n, value in zip("abcd", (1, 2, 3, 4), strict=True)),
        "a,1e9,2.8e10,1,0.5",
    ]
    core, task = decisions(table(tmp_path, lines), metrics=("Core", "hellaswag"))
    assert (core.small, core.large, core.metric) == ("0.4B on 8B", "7.0B on 140B", "Core")
    assert core.accuracy == 1.0
    assert not core.at_chance
    assert task.at_chance  # four options, all at 0.25
    assert task.accuracy == 0.5


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column 'Core': not the model database"):
        decisions(tmp_path / "x.csv")
