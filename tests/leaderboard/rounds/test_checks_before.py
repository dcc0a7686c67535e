"""What the board or the evaluation will refuse is refused before a round begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leaderboard import rules
from leaderboard.rounds.checks_before import check_eval_data, check_names
from leaderboard.rounds.workspace import open_round
from pipelines import installed
from pipelines.errors import RuleError
from pipelines.execution.executors import map_here
from pipelines.pipeline import Pipeline

OWN = replace(Pipeline.from_steps([{"word_count": {"min_words": 3}}]), name="mine")


@pytest.mark.parametrize(
    ("method", "team", "message"),
    [
        (None, "a\u202eb", r"--team .*U\+202E"),
        (None, "t" * 121, "--team .*at most 120 characters"),
        ("n\u043e_filter", "", "does not look like the baseline's 'no_filter'"),
        ("no_filter", "", "a name of your own: this is a baseline's"),
        ("No_Filter", "", "does not look like the baseline's 'no_filter'"),
        ("m\u0438ne", "", "one alphabet in a word"),
        ("", "", "expects a name"),
        (" mine", "", "no blanks at its ends"),
        ("m" * 121, "", "at most 120 characters"),
    ],
)
def test_a_name_that_the_board_refuses_is_refused(
    method: str | None, team: str, message: str
) -> None:
    with pytest.raises(RuleError, match=message):
        check_names("dclm", [OWN], method=method, team=team)


def test_own_names_and_the_baselines_themselves_pass() -> None:
    baseline = Pipeline.load(installed.folder("dclm") / "baselines" / "c4.yaml")
    check_names("dclm", [OWN, baseline], method=None, team="équipe 日本")
    check_names("dclm", [OWN], method="mine, but better", team="")


@pytest.mark.parametrize("name", ["dclm", "datacomp"])
def test_every_baseline_keeps_its_own_name(name: str) -> None:
    for baseline in rules.baselines(name):
        pipeline = Pipeline.load(installed.folder(name) / "baselines" / f"{baseline}.yaml")
        check_names(name, [pipeline], method=None, team="")


def test_two_pipelines_of_one_name_are_refused() -> None:
    with pytest.raises(RuleError, match="two of the pipelines are called 'mine'"):
        check_names("dclm", [OWN, OWN], method=None, team="")


@pytest.mark.parametrize(("suite", "number"), [("core", r"\d+"), ("tiny", "3")])
def test_data_that_is_not_there_is_named_before_a_model_is_trained(
    tmp_path: Path, suite: str, number: str
) -> None:
    message = rf"lacks the data of {number} tasks of suite {suite} .*evals fetch"
    with pytest.raises(RuleError, match=message):
        check_eval_data("dclm", suite, str(tmp_path / "nowhere"), built=True)
    check_eval_data("dclm", suite, "hub", built=True)
    check_eval_data("dclm", suite, "s3://bucket/data", built=True)


def test_data_that_a_pool_builds_is_not_looked_for_before_it_is_built(tmp_path: Path) -> None:
    check_eval_data("dclm", "tiny", str(tmp_path), built=False)


def test_a_workspace_that_can_only_be_read_is_refused() -> None:
    with pytest.raises(RuleError, match="hf://datasets/a/b can only be read"):
        open_round("dclm", "tiny", workspace="hf://datasets/a/b", map_tasks=map_here)
