"""Figures that no other entry comes near are shown to the reviewer; a new best one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leaderboard import rules
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.case import Case
from leaderboard.submissions.facts import Facts, KnownFacts
from leaderboard.submissions.plausible import CHANCE, far_ahead
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.made_up import make_folder


def others(facts: Facts, number: int, spread: float) -> tuple[Facts, ...]:
    """Accepted entries of other datasets, whose figures vary around those of one entry."""
    rng = np.random.default_rng(5)
    nothing = {"logs": (), "weights": (), "packed": (), "data": (), "answers": (), "losses": {}}
    return tuple(
        facts.model_copy(
            update=nothing
            | {
                "id": f"{k:032x}",
                "team": f"team {k}",
                "dataset": f"{k:032d}",
                "pipeline": f"{k}",
                "accepted": True,
                "figures": {name: v + rng.normal(0, spread) for name, v in facts.figures.items()},
            }
        )
        for k in range(number)
    )


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = make_folder(tmp_path_factory.mktemp("usual"), benchmark="datacomp", skill=0.3)
    facts = check_bundle(open_bundle(folder)).facts
    assert facts is not None
    return facts


def shown(folder: Path, known: tuple[Facts, ...]) -> list[str]:
    checked = check_bundle(open_bundle(folder), known=KnownFacts(known))
    assert checked.faults == ()
    return [notice.text for notice in checked.notices if notice.rule == "plausible.figures"]


def test_a_score_beyond_all_others_is_shown(usual: Facts, tmp_path: Path) -> None:
    made = {"benchmark": "datacomp", "chance": 1, "team": "b"}
    too_good = make_folder(tmp_path / "a", skill=0.99, **made)
    better = make_folder(tmp_path / "b", skill=0.32, **made)
    known = others(usual, 12, spread=0.05)
    texts = shown(too_good, known)
    assert texts
    assert "the best of 12 other datasets has" in texts[0]
    assert shown(better, known) == []
    assert shown(too_good, known[:7]) == []  # too few to know a spread from


def test_one_dataset_sent_by_many_has_one_vote(usual: Facts, tmp_path: Path) -> None:
    """Nobody widens or narrows the spread by sending one dataset again."""
    folder = make_folder(tmp_path, benchmark="datacomp", skill=0.99, chance=1, team="b")
    [single] = others(usual, 1, spread=0.0)
    again = tuple(single.model_copy(update={"id": f"{k:032x}", "team": f"t{k}"}) for k in range(40))
    assert shown(folder, again) == []


def test_an_honest_entry_is_shown_as_rarely_as_is_said(usual: Facts, tmp_path: Path) -> None:
    """2,000 entries drawn like the others: the level is kept over all figures together."""
    folder = make_folder(tmp_path, benchmark="datacomp", skill=0.3)
    bundle = open_bundle(folder)
    case = Case(bundle.record, rules.load_benchmark("datacomp"), bundle)
    rng = np.random.default_rng(11)
    names, draws, seen = list(usual.figures), 2000, 0
    rest = others(usual, 12, spread=0.0)
    for _ in range(draws):
        # Wide beside the standard errors of the made-up questions, so that these do not help.
        drawn = [dict(zip(names, row, strict=True)) for row in rng.normal(0, 50, (13, len(names)))]
        known = [
            other.model_copy(update={"figures": figures})
            for other, figures in zip(rest, drawn[1:], strict=True)
        ]
        own = usual.model_copy(update={"figures": drawn[0]})
        seen += any(far_ahead(replace(case, known=KnownFacts(tuple(known))), own))
    assert seen <= draws * CHANCE + 4 * np.sqrt(draws * CHANCE)
