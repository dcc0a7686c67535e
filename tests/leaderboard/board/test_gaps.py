"""A board ranked in arrays is the board ranked pair by pair: random boards, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from leaderboard.board.describe import verdict
from leaderboard.board.gaps import gaps_to, scores_of, standings_of_rows
from leaderboard.board.intervals import interval
from leaderboard.board.ranking import by_metric, compare, is_baseline, joined, order_of, rank
from leaderboard.board.spreads import SeedSpread, seed_spread
from leaderboard.board.standings import columns_of, standings_of
from leaderboard.rules import Noise
from leaderboard.submissions.results import (
    Budget,
    Figure,
    Headline,
    Row,
    SeedScore,
    Size,
    TaskValue,
)

NOISE = Noise(
    metric="score", seed_sd=0.01, seed_freedom=4, draw_sd=0.02, draw_freedom=3, source="made up"
)
SPREADS = (
    None,
    SeedSpread(1e-4, 5),
    SeedSpread(1e-4, 5, order=(2e-4, 3), noise=NOISE),
    SeedSpread(1e-4, 5, order=(2e-4, 3), draw=(3e-4, 2), noise=NOISE),
)
METRICS = ("score", "other")


def task_value(name: str, rng: np.random.Generator) -> TaskValue:
    return TaskValue(
        task=name,
        category=None,
        metric="m",
        value=float(rng.random()),
        stderr=None,
        num_items=None,
        higher_is_better=True,
        random_baseline=None,
    )


def random_row(rng: np.random.Generator, number: int, *, up: bool) -> Row:
    """A row of any kind; few values, so that many are equal, and some lack a metric or an error."""
    seeds = [(124,), (124, 125), (125, 124), (124, 125, 126), (7, 8)][rng.integers(5)]
    figures = {}
    for name in METRICS:
        if name == "score" or rng.random() < 0.8:
            values = tuple(float(rng.integers(6)) / 8 for _ in seeds)
            error = None if rng.random() < 0.3 else float(rng.integers(3)) / 50
            figures[name] = Figure(values=values, item_error=error, higher_is_better=up)
    kind: Any = ("submission", "submission", "imported", "reference")[rng.integers(4)]
    sampled = 0.1 * float(rng.integers(1, 9)) if rng.random() < 0.4 else None
    score = figures["score"]
    return Row(
        kind=kind,
        benchmark="no such book",
        scale="s",
        track="t",
        pool_id="p",
        pool_name="p",
        suite_version="1",
        suite="s",
        method=("no_filter", "a", "b")[rng.integers(3)],
        team=("x", "y")[rng.integers(2)],
        submission_id=f"{number:04d}",
        dataset_id=f"d{rng.integers(12)}",
        headline=Headline(
            metric="score", value=score.value, stderr=score.stderr, higher_is_better=up
        ),
        budget=Budget(unit="tokens", seen=1),
        dataset=Size(size=1, unit="tokens"),
        kept_fraction=None,
        seeds=tuple(
            SeedScore(seed=seed, value=value)
            for seed, value in zip(seeds, score.values, strict=True)
        ),
        tasks=tuple(task_value(name, rng) for name in ("a", "b", "size") if rng.random() < 0.7),
        aggregates={},
        figures=figures,
        tries=None if rng.random() < 0.5 else int(rng.integers(1, 40)),
        sampled=sampled,
        family=f"f{rng.integers(3)}",
        baseline_of=("no_filter", "")[int(rng.random() < 0.9)],
        date=f"2026-01-{rng.integers(1, 9):02d}",
    )


def random_board(
    seed: int, number: int = 24
) -> tuple[list[Row], dict[str, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    rows = [random_row(rng, n, up=bool(seed % 2)) for n in range(number)]
    drawn = {
        row.submission_id: rng.normal(0.4, 0.01, 50).astype(np.float32)
        for row in rows
        if rng.random() < 0.7
    }
    if drawn:  # the same answers again: nothing is left of the difference
        drawn[rows[0].submission_id] = next(iter(drawn.values()))
    return rows, drawn


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", SPREADS)
def test_gaps_are_those_of_each_pair(seed: int, spread: SeedSpread | None) -> None:
    rows, drawn = random_board(seed)
    scores = scores_of(rows, "score", spread)
    for leader in (0, 7, 20):
        gaps = gaps_to(scores, leader, drawn, choices=5).listed()
        for at, row in enumerate(rows):
            first, second = drawn.get(rows[leader].submission_id), drawn.get(row.submission_id)
            gap = compare(rows[leader], row, "score", first, second, spread, choices=5)
            if gap is None:
                assert gaps[at] is None
            else:
                expected = (gap.value, gap.low, gap.high)
                assert gaps[at] == pytest.approx(expected, abs=1e-12)


def plainly_ranked(rows: list[Row], drawn: dict[str, Any], metric: str) -> list[Row]:
    """The same order, a row and a pair at a time."""
    rows = joined([by_metric(row, metric) for row in rows if metric in row.figures])
    spread = seed_spread(rows, metric)
    standing = {}
    for row in rows:
        value = row.figures[metric].value
        if row.kind == "submission" and len(row.seeds) == 1 and spread is not None:
            data = spread.of_data(row)
            ends = interval(value, spread.variance, spread.freedom, 0.0, more=data)
            value = ends[0 if row.headline.higher_is_better else 1]
        standing[row.submission_id] = value
    sign = -1 if rows[0].headline.higher_is_better else 1
    rows = sorted(
        rows,
        key=lambda r: (bool(r.superseded_by), sign * standing[r.submission_id], r.submission_id),
    )
    plain = next((row for row in rows if is_baseline(row)), None)
    choices = sum(not row.superseded_by for row in rows)
    ranked: list[Row] = []
    for index, row in enumerate(rows):
        own = drawn.get(row.submission_id)
        first = drawn.get(rows[0].submission_id)
        behind = compare(rows[0], row, metric, first, own, spread, choices=choices)
        over = None
        if plain is not None and row is not plain:
            over = compare(plain, row, metric, drawn.get(plain.submission_id), own, spread)
        number = index + 1
        if index and standing[rows[index - 1].submission_id] == standing[row.submission_id]:
            number = ranked[-1].rank
        update: dict[str, Any] = {
            "rank": 0 if row.superseded_by else number,
            "behind_leader": behind if index else None,
            "tied_with_leader": None if behind is None else behind.holds_zero,
            "baseline": plain.submission_id if plain is not None else None,
        }
        if not index:
            update["tied_with_leader"] = False
        if over is not None:
            update["over_baseline"] = over.model_copy(
                update={"value": -over.value, "low": -over.high, "high": -over.low}
            )
        ranked.append(row.model_copy(update=update))
    return ranked


def numbers(row: Row) -> list[float]:
    gaps = [row.behind_leader, row.over_baseline]
    return [n for gap in gaps if gap is not None for n in (gap.value, gap.low, gap.high)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("metric", METRICS)
def test_a_board_is_ranked_as_pair_by_pair(seed: int, metric: str) -> None:
    rows, drawn = random_board(seed)
    ranked = rank(rows, {metric: drawn}, metric=metric)
    expected = plainly_ranked(rows, drawn, metric)
    empty = {"behind_leader": None, "over_baseline": None}
    assert [row.model_copy(update=empty) for row in ranked] == [
        row.model_copy(update=empty) for row in expected
    ]
    assert [numbers(row) for row in ranked] == [
        pytest.approx(numbers(row), abs=1e-12) for row in expected
    ]


def test_random_boards_have_what_is_compared() -> None:
    """Equal scores, superseded rows, rows without a metric or an error, and ties."""
    boards = [random_board(seed) for seed in range(6)]
    ranked = [rank(rows, {"score": drawn}) for rows, drawn in boards]
    every = [row for rows in ranked for row in rows]
    assert any(row.superseded_by for row in every)
    assert {row.tied_with_leader for row in every} == {True, False, None}
    assert any(
        len({r.rank for r in rows if r.rank}) < sum(r.rank > 0 for r in rows) for rows in ranked
    )
    assert any("other" not in row.figures for row in every)
    assert any(row.over_baseline is not None for row in every)


def stored(rows: dict[str, Row], ids: Sequence[str]) -> list[Row]:
    return [rows[id_] for id_ in ids]


def test_the_columns_are_those_of_the_rows() -> None:
    for seed in (1, 2):
        rows, drawn = random_board(seed)
        order = order_of(rows, {"other": drawn}, metric="other")
        by_id = {row.submission_id: row for row in rows}
        standings = standings_of(order, partial(stored, by_id), columns_of(rows))
        assert standings == standings_of(order, standings._read)
        ranked = rank(rows, {"other": drawn}, metric="other")
        assert standings[:] == ranked
        assert standings.verdict == verdict(ranked)
        assert standings.columns["score"] == [row.headline.value for row in ranked]
        errors = [row.headline.stderr for row in ranked]
        for own, expected in zip(standings.columns["stderr"], errors, strict=True):
            assert own == (expected if expected is None else pytest.approx(expected, abs=1e-15))
        for task in ranked[0].tasks:
            own = [{t.task: t.value for t in row.tasks}.get(task.task) for row in ranked]
            assert task.task == "size" or standings.columns[task.task] == own
        gaps = [row.behind_leader for row in ranked]
        assert standings.columns["behind"] == [gap.value if gap else 0.0 for gap in gaps]


def test_a_group_in_which_nobody_has_the_metric_is_empty() -> None:
    rows, _ = random_board(3, number=2)
    assert rank(rows, {}, metric="neither") == []
    assert rank([], {}) == []


def test_a_score_without_a_spread_is_its_own_rank() -> None:
    rows, _ = random_board(2)
    scores = scores_of(rows, "score", None)
    assert standings_of_rows(scores, None).tolist() == [r.figures["score"].value for r in rows]
