from __future__ import annotations

import numpy as np
import pytest

from evals import reports
from evals import run as running
from evals.models import TokenScores
from evals.reports import compare, describe, open_run, questions
from evals.run import run
from evals.suite import Aggregate, Suite
from evals.tasks import EvalError
from pipelines.records import RecordError
from tests.evals.helpers import FakeModel, make_task, write_rows

SUITE = Suite(
    name="one",
    version="1",
    benchmark="dclm",
    description="for tests",
    window=64,
    tasks=("copa",),
    aggregates=(Aggregate(name="all", how="centered_mean"),),
    headline="all",
)
GOLD = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]


class Ordered(FakeModel):
    """Takes the first option, or with a negative `step` the last."""

    step = 1.0

    def score(self, queries):
        return [
            [
                TokenScores(np.full(len(a), 9.0 + self.step * position, np.float32), a)
                for position, a in enumerate(query.continuations)
            ]
            for query in queries
        ]


class Last(Ordered):
    step = -1.0


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """One model that always takes the first option, one that always takes the last."""
    task = make_task("copa", file="copa.jsonl")
    monkeypatch.setattr(Suite, "load_tasks", lambda self: [task])
    monkeypatch.setattr(reports, "load_task", lambda name: task)
    rows = [{"query": f"q{i}", "choices": ["a", "b"], "gold": g} for i, g in enumerate(GOLD)]
    write_rows(tmp_path / "data/copa.jsonl", rows)
    monkeypatch.setattr(running, "CHUNK_ROWS", 3)
    for name, model in (("first", Ordered()), ("last", Last())):
        run(model, suite=SUITE, data=tmp_path / "data", out=tmp_path / name)
    return open_run(str(tmp_path / "first")), open_run(str(tmp_path / "last"))


def test_questions_answered_wrong_are_found(two_runs):
    assert [entry["row"] for entry in questions(two_runs[0], "copa")] == list(range(10))
    assert [entry["row"] for entry in questions(two_runs[0], "copa", wrong=True)] == [6, 7, 8, 9]


def test_an_unknown_task_is_named_with_the_known_ones(two_runs):
    with pytest.raises(EvalError, match="has no task 'boolq'; it has copa"):
        list(questions(two_runs[0], "boolq"))


def test_a_difference_is_paired_and_lists_what_flipped(two_runs):
    (differences,) = compare(*two_runs)
    assert (differences.first, differences.second) == (0.6, 0.4)
    assert differences.difference == pytest.approx(-0.2)
    assert differences.lost == (0, 1, 2, 3, 4, 5)
    assert differences.gained == (6, 7, 8, 9)
    # per item the difference is -1 or 1: its error is sqrt(1 - 0.04) / sqrt(10) = 0.31
    assert differences.stderr == pytest.approx(0.31, rel=0.1)
    assert differences.low < differences.difference < differences.high


def test_a_model_does_not_differ_from_itself(two_runs):
    (differences,) = compare(two_runs[0], two_runs[0])
    assert (differences.difference, differences.stderr, differences.low, differences.high) == (
        0,
        0,
        0,
        0,
    )


def test_runs_on_other_data_are_not_compared(two_runs, tmp_path):
    write_rows(tmp_path / "data/copa.jsonl", [{"query": "q", "choices": ["a", "b"], "gold": 0}] * 3)
    run(FakeModel(), suite=SUITE, data=tmp_path / "data", out=tmp_path / "other")
    with pytest.raises(EvalError, match="task copa has another definition or other data"):
        compare(two_runs[0], open_run(str(tmp_path / "other")))


def test_suite_versions_are_not_mixed(two_runs, tmp_path):
    newer = SUITE.model_copy(update={"version": "2"})
    run(FakeModel(), suite=newer, data=tmp_path / "data", out=tmp_path / "other")
    with pytest.raises(EvalError, match="their suite_version is '1' and '2'"):
        compare(two_runs[0], open_run(str(tmp_path / "other")))


def test_a_folder_without_a_record_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"holds no record\.json; finish the evaluation first"):
        open_run(str(tmp_path))


def test_a_question_is_described_as_a_person_would_read_it(two_runs):
    entry = next(questions(two_runs[1], "copa"))
    text = describe(entry, make_task("copa"), "q0", ("a", "b"))
    assert text.splitlines() == [
        "copa, row 0",
        "",
        "q0",
        "",
        " +   9.0000  a",
        "*    8.0000  b",
        "* chosen, + right; lower loss is chosen",
        "wrong",
    ]
