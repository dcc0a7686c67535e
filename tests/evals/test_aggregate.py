from __future__ import annotations

import numpy as np
import pytest

from evals.aggregate import aggregate_suite
from evals.suite import Aggregate, Suite
from pipelines.records import TaskScore

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


def test_guessing_is_nought_however_high_its_accuracy_is():
    """boolq's majority class is right in 62 of 100: it lifts no centered mean."""
    draws = {"copa": np.array([0.5, 0.5]), "boolq": np.array([0.62, 0.62])}
    ours = aggregate_suite(SUITE, [score("copa", 0.5), score("boolq", 0.62)], draws)
    assert ours["both"].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_reaches_no_aggregate(value):
    with pytest.raises(ValueError, match="finite"):
        score("copa", value)
