"""The places of a speedrun, on planted curves."""

from __future__ import annotations

from typing import Any

import pytest

from leaderboard.board.speed import Measure
from leaderboard.rules import load_benchmark
from leaderboard.service import speedruns as module
from leaderboard.service.speedruns import Track, speedruns
from leaderboard.submissions.results import Budget, Row
from tests.leaderboard.service.test_training_curves import made_row

STEPS = (100, 200, 400, 800)
SEEN = 8000  # tokens of a whole run: ten a step


class Planted:
    """A service whose rows and curves are given, for the scale tiny of dclm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Row] = []
        self.curves: dict[str, dict[int, list[Measure]]] = {}
        monkeypatch.setattr(
            module, "_rows", lambda _, __, scale, ___: self.rows if scale == "tiny" else []
        )
        monkeypatch.setattr(
            module, "curves_of", lambda _, row: self.curves.get(row.submission_id, {})
        )
        self.unchecked: set[str] = set()
        monkeypatch.setattr(
            module, "curves_checked", lambda _, row: row.submission_id not in self.unchecked
        )

    def add(self, name: str, losses: tuple[float, ...], seeds: int = 3, baseline: str = "") -> None:
        row = made_row(name, tuple(losses[-1] + seed / 1000 for seed in range(seeds)))
        changed = {"budget": Budget(unit="tokens", seen=SEEN), "baseline_of": baseline}
        self.rows.append(row.model_copy(update=changed))
        self.curves[name] = {
            seed: [
                Measure(budget=step, value=value + seed / 1000, stderr=0.001)
                for step, value in zip(STEPS, losses, strict=True)
            ]
            for seed in range(seeds)
        }

    def tiny(self, benchmark: str = "dclm") -> Track:
        service: Any = None
        [track] = [track for track in speedruns(service, benchmark) if track.scale == "tiny"]
        return track


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    return Planted(monkeypatch)


def test_the_fewest_tokens_are_first_in_tokens_not_steps(planted: Planted) -> None:
    assert load_benchmark("dclm").scale("tiny").speedrun.target == 2.7  # type: ignore[union-attr]
    planted.add("slow", (4.0, 3.5, 2.9, 2.5))  # 2.7 halfway between 4,000 and 8,000 tokens
    planted.add("fast", (4.0, 2.8, 2.6, 2.5))  # halfway between 2,000 and 4,000
    track = planted.tiny()
    assert [(racer.rank, racer.row.method) for racer in track.racers] == [(1, "fast"), (2, "slow")]
    fast, slow = (racer.speed for racer in track.racers)
    assert fast.budget == pytest.approx(2000 * 2**0.5, rel=0.01)
    assert slow.budget == pytest.approx(4000 * 2**0.5, rel=0.01)
    assert fast.low is not None
    assert fast.high is not None
    assert fast.low < 2000 * 2**0.5 < fast.high
    assert ">target<" in track.svg


def test_fewer_than_three_seeds_have_no_place(planted: Planted) -> None:
    planted.add("three", (4.0, 3.5, 2.9, 2.5))
    planted.add("two", (4.0, 2.8, 2.6, 2.5), seeds=2)
    track = planted.tiny()
    assert [(r.row.method, r.rank, r.few) for r in track.racers] == [
        ("three", 1, False),
        ("two", 0, True),
    ]


def test_a_seed_that_misses_the_target_takes_the_place(planted: Planted) -> None:
    planted.add("never", (4.0, 3.5, 2.9, 2.699))  # seeds 0 and 1 reach 2.7, seed 2 has 2.701
    [racer] = planted.tiny().racers
    assert (racer.rank, racer.missed, racer.speed.budget) == (0, 1, None)


def test_an_entry_without_a_result_is_named_with_the_reason(planted: Planted) -> None:
    planted.add("early", (2.0, 1.9, 1.8, 1.7))
    planted.rows.append(made_row("bare", (2.5,)))
    track = planted.tiny()
    assert track.racers == ()
    assert track.left_out[0].startswith("early: seed 0 is at the target 2.7 before its first")
    assert track.left_out[1] == "bare: its scores of checkpoints cannot be read"


def test_a_curve_whose_logs_were_not_sent_has_no_place(planted: Planted) -> None:
    """It is the team's word alone; nor is it the baseline that a target is read from."""
    planted.add("checked", (4.0, 3.5, 2.9, 2.5))
    planted.add("word", (4.0, 2.8, 2.6, 2.5))
    planted.unchecked = {"word"}
    track = planted.tiny()
    assert [racer.row.method for racer in track.racers] == ["checked"]
    assert track.left_out == (
        "word: its bundle has no logs of checkpoints, so its curve was not checked; withdraw it "
        "and send it again, made by `speedrun --submit`",
    )
    planted.add("plain", (4.0, 3.6, 3.2, 3.0), baseline="no_filter")
    planted.unchecked = {"plain"}
    assert planted.tiny("datacomp").target is None


def test_the_target_is_the_baselines_score_at_its_share(planted: Planted) -> None:
    """datacomp at tiny: what no_filter scores at half of its budget, the mean over seeds."""
    planted.add("mine", (4.0, 3.0, 2.0, 1.0))
    assert planted.tiny("datacomp").target is None
    assert planted.tiny("datacomp").racers == ()
    planted.add("plain", (4.0, 3.6, 3.2, 3.0), baseline="no_filter")
    track = planted.tiny("datacomp")
    assert track.target == pytest.approx(3.201)  # 3.2, 3.201 and 3.202 at 400 of 800 steps
    assert {racer.row.method for racer in track.racers} == {"mine", "plain"}


def test_an_unknown_benchmark_has_no_page() -> None:
    service: Any = None
    with pytest.raises(KeyError, match="no benchmark nothing"):
        speedruns(service, "nothing")
    assert speedruns(service, "ambient") == []
