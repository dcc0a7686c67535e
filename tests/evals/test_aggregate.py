from __future__ import annotations

import ast

import numpy as np
import orjson
import pytest

from evals.aggregate import aggregate, aggregate_suite, dclm_tasks
from evals.suite import Aggregate, Suite
from pipelines.records import TaskScore
from tests.evals.helpers import over_recorded

NAMES = {
    "rw_small": "rw_small",
    "ci95_above": "95%_CI_above",
    "ci99_above": "99%_CI_above",
    "core": "low_variance_datasets",
}


def pytest_generate_tests(metafunc):
    over_recorded(metafunc, "eval_file", "aggregation/inputs/*.json")


@pytest.mark.parity
def test_aggregates_equal_the_recorded_ones(eval_file):
    icl = orjson.loads(eval_file.read_bytes())["eval_metrics"]["icl"]
    recorded = orjson.loads((eval_file.parent.parent / "expected.json").read_bytes())
    for version in ("v1", "v2"):
        ours, theirs = aggregate(icl, version), recorded[eval_file.name][version]

        def close(value):
            return pytest.approx(value, abs=1e-9, rel=0)

        for value, name in ((ours.core, "Core"), (ours.extended, "Extended")):
            wanted = theirs[f"{name}_{version}"]
            assert value is None if isinstance(wanted, str) else value == close(wanted)
        missing = ast.literal_eval(theirs["missing tasks"])
        assert sorted(ours.missing_extended) == sorted(missing)
        assert ours.mean == close(theirs["aggregated_results"])
        assert ours.centered_mean == close(theirs["aggregated_centered_results"])
        assert ours.categories == close(theirs["aggregated_task_categories_centered"])
        for group, name in NAMES.items():
            assert ours.groups[group] == close(theirs[name])
            assert ours.centered_groups[group] == close(theirs[f"{name}_centered"])


def perfect():
    return dict.fromkeys(dclm_tasks(), 1.0)


def test_a_perfect_model_scores_one():
    ours = aggregate(perfect(), "v2")
    assert (ours.core, ours.extended) == (1.0, 1.0)


def test_guessing_scores_zero_in_its_own_version_only():
    for version, other in (("v1", "v2"), ("v2", "v1")):
        guessing = {n: getattr(t.random_baseline, version) for n, t in dclm_tasks().items()}
        assert aggregate(guessing, version).extended == pytest.approx(0, abs=1e-12)
        assert aggregate(guessing, other).extended != pytest.approx(0, abs=1e-3)


def test_core_does_not_need_mmlu():
    without = perfect()
    del without["mmlu_fewshot"]
    ours = aggregate(without)
    assert ours.core == 1.0
    assert ours.extended is None
    assert ours.missing_extended == ("mmlu_fewshot",)


def test_a_missing_task_leaves_no_headline():
    without = perfect()
    del without["copa"]
    ours = aggregate(without)
    assert ours.core is None
    assert ours.missing_core == ("copa",)


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match="unknown version 'v3'"):
        aggregate(perfect(), "v3")


def test_scores_of_no_known_task_are_refused():
    with pytest.raises(ValueError, match="none of the scores"):
        aggregate({"gsm8k": 0.5})


SUITE = Suite(
    name="s",
    version="1",
    benchmark="dclm",
    description="two tasks",
    tasks=("copa", "boolq"),
    aggregates=(
        Aggregate(name="both", how="centered_mean"),
        Aggregate(name="one", how="task", tasks=("copa",)),
    ),
    headline="both",
)


def score(task, value):
    return TaskScore(
        task=task, metric="accuracy", value=value, stderr=0.1, num_items=5, higher_is_better=True
    )


def test_suite_aggregates_by_hand():
    draws = {"copa": np.array([0.5, 1.0]), "boolq": np.array([0.62, 1.0])}
    ours = aggregate_suite(SUITE, [score("copa", 0.75), score("boolq", 0.81)], draws)
    # copa: (0.75 - 0.5) / 0.5 = 0.5; boolq: (0.81 - 0.62) / 0.38 = 0.5
    assert ours["both"].value == pytest.approx(0.5)
    assert ours["both"].stderr == pytest.approx(np.std([0, 1], ddof=1))
    assert ours["both"].num_items == 10
    assert (ours["one"].value, ours["one"].stderr) == (0.75, 0.1)


def test_a_suite_with_a_missing_score_has_no_headline():
    with pytest.raises(ValueError, match="no headline: there is no score for boolq"):
        aggregate_suite(SUITE, [score("copa", 1.0)], {"copa": np.array([1.0, 1.0])})
