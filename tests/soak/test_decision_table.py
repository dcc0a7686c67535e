"""The table of what a tiny scale decides, on planted scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.published.findings import OWN_RUNS
from leaderboard.rules import Noise
from tests.soak import decision_table
from tests.soak.decision_table import BUDGETS, crossings_text, order_at, power_seen, seed_noise

KNOWN = Noise(metric="m", seed_sd=0.01, seed_freedom=100, source="planted")


def planted(means: dict[str, list[float]]) -> dict[str, list[list[float]]]:
    """Three seeds at a standard deviation of .01 around each mean."""
    return {name: [[m - 0.01, m, m + 0.01] for m in of] for name, of in means.items()}


def test_pairs_are_counted_by_their_order_at_the_whole_budget() -> None:
    scores = planted({"a": [0.1, 0.3], "b": [0.2, 0.6], "c": [0.3, 0.5]})
    half, whole = order_at(scores, 0, KNOWN), order_at(scores, -1, KNOWN)
    assert (half.pairs, half.same, half.clear, half.clear_same) == (3, 2, 3, 2)  # not b and c
    assert (whole.same, whole.clear_same) == (3, 3)


def test_the_noise_is_that_of_the_seeds_alone() -> None:
    scores = planted({"a": [0.1], "b": [0.9], "c": [0.4]})
    noise = seed_noise(scores, 0)
    assert noise.sd == pytest.approx(0.01)
    assert noise.freedom == 6
    assert noise.low < 0.01 < noise.high


def test_a_planted_crossing_is_named_and_parallel_curves_are_ahead() -> None:
    scores = planted(
        {"early": [0.5, 0.5, 0.5, 0.5], "late": [0.1, 0.4, 0.7, 1.0], "low": [0.0, 0.0, 0.0, 0.0]}
    )
    text = crossings_text(scores, BUDGETS, True, KNOWN)
    assert "2 have one side ahead at every budget, 1 cross (early and late)" in text


def test_seen_gaps_are_those_beyond_the_reach_of_one_seed() -> None:
    expected, seen, number = power_seen(planted({"a": [0.0], "b": [1.0]}), KNOWN)
    assert (seen, number) == (1, 3)
    assert expected == pytest.approx(1)
    expected, seen, _ = power_seen(planted({"a": [0.0], "b": [0.0]}), KNOWN)
    assert seen == 0
    assert expected == pytest.approx(0.05, abs=0.002)


def test_a_section_is_written_again_and_the_other_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "findings.md"
    page.write_text("# Findings\n\ntext\n")
    monkeypatch.setattr(decision_table, "PAGE", page)
    decision_table.write("dclm", "### dclm at tiny\n\nold\n")
    decision_table.write("datacomp", "### datacomp at tiny\n\nimages\n")
    decision_table.write("dclm", "### dclm at tiny\n\nnew\n")
    assert page.read_text() == (
        f"# Findings\n\ntext\n\n{OWN_RUNS}\n\n### datacomp at tiny\n\nimages\n\n"
        "### dclm at tiny\n\nnew\n"
    )
