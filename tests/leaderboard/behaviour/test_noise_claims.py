"""What one run cannot tell, a board does not say: methods that are all equally good, simulated.

A score is noise alone: of the initialisation, of the order of the data, of the sample that was
drawn. The rule book's table is itself an estimate from few runs, drawn anew for each board.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from leaderboard.board import spreads
from leaderboard.board.gaps import scores_of, standings_of_rows
from leaderboard.board.ranking import compare, rank
from leaderboard.board.spreads import SeedSpread, seed_spread
from leaderboard.rules import Noise
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.results import Row
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.behaviour.test_claims import row
from tests.leaderboard.made_up import make_folder

SEED, ORDER, DRAW = 0.010, 0.020, 0.030
BOARDS = 1500
RULE = 0.05 + 2 * math.sqrt(0.05 * 0.95 / BOARDS)  # 5% and two standard errors of the count


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Row:
    measured = check_bundle(open_bundle(make_folder(tmp_path_factory.mktemp("m")))).measured
    assert measured is not None
    return measured.row


def estimated(rng: np.random.Generator, sd: float, freedom: int) -> float:
    """A standard deviation as somebody would measure it from `freedom` + 1 runs."""
    return sd * math.sqrt(rng.chisquare(freedom) / freedom)


def table(rng: np.random.Generator) -> Noise:
    return Noise(
        metric="bits_per_byte",
        seed_sd=estimated(rng, SEED, 12),
        seed_freedom=12,
        order_sd=estimated(rng, ORDER, 7),
        order_freedom=7,
        draw_sd=estimated(rng, DRAW, 7),
        draw_freedom=7,
        draw_fraction=0.1,
        source="simulated",
    )


def scores(rng: np.random.Generator, seeds: int, *, sampled: bool = False) -> list[float]:
    """The scores of one dataset by seed: order and draw are the same for all of them."""
    data = ORDER * rng.standard_normal() + (DRAW * rng.standard_normal() if sampled else 0.0)
    return [2.0 + data + SEED * rng.standard_normal() for _ in range(seeds)]


def false_claims(
    plain: Row,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seeds: int,
    rows: int = 2,
    sampled: bool = False,
    known: bool = True,
) -> float:
    """The part of boards on which the leader is said to be ahead of the second row."""
    rng = np.random.default_rng([seeds, rows, sampled])
    ahead = 0
    for _ in range(BOARDS):
        noise = table(rng)
        if not known:  # as if only seeds varied
            noise = noise.model_copy(update={"order_freedom": 0, "draw_freedom": 0})
        monkeypatch.setattr(spreads, "_noise", lambda row, metric, noise=noise: noise)
        rows_ = rank(
            [
                row(
                    plain,
                    f"m{n}",
                    *scores(rng, seeds, sampled=sampled and n > 0),
                    sampled=0.1 if sampled and n > 0 else None,
                    family=f"f{n}",
                )
                for n in range(rows)
            ],
            {},
        )
        ahead += rows_[1].tied_with_leader is False
    return ahead / BOARDS


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("sampled", [False, True])
def test_of_two_equal_methods_none_is_called_ahead(
    plain: Row, monkeypatch: pytest.MonkeyPatch, seeds: int, sampled: bool
) -> None:
    assert false_claims(plain, monkeypatch, seeds=seeds, sampled=sampled) <= RULE


def test_of_many_equal_methods_the_first_is_not_called_ahead(
    plain: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert false_claims(plain, monkeypatch, seeds=3, rows=8) <= RULE


def test_without_order_and_draw_equal_methods_are_called_ahead(
    plain: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partner: what the board said before, when an interval held seeds and questions alone."""
    assert false_claims(plain, monkeypatch, seeds=1, known=False) > 0.15


