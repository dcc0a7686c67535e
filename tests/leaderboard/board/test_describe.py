"""Who is ahead, in words: neutral, short, and over the whole board."""

from __future__ import annotations

from leaderboard.board.describe import verdict, verdict_in_short


def test_a_verdict_in_short_counts_the_whole_board() -> None:
    class Row:
        superseded_by = ""

        def __init__(self, tie: bool | None) -> None:
            self.tied_with_leader = tie

    leader = Row(None)
    assert verdict_in_short([leader]) == "The only entry."  # type: ignore[list-item]
    others = [Row(False), Row(False), Row(True), Row(None)]
    assert verdict_in_short([leader, *others]) == (  # type: ignore[list-item]
        "Ahead of 2 of 4; not distinguishable from 1; not known for 1."
    )


def test_a_verdict_names_the_ties_where_they_are_few_and_short() -> None:
    class Row:
        superseded_by = ""
        ranked = True
        seeds = (1, 2)

        def __init__(self, method: str, tie: bool | None) -> None:
            self.method, self.tied_with_leader = method, tie

    leader, beaten = Row("mine", None), Row("raw", False)
    short = [Row("basic", True), Row("text", True)]
    assert verdict([leader, *short, beaten]) == (  # type: ignore[list-item]
        "mine is ahead of 1 of 3 others. It is not distinguishable from 2: basic and text."
    )
    many = [Row(f"variant_{n}", True) for n in range(33)]
    assert verdict([leader, *many, beaten]) == (  # type: ignore[list-item]
        "mine is ahead of 1 of 34 others. It is not distinguishable from 33."
    )
