"""Where two rows cross while they are trained, and who is at the baseline's score first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leaderboard.board.speed import Measure
from leaderboard.service import training_curves
from leaderboard.service.training_curves import crossings, race
from leaderboard.submissions.results import Budget, Figure, Headline, Row, SeedScore, Size

STEPS = (100, 200, 400, 800, 1600)


def made_row(name: str, values: tuple[float, ...], baseline: str = "plain") -> Row:
    mean = sum(values) / len(values)
    return Row(
        benchmark="none",
        scale="s",
        track="filtering",
        pool_id="p",
        pool_name="a pool",
        suite_version="1",
        suite="suite",
        method=name,
        team="a team",
        submission_id=name,
        dataset_id=name,
        headline=Headline(metric="loss", value=mean, stderr=0.01, higher_is_better=False),
        budget=Budget(unit="tokens", seen=1),
        dataset=Size(size=1, unit="tokens"),
        kept_fraction=None,
        seeds=tuple(SeedScore(seed=k, value=value) for k, value in enumerate(values)),
        tasks=(),
        aggregates={"loss": mean},
        figures={"loss": Figure(values=values, item_error=0.01, higher_is_better=False)},
        baseline=baseline,
    )


class NoService:
    """A service without a board: rows are given."""

    class library:  # noqa: N801
        @staticmethod
        def peers(row: Row) -> list[Row]:
            return []


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Row]:
    """A function that makes a row with a curve for each of three seeds."""
    known: dict[str, dict[int, list[Measure]]] = {}
    monkeypatch.setattr(
        training_curves, "curves_of", lambda _service, row: known.get(row.submission_id, {})
    )

    def make(name: str, losses: tuple[float, ...]) -> Row:
        spread = (-0.002, 0.0, 0.002)
        known[name] = {
            seed: [
                Measure(budget=step, value=value + apart)
                for step, value in zip(STEPS, losses, strict=True)
            ]
            for seed, apart in enumerate(spread)
        }
        return made_row(name, tuple(losses[-1] + apart for apart in spread))

    return make


def test_two_curves_that_cross_are_said_to(curves: Callable[..., Row]) -> None:
    service: Any = NoService()
    first = curves("early", (4.0, 3.8, 3.6, 3.4, 3.2))
    second = curves("late", (4.4, 4.0, 3.6, 3.2, 2.8))  # equal at step 400
    made = crossings(service, [first, second])
    assert made is not None
    [sentence] = made.sentences
    assert sentence.startswith("early is ahead below")
    assert "late above" in sentence
    assert made.left_out == ()
    assert made.svg.count("<polyline") >= 2


def test_a_row_without_a_curve_is_not_drawn(curves: Callable[..., Row]) -> None:
    service: Any = NoService()
    first = curves("early", (4.0, 3.8, 3.6, 3.4, 3.2))
    assert crossings(service, [first, made_row("none", (3.0,))]) is None


def test_the_race_is_to_the_baselines_score_on_a_line_in_the_logarithm(
    curves: Callable[..., Row],
) -> None:
    service: Any = NoService()
    plain = made_row("plain", (3.5,))
    fast = curves("fast", (4.0, 3.6, 3.4, 3.3, 3.2))  # 3.5 halfway between 200 and 400
    slow = curves("slow", (4.5, 4.2, 4.0, 3.6, 3.4))  # halfway between 800 and 1600
    never = curves("never", (4.5, 4.4, 4.3, 4.2, 4.1))
    made = race(service, [never, slow, plain, fast])
    assert made is not None
    assert (made.target, made.baseline) == (3.5, "plain")
    assert [racer.row.method for racer in made.racers] == ["fast", "slow", "never"]
    assert made.racers[0].speed.budget == pytest.approx(200 * 2**0.5, rel=0.01)
    assert made.racers[1].speed.budget == pytest.approx(800 * 2**0.5, rel=0.01)
    assert made.racers[2].speed.budget is None


def test_there_is_no_race_without_a_baseline(curves: Callable[..., Row]) -> None:
    service: Any = NoService()
    rows = [curves(name, (4.0, 3.6, 3.4, 3.3, 3.2)) for name in ("a", "b")]
    assert race(service, rows) is None
