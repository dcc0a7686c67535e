"""What the commands of a round print."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from leaderboard.rounds.show import comparable


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
