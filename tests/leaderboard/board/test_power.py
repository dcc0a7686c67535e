"""Power before the run: the numbers of seeds, and that the promised power and error rate hold."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from leaderboard.board.intervals import interval
from leaderboard.board.power import (
    PUBLISHED,
    detection,
    gap_for,
    power_of,
    questions_for,
    seeds_for,
)
from leaderboard.rounds.deciding import seeds_of_budget, show_power
from leaderboard.rules import Noise, load_benchmark
from pipelines.errors import RuleError

CORE = PUBLISHED["core"]


def noise(sd: float, freedom: int = 100_000, order: float = 0.0) -> Noise:
    return Noise(
        metric="core",
        seed_sd=sd,
        seed_freedom=freedom,
        order_sd=order,
        order_freedom=100_000 if order else 0,
        source="made up",
    )


@pytest.mark.parametrize(
    ("gap", "seeds"), [(0.002, 108), (0.004, 27), (0.005, 18), (0.008, 7), (0.0125, 3)]
)
def test_seeds_for_a_gap_of_core(gap: float, seeds: int) -> None:
    """2 (1.96 + 0.84)^2 0.0052^2 / gap^2 an arm, for seven identical runs of nanochat."""
    assert abs((seeds_for(gap, noise(0.0052)) or 0) - seeds) <= 1


def test_power_of_the_normal_case() -> None:
    """Deviation known: P(Z > 1.96 - gap / (sd sqrt(2 / n))); 0.005 at n = 17 is 2.803 errors."""
    shift = 0.005 / (0.0052 * math.sqrt(2 / 17))
    expected = 0.5 * math.erfc((1.95996 - shift) / math.sqrt(2))
    assert power_of(0.005, 17, noise(0.0052)) == pytest.approx(expected, abs=2e-4)
    assert power_of(0.0, 17, noise(0.0052)) == pytest.approx(0.05, abs=2e-4)


def test_a_gap_and_its_seeds_belong_to_each_other() -> None:
    for seeds in (1, 3, 5, 20):
        gap = gap_for(seeds, CORE)
        assert seeds_for(gap * 1.0001, CORE) == seeds
        assert power_of(gap, seeds, CORE) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("freedom", "seeds"), [(6, 1), (6, 3), (30, 3)])
def test_the_promised_power_and_the_error_rate_hold_in_simulation(freedom: int, seeds: int) -> None:
    """20,000 pairs by the board's interval: 5 +- 1% false, 80 +- 2% of the promised gap seen."""
    rng = np.random.default_rng(freedom + seeds)
    sd, number = 0.0052, 20_000
    answer = noise(sd, freedom)
    gap = gap_for(seeds, answer)
    book = sd**2 * rng.chisquare(freedom, number) / freedom
    a = sd * rng.standard_normal((number, seeds))
    b = sd * rng.standard_normal((number, seeds))
    free = freedom + 2 * (seeds - 1)
    spread = sum(x.var(axis=1, ddof=1) if seeds > 1 else 0.0 for x in (a, b))
    pooled = (book * freedom + spread * (seeds - 1)) / free
    apart = b.mean(axis=1) - a.mean(axis=1)
    false = seen = 0
    for value, variance in zip(apart, pooled, strict=True):
        low, high = interval(value, 2 * variance / seeds, free, 0.0)
        false += not low <= 0 <= high
        low, high = interval(value + gap, 2 * variance / seeds, free, 0.0)
        seen += low > 0
    assert false / number == pytest.approx(0.05, abs=0.01)
    assert seen / number == pytest.approx(0.80, abs=0.02)


def test_the_order_of_the_data_is_a_floor_under_every_number_of_seeds() -> None:
    answer = noise(0.01, order=0.02)
    assert seeds_for(0.02, answer) is None
    assert gap_for(10_000, answer) == pytest.approx(2.8016 * 0.02 * math.sqrt(2), rel=1e-3)


def test_questions_for_a_gap_of_accuracy() -> None:
    # (1.959964 + 0.841621)^2 * 0.2 / 0.01^2 = 15,697.8
    assert questions_for(0.01, discordant=0.2) == 15_698


def test_what_is_not_measured_is_not_made_up() -> None:
    book = load_benchmark("dclm")
    assert detection(book.scale("400m-1x"), "bits_per_byte", seeds=3) is None
    published = detection(book.scale("400m-1x"), "core_v2", seeds=3)
    assert published is not None
    assert not published.measured_here
    assert "nanochat" in published.line
    clip = detection(load_benchmark("datacomp").scale("small"), "average", seeds=3)
    assert clip is not None
    assert "DataComp's authors state" in clip.line
    ours = detection(book.scale("tiny"), "bits_per_byte", gap=1.0)
    assert ours is not None
    assert ours.measured_here
    assert ours.seeds == 1


def test_plan_answers_with_seeds_or_with_the_gap(capsys: pytest.CaptureFixture[str]) -> None:
    show_power("dclm", "1b-1x", detect=0.005, budget=None, json=False)
    assert "seeds an arm see a gap of 0.005 in core v2" in capsys.readouterr().out
    show_power("dclm", "1b-1x", detect=None, budget="3 seeds", json=True)
    answer = orjson.loads(capsys.readouterr().out)
    assert (answer["seeds"], answer["measured_here"]) == (3, False)
    assert answer["gap"] == pytest.approx(gap_for(3, PUBLISHED["core_v2"]))
    for wrong in ("many", "0", "-3 seeds", "3 hours"):
        with pytest.raises(RuleError, match="expected a number of seeds"):
            seeds_of_budget(wrong)
    with pytest.raises(RuleError, match="expected a gap above 0"):
        show_power("dclm", "1b-1x", detect=0.0, budget=None, json=False)
    with pytest.raises(RuleError, match="name one of them"):
        show_power("dclm", "1b-1x", detect=0.005, budget="3 seeds", json=False)
