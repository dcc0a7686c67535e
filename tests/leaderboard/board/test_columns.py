"""Columns of tasks and categories, and their shades, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leaderboard.board.columns import task_columns


def task(name: str, value: float, *, guess: float | None = None, higher: bool = True) -> Any:
    return SimpleNamespace(
        task=name,
        category="reading" if name != "loss" else "text",
        value=value,
        random_baseline=guess,
        higher_is_better=higher,
    )


def row(id_: str, *tasks: Any) -> Any:
    return SimpleNamespace(submission_id=id_, tasks=tasks)


ROWS = [
    row(
        "a",
        task("boolq", 0.75, guess=0.5),
        task("copa", 0.5, guess=0.5),
        task("loss", 2.0, higher=False),
    ),
    row(
        "b",
        task("boolq", 0.65, guess=0.5),
        task("copa", 0.5, guess=0.5),
        task("loss", 3.0, higher=False),
    ),
    row("c", task("boolq", 0.55, guess=0.5), task("loss", 2.5, higher=False)),
]


def test_a_task_s_best_value_is_the_darkest_whichever_way_it_points() -> None:
    names, cells = task_columns(ROWS, "tasks")
    assert names == ["boolq", "copa", "loss"]
    assert [cells[id_]["boolq"].shade for id_ in "abc"] == [4, 2, 0]
    assert [cells[id_]["loss"].shade for id_ in "abc"] == [4, 0, 2]
    assert cells["a"]["copa"].shade is None  # all equal
    assert "copa" not in cells["c"]


def test_a_category_is_the_mean_of_its_centered_tasks() -> None:
    names, cells = task_columns(ROWS, "categories")
    assert names == ["reading"]  # losses are no accuracies
    assert cells["a"]["reading"].value == pytest.approx((0.5 + 0.0) / 2)
    assert cells["c"]["reading"].value == pytest.approx(0.1)
    assert task_columns(ROWS, "") == ([], {})
