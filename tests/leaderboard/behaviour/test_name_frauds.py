"""Names that imitate a baseline or another team, and names that only look odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.names import looks_like, mixed_alphabets, name_fault
from tests.leaderboard.frauds import checked, known_of, refused
from tests.leaderboard.made_up import STEPS, make_folder

NAMES = {
    "no filter": "names.baseline",
    "no-filter": "names.baseline",
    "no.filter": "names.baseline",
    "no\u2013filter": "names.baseline",
    "nofilter": "names.baseline",
    "NO_FILTER": "names.baseline",
    "n0_fi1ter": "names.baseline",
    "no_f\u00edlter": "names.baseline",
    "n\u00f8_filter": "names.baseline",
    "no_\u0192ilter": "names.baseline",
    "\u0274\u1d0f_\ua730\u026a\u029f\u1d1b\u1d07\u0280": "names.baseline",
    "n\u03bf_filter": "names.baseline",
    "\uff4e\uff4f_filter": "names.plain",
    "no_filter\u200d": "names.plain",
    "no_filter\ufe0f": "names.plain",
    "no_filter\u3164": "names.plain",
    "no_filter\u2800": "names.plain",
    "the \u0440latform": "names.plain",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_imitate_a_baseline_are_refused(name: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, method=name, steps=STEPS)
    rules = {fault.rule: fault for fault in checked(folder).faults}
    assert NAMES[name] in rules, rules
    assert rules[NAMES[name]].field == "work.method"


@pytest.mark.parametrize("twin", ["tearn A", "Team-A", "te\u00e4m A", "team  A ".strip(), "vvorks"])
def test_teams_that_imitate_another_are_refused(twin: str, tmp_path: Path) -> None:
    known = KnownFacts(
        (
            *known_of(make_folder(tmp_path, team="team A")).facts,
            *known_of(make_folder(tmp_path, team="works", chance=8)).facts,
        )
    )
    refused(make_folder(tmp_path, team=twin, chance=3), "names.plain", "work.team", known)


def test_an_address_with_a_name_in_front_is_refused(tmp_path: Path) -> None:
    url = "https://datacomp.ai@evil.example/paper"
    refused(make_folder(tmp_path, url=url), "form.claim", "work.url")


@pytest.mark.parametrize(
    "name",
    [
        "\ua4e0\ua4f3_\ua4dd\ua4f2\ua4e1\ua4d4\ua4f0\ua4e3",  # Lisu, the whole of it
        "n\u0e50_filter",  # Thai nought
        "n\u101d_filter",  # Myanmar wa
        "n\u25cb_filter",  # a circle
        "n\u2d54_filter",  # Tifinagh
        "no\u2212filter",  # a minus
        "no\u2043filter",
        "no\u30fbfilter",
        "no~filter",
        "no'filter",
        "(no_filter)",
        "no_fi\u01c0ter",  # a click
        "no_f\u2223lter",  # divides
        "no_filt\u212er",  # the sign of an estimate
        "\U0001f17do_filter",  # squared N
        "\U0001f1f3o_filter",  # half of a flag
        "no_filter\u0640",  # a joiner of Arabic
        "\u15c5o_filter",
    ],
)
def test_a_name_that_reads_as_a_baseline_is_refused_or_known(name: str) -> None:
    refused = name_fault(name) or mixed_alphabets(name)
    assert refused or looks_like(name, iter(["no_filter"])) == "no_filter"


@pytest.mark.parametrize(
    "name",
    [
        "C++ #1",
        "R&D",
        "100% CC",
        "DCLM\u6570\u636e",
        "\u03bcP",
        "\u0443\u0447\u0451\u043d\u044b\u0435",
        "\u05e6\u05d5\u05d5\u05ea 7",
        "\u0e17\u0e35\u0e21",
        "Llama-\u0939\u093f\u0928\u094d\u0926\u0940",
        "x\u00b2".replace("\u00b2", "2"),
        "\u1275\u121d",
        "\u10d2\u10e3\u10dc\u10d3\u10d8",
        "O\u2019Brien",
    ],
)
def test_names_of_common_alphabets_pass(name: str) -> None:
    assert name_fault(name) is None
    assert mixed_alphabets(name) is None
    assert looks_like(name, iter(["no_filter", "C", "RD", "100 CC", "mix"])) is None
