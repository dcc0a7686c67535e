from __future__ import annotations

import ast

import orjson
import pytest

from dclm.results import aggregate, dclm_tasks, read_dclm, to_dclm
from evals.tasks import EvalError
from pipelines.records import (
    Score,
    ScoresRecord,
    ScoresResults,
    ScoresWork,
    TaskScore,
    made_by,
    now,
)
from tests.evals.helpers import over_recorded


def pytest_generate_tests(metafunc):
    over_recorded(metafunc, "eval_file", "aggregation/evals/*.json")
    over_recorded(metafunc, "input_file", "aggregation/inputs/*.json")


def record(icl):
    scores = tuple(
        TaskScore(task=t, metric="accuracy", value=v, num_items=9, higher_is_better=True)
        for t, v in icl.items()
    )
    headline = Score(metric="m", value=0.0, num_items=1, higher_is_better=True)
    return ScoresRecord.seal(
        work=ScoresWork(benchmark="dclm", suite="extended", suite_version="2", tasks=()),
        parents={"model": "ab" * 16},
        made_by=made_by(now()),
        results=ScoresResults(tasks=scores, aggregates={"extended_v2": headline}),
    )


def test_what_is_written_is_read_back():
    icl = dict.fromkeys(dclm_tasks(), 0.5)
    written = to_dclm(record(icl), model="mine")
    read = read_dclm(orjson.dumps(written), source="memory")
    assert (read.icl, read.model, read.name) == (icl, "mine", "eval/extended")
    assert read.model_uuid == "abababab-abab-abab-abab-abababababab"
    assert written["missing tasks"] == "[]"
    assert written["Core"] == written["Core_v2"] == written["low_variance_datasets_centered"]


def test_a_missing_task_is_said_in_the_reference_words():
    icl = {n: 0.5 for n in dclm_tasks() if n not in ("gpqa_main", "copa")}
    written = to_dclm(record(icl), model="mine")
    assert written["missing tasks"] == "['copa', 'gpqa_main']"
    assert written["Extended"] == "N/A due to missing tasks: ['copa', 'gpqa_main']"
    assert written["Core"] == "N/A due to missing tasks: ['copa']"


def test_a_record_without_dclm_tasks_cannot_be_written():
    with pytest.raises(EvalError, match="none of the scores"):
        to_dclm(record({"heldout_ending": 0.5}), model="mine")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is not an evaluation file"),
        (b"[]", "is not an evaluation file"),
        (b'{"eval_metrics": {}}', "'icl'"),
        (
            b'{"name": "n", "uuid": "u", "model": "m", "eval_metrics": {"icl": {"copa": 60}}}',
            "the score of copa is 60.0, not an accuracy",
        ),
    ],
)
def test_what_is_not_an_evaluation_file_is_named(data, message):
    with pytest.raises(EvalError, match=f"x.json.*{message}"):
        read_dclm(data, source="x.json")


@pytest.mark.parity
def test_recorded_files_are_read_and_written_again_with_equal_figures(eval_file):
    theirs = orjson.loads(eval_file.read_bytes())
    read = read_dclm(eval_file.read_bytes(), source=eval_file.name)
    assert read.icl == theirs["eval_metrics"]["icl"]
    ours = to_dclm(record(read.icl), model=read.model)
    expected = orjson.loads((eval_file.parent.parent / "expected.json").read_bytes())
    for version in ("v1", "v2"):
        for name in (f"Core_{version}", f"Extended_{version}"):
            needed = expected[eval_file.name][version][name]
            assert ours[name] == (
                needed if isinstance(needed, str) else pytest.approx(needed, abs=1e-9, rel=0)
            )
    latest = expected[eval_file.name]["v2"]
    assert ours["missing tasks"] == latest["missing tasks"]
    assert ast.literal_eval(ours["missing tasks"]) == ast.literal_eval(latest["missing tasks"])
    for name in set(latest) & set(ours):
        if isinstance(latest[name], float):
            assert ours[name] == pytest.approx(latest[name], abs=1e-9, rel=0), name


# ---- aggregates

NAMES = {
    "rw_small": "rw_small",
    "ci95_above": "95%_CI_above",
    "ci99_above": "99%_CI_above",
    "core": "low_variance_datasets",
}


@pytest.mark.parity
def test_aggregates_equal_the_recorded_ones(input_file):
    icl = orjson.loads(input_file.read_bytes())["eval_metrics"]["icl"]
    recorded = orjson.loads((input_file.parent.parent / "expected.json").read_bytes())
    for version in ("v1", "v2"):
        ours, theirs = aggregate(icl, version), recorded[input_file.name][version]

        def close(value):
            return pytest.approx(value, abs=1e-9, rel=0)

        for value, name in ((ours.core, "Core"), (ours.extended, "Extended")):
            expected = theirs[f"{name}_{version}"]
            assert value is None if isinstance(expected, str) else value == close(expected)
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
