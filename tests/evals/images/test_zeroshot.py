"""Figures over images: equal to the reference's, and to sums done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from datacomp.results import aggregate_results, datacomp_tasks, read_results
from evals.images.image_metrics import jaccard, ranks
from evals.images.zeroshot import cue_prompt, log_of_logits
from evals.kinds import kind_of
from evals.metrics import bootstrap, score_of
from evals.suite import load_suite
from evals.tasks import EvalError, Task, load_task
from pipelines.errors import DataError


def recorded(fixtures: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], Path]:
    folder = fixtures / "datacomp" / "metrics"
    if not folder.is_dir():
        pytest.skip(f"no recorded results in {folder}")
    with np.load(folder / "inputs.npz") as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    return json.loads((folder / "expected.json").read_bytes()), inputs, folder  # it has NaN


def equal(actual: dict[str, float | None], expected: dict[str, Any]) -> None:
    """Every recorded figure within 1e-6; the reference's NaN is a None here."""
    for name, value in expected.items():
        if value is None or np.isnan(value):
            assert actual[name] is None, name
        else:
            assert actual[name] == pytest.approx(value, abs=1e-6), name


def log_of(gold: np.ndarray, predicted: np.ndarray, metadata: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "row": np.arange(len(gold)),
            "gold": gold,
            "predicted": predicted,
            "in_top5": gold == predicted,
            "correct": gold == predicted,
            "metadata": list(metadata.astype(np.int64)),
        }
    )


@pytest.mark.parity
def test_classification_equals_the_reference(fixtures: Path) -> None:
    expected, inputs, _ = recorded(fixtures)
    task = load_task("cifar10")
    names = [name.removesuffix(".logits") for name in inputs if name.startswith("cls")]
    names = sorted({name.removesuffix(".target") for name in names})
    assert names
    for name in names:
        logits, target = inputs[f"{name}.logits"], inputs[f"{name}.target"]
        sized = task.model_copy(update={"classes": logits.shape[1]})
        keys = [""] * len(target)
        log = log_of_logits(logits, target, np.zeros((len(target), 0), np.int64), keys)
        metrics = kind_of(task).metrics(sized, log)
        equal(metrics, expected[name])
        for metric in ("acc1", "mean_per_class_recall"):
            tally = kind_of(task).tally(sized.model_copy(update={"metric": metric}), log)
            assert score_of(tally) == pytest.approx(metrics[metric], abs=1e-12)


@pytest.mark.parity
def test_groups_equal_the_reference(fixtures: Path) -> None:
    expected, inputs, _ = recorded(fixtures)
    for name in ("iwildcam", "camelyon17", "fmow", "geode"):
        task = load_task(name)
        gold, predicted = inputs[f"{name}.target"], inputs[f"{name}.pred"]
        log = log_of(gold, predicted, inputs[f"{name}.metadata"])
        metrics = kind_of(task).metrics(task, log)
        equal(metrics, expected[name])
        assert score_of(kind_of(task).tally(task, log)) == pytest.approx(metrics[task.metric])


@pytest.mark.parity
def test_top_five_by_income_equals_the_reference(fixtures: Path) -> None:
    expected, inputs, _ = recorded(fixtures)
    task = load_task("dollar_street")
    gold = inputs["dollar_street.target"]
    metadata = inputs["dollar_street.metadata"].astype(np.int64)
    log = log_of_logits(inputs["dollar_street.logits"], gold, metadata, [""] * len(gold))
    metrics = kind_of(task).metrics(task, log)
    equal(metrics, expected["dollar_street"])
    assert score_of(kind_of(task).tally(task, log)) == pytest.approx(metrics[task.metric])


@pytest.mark.parity
def test_attributes_equal_the_reference(fixtures: Path) -> None:
    expected, inputs, _ = recorded(fixtures)
    task = load_task("fairface")
    predicted = inputs["fairface.pred"]
    columns = {
        f"predicted_{name}": predicted[:, position]
        for position, name in enumerate(("race", "gender", "age", "toxic"))
    }
    log = pa.table({"metadata": list(inputs["fairface.metadata"].astype(np.int64)), **columns})
    metrics = kind_of(task).metrics(task, log)
    equal(metrics, expected["fairface"])
    assert set(metrics) == set(expected["fairface"])


@pytest.mark.parity
def test_retrieval_equals_the_reference(fixtures: Path) -> None:
    expected, inputs, _ = recorded(fixtures)
    task = load_task("flickr_1k")
    names = sorted({name.split(".")[0] for name in inputs if name.startswith("retr")})
    assert names
    for name in names:
        owner = inputs[f"{name}.text_image_index"].astype(np.int64)
        log = ranks(inputs[f"{name}.image_emb"], inputs[f"{name}.text_emb"], owner)
        metrics = kind_of(task).metrics(task, log)
        equal(metrics, expected[name])
        tally = kind_of(task).tally(task, log)
        assert score_of(tally) == pytest.approx(metrics["mean_recall@1"], abs=1e-12)


