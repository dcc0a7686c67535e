"""The whole extended suite on made-up data, against aggregates worked out from the data alone."""

from __future__ import annotations

import csv
from collections import defaultdict

import orjson
import pytest

from evals.data_check import check_data
from evals.run import run
from evals.suite import load_suite
from evals.tasks import EvalError, load_task
from evals.text.synthetic import write_synthetic
from tests.evals.helpers import FakeModel, make_task


def test_made_up_data_has_the_form_and_the_rows_of_each_kind(tmp_path):
    tasks = [
        load_task(name).model_copy(update={"rows": 30})
        for name in ("mmlu_fewshot", "hellaswag", "squad", "bbq", "winograd", "triviaqa_sm_sub")
    ]
    written = write_synthetic(tasks, tmp_path, seed=1)
    assert len(written) == 6
    for task in tasks:
        assert {f.level for f in check_data(task, tmp_path)} <= {"warning", "note"}
    again = write_synthetic(tasks, tmp_path / "again", seed=1)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written]


def test_data_that_is_there_is_left_alone(tmp_path):
    task = load_task("copa")
    path = tmp_path / task.file
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert write_synthetic([task], tmp_path, seed=1) == []
    assert path.read_text() == "mine"


def test_a_task_without_a_row_count_is_named(tmp_path):
    with pytest.raises(EvalError, match="task t does not say how many rows"):
        write_synthetic([make_task()], tmp_path, seed=1)


def accuracy_by_hand(task, rows):
    """What FakeModel scores: a guess among its equal options, even ids, "4" to everything."""
    by_category = defaultdict(list)
    for row in rows:
        if "gold" in row:
            if "choices" in row:  # an answer gets a leading blank, a beginning does not
                texts = [f" {option}" for option in row["choices"]]
            else:
                texts = row["context_options"]
            ids = [FakeModel().tokenise([text])[0][0] for text in texts]
            first = ids.index(ids[row["gold"]])  # equal ids are one option, the first of them
            right = (first == row["gold"]) / len(set(ids))
        elif "answer" in row:
            labels = {row["answer"].strip().lower(), *map(str.lower, row.get("aliases", []))}
            right = bool(labels & {"4", "", "a", "the"})
        else:
            text = row["continuation"].strip()
            right = FakeModel().tokenise([f" {text}"])[0][0] % 2 == 0
        by_category[row.get("category") if task.by_category else ""].append(right)
    return sum(sum(v) / len(v) for v in by_category.values()) / len(by_category)


@pytest.mark.slow
@pytest.mark.parity
def test_the_extended_suite_runs_over_all_53_tasks(fixtures, tmp_path):
    folder = fixtures / "dclm-eval"
    suite = load_suite("extended")
    data = tmp_path / "data"
    for path in (folder / "local_data").rglob("*.jsonl"):
        target = data / path.relative_to(folder / "local_data")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    tasks = suite.load_tasks()
    there = {task.name for task in tasks if (data / task.file).is_file()}
    write_synthetic(tasks, data, seed=1)
    record = run(FakeModel(), suite=suite, data=data, out=tmp_path / "out")
    assert len(record.results.tasks) == 53
    assert {ref.name for ref in record.work.tasks if ref.verified} == there

    table = csv.DictReader((folder / "aggregation/eval_meta_data.csv").open())
    guesses = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in table}
    centered = {}
    for task, score in zip(tasks, record.results.tasks, strict=True):
        rows = [orjson.loads(line) for line in (data / task.file).read_bytes().splitlines()]
        assert score.num_items == len(rows)
        if task.kind != "generation":
            assert score.value == pytest.approx(accuracy_by_hand(task, rows), abs=1e-12)
        centered[task.name] = (score.value - guesses[task.name]) / (1 - guesses[task.name])
    groups = orjson.loads((folder / "aggregation/additional_aggregation.json").read_bytes())
    core = groups["low_variance_datasets"]
    aggregates = record.results.aggregates
    assert aggregates["extended_v2"].value == pytest.approx(sum(centered.values()) / 53, abs=1e-9)
    assert aggregates["core_v2"].value == pytest.approx(
        sum(centered[n] for n in core) / 22, abs=1e-9
    )
