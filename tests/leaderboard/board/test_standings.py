"""The order of a group's rows: what a view needs of all of them, and the rows it reads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from leaderboard.board.ranking import Place
from leaderboard.board.standings import Standings, unpacked
from leaderboard.submissions.results import Row

PLACE: Place = {
    "rank": 1,
    "tied_with_leader": False,
    "detectable": None,
    "baseline": None,
    "superseded_by": "",
    "word": "",
}


def columns_of(dates: Sequence[str | None]) -> Standings:
    """Three rows that nothing has read."""

    def read(ids: Sequence[str]) -> list[Row]:
        raise AssertionError(f"rows {ids} were read")

    return Standings(
        metric="core",
        higher_is_better=True,
        verdict="",
        ids=["a", "b", "c"],
        columns={
            "rank": [1, 2, 3],
            "method": ["no_filter", "strict", "strasse"],
            "team": ["one", "two", "strict team"],
            "score": [0.5, 0.5, 0.4],
            "kind": ["submission", "imported", "submission"],
            "recheck": ["none", "full", "full"],
            "date": list(dates),
            "size": [None, 7, 9],
        },
        tasks=["size"],
        places=[PLACE, PLACE, PLACE],
        _rows=[None, None, None],
        _read=read,
    )


def test_a_view_of_the_columns_reads_no_row() -> None:
    standings = columns_of(["2026-01-02", None, "2026-03-01"])
    assert standings.positions(text="STRICT") == [1, 2]
    assert standings.positions(text="STRAßE") == [2]  # letters are compared without their case
    assert standings.positions(kind="submission", recheck="full") == [2]
    assert standings.positions(since="2026-01-02", until="2026-02-01") == [0]
    assert standings.positions(until="2026-02-01") == [0, 1]
    assert standings.ordered([0, 1, 2], "rank", "") == [0, 1, 2]
    assert standings.ordered([0, 1, 2], "rank", "down") == [2, 1, 0]
    assert standings.ordered([0, 1, 2], "score", "") == [0, 1, 2]  # ties in order of rank
    assert standings.ordered([0, 1, 2], "score", "up") == [2, 0, 1]
    assert standings.ordered([0, 1, 2], "size", "up") == [1, 2, 0]  # no value comes last
    assert standings.ordered([0, 1, 2], "size", "") == [2, 1, 0]


def test_what_is_packed_is_unpacked_without_its_rows() -> None:
    standings = columns_of(["2026-01-02", None, "2026-03-01"])
    again = unpacked(standings.packed(), standings._read)
    assert again == standings


def test_a_row_that_was_taken_off_since_is_left_out() -> None:
    standings = columns_of([None, None, None])
    standings._read = lambda ids: []
    assert standings[:] == []
    assert standings.of("a") is None
    assert standings.of("x") is None
    with pytest.raises(IndexError):
        standings[0]