def test_a_real_gap_is_still_seen(plain: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.2 apart, six standard deviations of the difference of two runs (0.032)."""
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(200):
        noise = table(rng)
        monkeypatch.setattr(spreads, "_noise", lambda row, metric, noise=noise: noise)
        worse = [value + 0.2 for value in scores(rng, 1)]
        first, second = rank([row(plain, "a", *scores(rng, 1)), row(plain, "b", *worse)], {})
        seen += first.method == "a" and second.tied_with_leader is False
    assert seen >= 180


def test_one_dataset_twice_has_neither_order_nor_draw(plain: Row) -> None:
    spread = SeedSpread(0.01**2, 30, order=(0.02**2, 10))
    entry, two = row(plain, "a", 2.0, sampled=0.1), row(plain, "b", 2.01, sampled=0.1)
    apart = compare(entry, two, "bits_per_byte", None, None, spread)
    same = compare(
        entry, two.model_copy(update={"dataset_id": "a"}), "bits_per_byte", None, None, spread
    )
    assert apart is not None
    assert same is not None
    assert apart.high - apart.low > 2 * (same.high - same.low)


@pytest.fixture
def seeds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule book that knows the spread of seeds: 0.0106, with 30 degrees of freedom."""
    known = Noise(metric="bits_per_byte", seed_sd=0.0106, seed_freedom=30, source="made up")
    monkeypatch.setattr(spreads, "_noise", lambda row, metric: known)


@pytest.mark.usefixtures("seeds_alone")
def test_a_row_with_one_seed_is_ranked_by_the_worse_end(plain: Row) -> None:
    """30 degrees of freedom: 2.0423 standard deviations worse."""
    lucky = row(plain, "lucky", 1.99)
    steady = row(plain, "steady", 2.0, 2.0, 2.0)
    rows_ = rank([lucky, steady], {})
    assert [entry.method for entry in rows_] == ["steady", "lucky"]
    assert rows_[1].tied_with_leader
    spread = seed_spread([lucky], "bits_per_byte")
    assert standing(lucky, "bits_per_byte", spread) == pytest.approx(
        1.99 + 2.0423 * 0.0106, abs=1e-5
    )
    assert standing(steady, "bits_per_byte", spread) == 2.0
    published = lucky.model_copy(update={"kind": "reference"})
    assert standing(published, "bits_per_byte", spread) == 1.99


def standing(row: Row, metric: str, spread: SeedSpread | None) -> float:
    return float(standings_of_rows(scores_of([row], metric, spread), spread)[0])


@pytest.mark.usefixtures("seeds_alone")
def test_own_draws_stand_in_for_the_rule_books(plain: Row) -> None:
    draws = [row(plain, f"d{n}", 2.0 + 0.05 * n, sampled=0.1, family="f") for n in range(3)]
    spread = seed_spread(draws, "bits_per_byte")
    assert spread is not None
    assert spread.draw == (pytest.approx(0.0025), 2)  # of 2.0, 2.05, 2.1
    assert spread.of_data(draws[0]) == [spread.draw]
    assert spread.of_data(row(plain, "x", 2.0)) == []


def test_a_smaller_sample_varies_more(plain: Row) -> None:
    noise = table(np.random.default_rng(0))
    assert noise.draw_variance(0.1) == pytest.approx(noise.draw_sd**2)
    # (1 - f) / f is 9 at a tenth and 99 at a hundredth
    assert noise.draw_variance(0.01) == pytest.approx(11 * noise.draw_sd**2)
    assert noise.draw_variance(1.0) == 0


def test_a_sampled_dataset_is_known_by_its_steps(tmp_path: Path) -> None:
    steps = [{"operator": "hash_sample", "parameters": {"seed": 3, "fraction": 0.6}}]
    others = [{"operator": "hash_sample", "parameters": {"seed": 4, "fraction": 0.6}}]
    rows_ = []
    for chance, entry in enumerate((steps, others)):
        folder = make_folder(tmp_path, method=f"s{chance}", chance=chance, steps=entry)
        measured = check_bundle(open_bundle(folder)).measured
        assert measured is not None
        rows_.append(measured.row)
    assert rows_[0].sampled == pytest.approx(0.6)
    assert rows_[0].family == rows_[1].family