@pytest.mark.parity
def test_association_equals_the_reference(fixtures: Path) -> None:
    expected, _, folder = recorded(fixtures)
    instances = orjson.loads((folder / "winogavil_instances.json").read_bytes())
    rows = []
    for instance in instances:
        logits = np.array(instance["logits"], np.float32)
        truth = np.array(instance["y"], bool)
        rows.append({"candidates": len(truth), "jaccard": jaccard(logits, truth)})
    task = load_task("winogavil")
    log = pa.Table.from_pylist(rows)
    metrics = kind_of(task).metrics(task, log)
    equal(metrics, expected["winogavil"])
    assert score_of(kind_of(task).tally(task, log)) == pytest.approx(metrics[task.metric])
    for cue, prompt in expected["winogavil_prompts"].items():
        assert cue_prompt(cue) == prompt


@pytest.mark.parity
def test_the_columns_equal_the_reference(fixtures: Path) -> None:
    expected, _, folder = recorded(fixtures)
    results = read_results((folder / "eval_results.jsonl").read_bytes(), source="results")
    main = {key: metrics["main_metric"] for key, metrics in results.items()}
    averages = aggregate_results(main)
    assert averages == pytest.approx(expected["aggregate"], abs=1e-9)


# ---- by hand


def test_the_suite_has_forty_datasets_and_thirty_eight_count() -> None:
    suite = load_suite("datacomp/full")
    groups = {a.name: len(suite.members(a)) for a in suite.aggregates}
    assert len(suite.tasks) == 40
    assert groups == {"average": 38, "imagenet": 1, "shifts": 6, "vtab": 13, "retrieval": 3}
    assert set(suite.tasks) == {task.name for task in datacomp_tasks().values()}


def test_no_average_when_one_is_missing() -> None:
    main = dict.fromkeys(datacomp_tasks(), 0.5)
    assert aggregate_results(main)["Average"] == 0.5
    del main["vtab/dtd"]
    with pytest.raises(EvalError, match=r"VTAB is over 13 .* 1 have no result: vtab/dtd"):
        aggregate_results(main)


def test_a_result_that_stands_twice_is_refused() -> None:
    line = b'{"key": "mnist", "dataset": "MNIST", "metrics": {"main_metric": 0.1}}\n'
    with pytest.raises(DataError, match="line 2: mnist is there twice"):
        read_results(line * 2, source="r.jsonl")


def test_a_group_without_members_has_no_mean_and_is_never_the_worst() -> None:
    task = load_task("geode")
    gold = np.array([0, 0, 1, 1])
    predicted = np.array([0, 1, 1, 1])
    metadata = np.array([[0, 0], [0, 0], [2, 0], [2, 0]])
    metrics = kind_of(task).metrics(task, log_of(gold, predicted, metadata))
    assert metrics["acc_region:1"] is None
    assert metrics["count_region:1"] == 0
    assert (metrics["acc_region:0"], metrics["acc_region:2"], metrics["acc_wg"]) == (0.5, 1.0, 0.5)


def test_fmow_tells_the_worst_region_without_the_remainder_too() -> None:
    task = load_task("fmow")
    gold = np.zeros(6, np.int64)
    predicted = np.array([0, 0, 1, 0, 1, 1])
    metadata = np.array([[0, 1, 0], [0, 1, 0], [0, 2, 0], [0, 2, 0], [5, 2, 0], [5, 1, 0]])
    metrics = kind_of(task).metrics(task, log_of(gold, predicted, metadata))
    assert metrics["acc_worst_region"] == 0.0
    assert metrics["acc_worst_region_without_other"] == 0.75
    assert metrics["count_region:5"] == 2.0


def test_the_error_of_a_worst_group_is_drawn_within_groups() -> None:
    task = load_task("geode")
    rng = np.random.default_rng(0)
    gold = np.zeros(400, np.int64)
    predicted = (rng.random(400) < 0.5).astype(np.int64)
    metadata = np.stack([np.arange(400) % 2, np.zeros(400)], axis=1)
    tally = kind_of(task).tally(task, log_of(gold, predicted, metadata))
    draws = bootstrap(tally, seed=1)
    alone = [float(np.mean(predicted[np.arange(400) % 2 == group] == 0)) for group in (0, 1)]
    assert score_of(tally) == min(alone)
    assert draws.max() < max(alone) + 4 * 0.036
    assert 0.01 < draws.std() < 0.06


def test_ranks_by_hand() -> None:
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[1, 0.1], [0.9, 0.5], [1, 0.2]], np.float32)
    log = ranks(images, texts, np.array([0, 0, 1]))
    assert log["side"].to_pylist() == ["text"] * 3 + ["image"] * 2
    # The third text is nearer to the first image; the second image nearer to the second text.
    assert log["rank"].to_pylist() == [0, 0, 1, 0, 1]
    assert log["predicted"].to_pylist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("name", sorted(t.name for t in datacomp_tasks().values()))
def test_every_task_says_what_its_groups_are(name: str) -> None:
    task: Task = load_task(name)
    assert set(task.group_by) <= set(task.metadata)
    assert task.title
    assert task.file.startswith("wds_")
    assert task.rows
