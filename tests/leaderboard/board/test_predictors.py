"""What predicts a score without training: planted rows, and a row that beats them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from leaderboard.board.predictors import predictions, subset, verdict
from leaderboard.submissions.bundle import Profile
from leaderboard.submissions.results import Row


def row(name: str, value: float, *, words: float, size: int = 1000, sampled: Any = None) -> Row:
    profile = Profile(document_words=words, compressed=0.3, order=0.9, suite_bits=None)
    return cast(
        "Row",
        SimpleNamespace(
            method=name, submission_id=name, dataset_id=name, profile=profile, sampled=sampled,
            dataset=SimpleNamespace(size=size), superseded_by="",
            headline=SimpleNamespace(value=value, higher_is_better=True),
        ),
    )  # fmt: skip


# Scores rise with the logarithm of the length, one for each factor of e, with a little noise.
LENGTHS = (10.0, 27.2, 73.9, 200.9, 546.0, 1484.0)
ROWS = [
    row(str(n), n + 0.1 * (-1) ** n, words=words, size=1000 * (n + 1))
    for n, words in enumerate(LENGTHS)
]


def test_a_row_on_the_line_does_not_beat_the_length() -> None:
    mine = row("mine", 2.5, words=121.8)  # e to the 2.5 times ten
    by_name = {entry.name: entry for entry in predictions(mine, [*ROWS, mine])}
    length = by_name["words of a document"]
    assert length.rows == 7
    assert length.spearman == pytest.approx(1.0, abs=0.06)
    assert length.predicted == pytest.approx(2.5, abs=0.15)
    assert length.beaten is False
    assert by_name["compressed size"].spearman is None  # all equal: it predicts nothing
    assert "cost of the questions by word frequencies" not in by_name  # nobody says it
    assert "words of a document" in verdict(list(by_name.values()))


def test_a_row_far_above_the_line_beats_it() -> None:
    mine = row("mine", 6.0, words=121.8)
    length = next(e for e in predictions(mine, ROWS) if e.name == "words of a document")
    assert length.beaten is True


def test_fewer_than_five_other_rows_say_nothing() -> None:
    assert predictions(ROWS[0], ROWS[:5]) == []
    assert verdict([]) == ""


def test_the_random_part_of_nearly_the_same_size_is_named() -> None:
    random_rows = [
        row("small", 0.1, words=50, size=300, sampled=0.1),
        row("near", 0.2, words=50, size=900, sampled=0.3),
    ]
    mine = row("mine", 1.0, words=50, size=1000)
    nearest = subset(mine, [*ROWS, *random_rows])
    assert nearest is not None
    assert (nearest.method, nearest.times) == ("near", pytest.approx(0.9))
    assert subset(row("huge", 1.0, words=50, size=9000), random_rows) is None
