"""Paired comparison: the published formulas on fixed arrays; intervals hold what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from evals.tasks import load_task
from leaderboard.__main__ import app
from leaderboard.board.paired import (
    clustered_error,
    compare_bundles,
    compare_task,
    compare_values,
    plain_error,
    sign_test,
)
from leaderboard.board.ranking import difference
from leaderboard.rules import load_benchmark
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.submission import read_entry
from leaderboard.submissions.validate import check_bundle
from pipelines.errors import RuleError
from tests.leaderboard.made_up import make_folder

FIRST = np.array([1.0, 0, 1, 1, 0, 0, 1, 0])
SECOND = np.array([1.0, 1, 1, 0, 1, 1, 1, 0])
CLUSTERS = [0, 0, 0, 1, 1, 2, 2, 2]


def test_the_standard_errors_are_the_published_ones() -> None:
    """d = 0 1 0 -1 1 1 0 0, mean 0.25; written out: sum of squares 3.5, products by cluster."""
    apart = SECOND - FIRST
    plain = math.sqrt(3.5 / 7 / 8)
    assert plain_error(apart) == pytest.approx(plain, abs=1e-12)
    double = 0.0
    for i in range(8):
        for j in range(8):
            if i != j and CLUSTERS[i] == CLUSTERS[j]:
                double += (apart[i] - 0.25) * (apart[j] - 0.25)
    expected = math.sqrt(plain**2 + double / 64)
    assert clustered_error(apart, np.array(CLUSTERS)) == pytest.approx(expected, abs=1e-9)
    paired = compare_values(FIRST, SECOND)
    assert paired.stderr == pytest.approx(plain, abs=1e-12)
    # t with 7 degrees of freedom: 2.364624; the interpolation is within 2e-4 of it
    assert paired.high - 0.25 == pytest.approx(2.364624 * plain, rel=2e-4)
    assert paired.detectable == pytest.approx((1.959963985 + 0.841621234) * plain, rel=1e-6)


def test_wins_losses_and_ties_are_counted_and_ties_decide_nothing() -> None:
    paired = compare_values(FIRST, SECOND)
    assert (paired.wins, paired.losses, paired.ties) == (3, 1, 4)
    assert paired.sign_p == pytest.approx(2 * (1 + 4) / 16)  # of four, at most one loses
    assert sign_test(0, 0) == 1.0
    assert sign_test(10, 0) == pytest.approx(2 / 1024, rel=1e-9)
    assert sign_test(5, 5) == 1.0
    grouped = compare_values(FIRST, SECOND, clusters=CLUSTERS)
    assert (grouped.wins, grouped.losses, grouped.ties) == (2, 0, 1)


def test_clusters_of_one_are_no_clusters() -> None:
    alone = compare_values(FIRST, SECOND, clusters=list(range(8)))
    assert alone == compare_values(FIRST, SECOND)


@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_holds_the_truth_in_95_of_100(size: int) -> None:
    """2,000 simulations of 60 clusters of questions on one text, whose difficulty they share."""
    rng = np.random.default_rng(size)
    inside = naive = 0
    for _ in range(2000):
        shared = np.repeat(rng.standard_normal(60), size)
        apart = 0.3 + shared + rng.standard_normal(60 * size)
        clusters = np.repeat(np.arange(60), size).tolist()
        paired = compare_values(np.zeros(60 * size), apart, clusters=clusters)
        inside += paired.low <= 0.3 <= paired.high
        bare = compare_values(np.zeros(60 * size), apart)
        naive += bare.low <= 0.3 <= bare.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)
    if size == 5:
        assert naive / 2000 < 0.85  # the partner: without clusters the interval is too narrow


def test_the_smallest_detectable_difference_is_seen_in_80_of_100() -> None:
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(2000):
        noise = rng.standard_normal(400)
        gap = 2.8016 / math.sqrt(400)
        paired = compare_values(np.zeros(400), noise + gap)
        seen += paired.low > 0
    assert seen / 2000 == pytest.approx(0.80, abs=0.03)


def test_the_difference_of_two_bundles_is_that_of_their_scores(tmp_path: Path) -> None:
    """Bytes weigh bits per byte, and seeds of a question are one vote."""
    bundles = [
        open_bundle(make_folder(tmp_path, method=f"m{n}", chance=n, seeds=(124, 125), skill=skill))
        for n, skill in enumerate((0.4, 0.6))
    ]
    rows = [check_bundle(bundle).measured.row for bundle in bundles]  # type: ignore[union-attr]
    for name in ("heldout_bits_per_byte", "heldout_ending"):
        task = load_task(name)
        paired = compare_task(task, *bundles)
        assert paired is not None
        a, b = (next(t.value for t in row.tasks if t.task == name) for row in rows)
        sign = 1 if task.higher_is_better else -1
        assert paired.difference == pytest.approx(sign * (b - a), abs=1e-9)
        assert (paired.num_questions, paired.num_clusters) == (60, 60)
        assert paired.wins + paired.losses + paired.ties == 60


def test_two_submissions_are_compared_in_the_terminal(tmp_path: Path) -> None:
    runner = CliRunner()
    folders = [
        make_folder(tmp_path, method=f"m{n}", chance=n, skill=skill)
        for n, skill in enumerate((0.2, 0.8))
    ]
    shown = runner.invoke(app, ["compare", *map(str, folders), "--json"])
    answer = orjson.loads(shown.stdout)
    assert answer["headline"]["low"] > 0  # the second is far better, even for one run
    assert set(answer["tasks"]) == {
        "heldout_bits_per_byte",
        "heldout_next_sentence",
        "heldout_ending",
    }
    text = runner.invoke(app, ["compare", *map(str, folders)]).stdout
    assert "m1 is better by +" in text
    assert "they are apart" in text
    assert "1 seed an arm sees a gap" in text
    turned = runner.invoke(app, ["compare", *map(str, reversed(folders))]).stdout
    line = "m1 is better by"  # whatever the order, the better one is named
    assert [x for x in turned.splitlines() if line in x] == [
        x for x in text.splitlines() if line in x
    ]
    other = make_folder(tmp_path, method="other", scale="25m", rows=20)
    with pytest.raises(RuleError, match="cannot be compared: scale is 'tiny' and '25m'"):
        compare_bundles(open_bundle(folders[0]), open_bundle(other))


@pytest.mark.parametrize("seeds", [(124,), (124, 125, 126)])
def test_the_interval_of_two_folders_is_the_boards(
    seeds: tuple[int, ...], few_draws: None, tmp_path: Path
) -> None:
    """`ablate` prints it: with the noise of the data's order, which seeds and questions lack."""
    entries = [
        read_entry(make_folder(tmp_path, method=name, chance=n, skill=0.4 + n / 10, seeds=seeds))
        for n, name in enumerate(("first", "second"))
    ]
    gap = difference(entries[1], entries[0])
    board = compare_bundles(*(entry.bundle for entry in entries)).headline
    assert board is not None
    for name in ("value", "low", "high"):
        assert getattr(gap, name) == pytest.approx(getattr(board, name), abs=1e-6)
    noise = load_benchmark("dclm").scale("tiny").noise_of("bits_per_byte")
    assert noise is not None
    assert (gap.high - gap.low) / 2 > 1.96 * math.sqrt(2) * noise.order_sd
