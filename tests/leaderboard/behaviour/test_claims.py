"""What a rank and an interval claim: equal scores, one row a dataset, single seeds, best of n."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leaderboard.board.intervals import interval, quantile_of
from leaderboard.board.ranking import compare, rank
from leaderboard.board.spreads import seed_spread
from leaderboard.rules import load_benchmark
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.results import Row
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.made_up import make_folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Row:
    measured = check_bundle(open_bundle(make_folder(tmp_path_factory.mktemp("m")))).measured
    assert measured is not None
    return measured.row


def row(plain: Row, name: str, *values: float, **fields: object) -> Row:
    """A row with these headline values by seed and no error from items."""
    metric = plain.headline.metric
    figure = plain.figures[metric].model_copy(update={"values": values, "item_error": 0.001})
    seeds = [
        plain.seeds[0].model_copy(update={"seed": 124 + n, "value": value})
        for n, value in enumerate(values)
    ]
    headline = plain.headline.model_copy(update={"value": sum(values) / len(values)})
    changed = {
        "method": name,
        "submission_id": name,
        "dataset_id": name,
        "figures": plain.figures | {metric: figure},
        "seeds": tuple(seeds),
        "headline": headline,
    }
    return plain.model_copy(update=changed | fields)


def test_equal_scores_have_equal_ranks(plain: Row) -> None:
    rows = rank([row(plain, n, v) for n, v in (("a", 2.0), ("b", 1.0), ("c", 2.0), ("d", 3.0))], {})
    assert [(row.method, row.rank) for row in rows] == [("b", 1), ("a", 2), ("c", 2), ("d", 4)]


def test_more_seeds_of_a_dataset_supersede_fewer(plain: Row) -> None:
    lucky = row(plain, "lucky", 1.9, dataset_id="same")
    whole = row(plain, "whole", 1.9, 2.1, 2.0, dataset_id="same")
    other = row(plain, "other", 2.05, dataset_id="another")
    rows = rank([lucky, other, whole], {})
    assert [(row.method, row.rank) for row in rows] == [("whole", 1), ("other", 2), ("lucky", 0)]
    assert rows[2].superseded_by == "whole"
    beside = rank([lucky.model_copy(update={"team": "another team"}), whole], {})
    assert [row.superseded_by for row in beside] == ["", ""]


def test_a_proxy_scale_has_an_order_and_no_ranks(plain: Row) -> None:
    rows = rank([row(plain, n, v, ranked=False) for n, v in (("a", 2.0), ("b", 1.0))], {})
    assert [(row.method, row.rank) for row in rows] == [("b", 0), ("a", 0)]


def test_the_baseline_is_known_by_its_pipeline(plain: Row) -> None:
    named = row(plain, "no_filter", 1.0)
    real = row(plain, "everything", 3.0, baseline_of="no_filter")
    rows = rank([named, real, row(plain, "mine", 2.0)], {})
    assert {row.baseline for row in rows} == {"everything"}


def test_a_single_seed_has_the_spread_of_the_others(plain: Row) -> None:
    spread = seed_spread([row(plain, "a", 2.0, 2.2, 2.4), row(plain, "b", 1.0)], "bits_per_byte")
    assert spread is not None
    known = load_benchmark("dclm").scale("tiny").noise_of("bits_per_byte")
    assert known is not None
    total = 0.04 * 2 + known.seed_sd**2 * known.seed_freedom  # pooled with the rule book's
    freedom = known.seed_freedom + 2
    assert (spread.variance, spread.freedom) == (pytest.approx(total / freedom), freedom)
    alone, other = row(plain, "b", 1.0), row(plain, "c", 1.1)
    bare = compare(alone, other, "bits_per_byte", None, None)
    wide = compare(alone, other, "bits_per_byte", None, None, spread)
    assert bare is not None
    assert wide is not None
    assert not bare.holds_zero
    assert wide.holds_zero  # 0.1 apart, where two runs differ by .08 (one standard deviation)
    book = seed_spread([alone, other], "bits_per_byte")
    assert book is not None
    # of the rule book, when no row has several
    assert book.variance == pytest.approx(known.seed_sd**2)


def test_an_end_of_the_interval_moves_with_the_tries_of_its_side() -> None:
    first = interval(1.0, 0.0, 0, 0.01)
    best = interval(1.0, 0.0, 0, 0.01, tries=(20, 1))
    assert first == pytest.approx((1 - 0.196, 1 + 0.196), abs=1e-3)
    assert best[1] == first[1]
    # 2.5% shared among 20: the 99.875% point of the normal is 3.0233
    assert best[0] == pytest.approx(1 - 0.30233, abs=1e-3)
    assert quantile_of(20, 1e9) == pytest.approx(3.0233, abs=1e-3)


@pytest.mark.parametrize("tries", [1, 20])
def test_the_best_of_tries_of_pure_noise_is_called_a_win_in_at_most_five_percent(
    plain: Row, tries: int
) -> None:
    """4,000 teams whose datasets are all as good as the baseline; each sends its best of n.

    Three seeds each and the spread between seeds only; at the true rate of 2.5%, four standard
    errors of the count are 1%. Without the accounting the best of 20 wins in one case of nine.
    """
    rng = np.random.default_rng(7)
    wins = naive = 0
    number = 4000
    for _ in range(number):
        base = rng.standard_normal(3)
        tried = rng.standard_normal((tries, 3))
        best = tried[tried.mean(axis=1).argmin()]  # lower is better
        apart = base - best
        variance = float(apart.var(ddof=1)) / 3
        low, _ = interval(float(apart.mean()), variance, 2, 0.0, tries=(tries, 1))
        wins += low > 0
        naive += interval(float(apart.mean()), variance, 2, 0.0)[0] > 0
    assert wins / number <= 0.05
    if tries == 20:
        assert naive / number > 0.08


def test_the_row_counts_the_tries_of_the_submission(tmp_path: Path) -> None:
    measured = check_bundle(open_bundle(make_folder(tmp_path, tries=7))).measured
    assert measured is not None
    assert measured.row.tries == 7
