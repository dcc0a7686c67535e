from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from evals import run as running
from evals.run import read_log, run
from evals.suite import Aggregate, Suite
from pipelines.errors import DataError
from pipelines.records import parse_record
from pipelines.storage.open import open_store
from tests.evals.helpers import FakeModel, make_task, write_rows

SUITE = Suite(
    name="two",
    version="3",
    benchmark="dclm",
    description="for tests",
    window=64,
    tasks=("copa", "boolq"),
    aggregates=(Aggregate(name="both", how="centered_mean"),),
    headline="both",
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two small tasks under the names of real ones, and chunks of four questions."""
    tasks = [make_task("copa", file="copa.jsonl"), make_task("boolq", file="boolq.jsonl", shots=1)]
    monkeypatch.setattr(Suite, "load_tasks", lambda self: tasks)
    monkeypatch.setattr(running, "CHUNK_ROWS", 4)
    for task in tasks:
        rows = [{"query": f"q{i}", "choices": ["a", "b"], "gold": int(i >= 6)} for i in range(10)]
        write_rows(tmp_path / "data" / task.file, rows)
    return tmp_path / "data"


def test_the_record_says_what_was_measured(data, tmp_path):
    record = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "out")
    assert record.parents == {"model": "f" * 32}
    assert (record.work.suite, record.work.suite_version) == ("two", "3")
    assert [(ref.name, ref.verified) for ref in record.work.tasks] == [
        ("copa", False),
        ("boolq", False),
    ]
    # the fake tells two equal options not apart: that earns half, though the first is right in 6
    assert [score.value for score in record.results.tasks] == [0.5, 0.5]
    assert [score.stderr for score in record.results.tasks] == [0, 0]
    assert record.results.aggregates["both"].value == pytest.approx(0.5)
    assert record.counts == {
        "questions": 20,
        "questions_with_duplicated_options": 0,
        "checked_distributions": 0,  # the fake cannot show any
    }
    stored = (tmp_path / "out/record.json").read_bytes()
    assert parse_record(stored, source="record") == record


def test_the_log_is_an_output_of_the_record(data, tmp_path):
    record = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "out")
    names = [f.name for f in record.outputs if f.name.startswith("logs/copa/")]
    log = read_log(open_store(tmp_path / "out"), names)
    assert log["row"].to_pylist() == list(range(10))
    assert log["correct"].to_pylist() == [True] * 6 + [False] * 4
    assert sum(f.num_rows for f in record.outputs) == 20


def test_a_finished_run_is_not_asked_again(data, tmp_path):
    first, second = FakeModel(), FakeModel()
    left = run(first, suite=SUITE, data=data, out=tmp_path / "out")
    assert run(second, suite=SUITE, data=data, out=tmp_path / "out") == left
    # ten questions of two tasks, each behind another context and with its options rotated too
    assert (first.num_questions, second.num_questions) == (20 + 40, 0)


def test_an_interrupted_run_continues_at_the_chunk_where_it_stopped(data, tmp_path):
    class Dying(FakeModel):
        def score(self, queries):
            if self.num_questions >= 8:
                raise KeyboardInterrupt
            return super().score(queries)

    with pytest.raises(KeyboardInterrupt):
        run(Dying(), suite=SUITE, data=data, out=tmp_path / "out")
    model = FakeModel()
    record = run(model, suite=SUITE, data=data, out=tmp_path / "out")
    assert model.num_questions == 12 + 40  # what was left, and the controls
    whole = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "other")
    assert record.id == whole.id


def test_the_record_does_not_depend_on_order_or_workers(data, tmp_path):
    def backwards(function, items):
        return [function(item) for item in reversed(items)][::-1]

    def threads(function, items):
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(function, items))

    plain = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "plain")
    for name, map_tasks in (("backwards", backwards), ("threads", threads)):
        other = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / name, map_tasks=map_tasks)
        assert other.id == plain.id


def test_missing_data_stops_the_run_before_the_first_question(data, tmp_path):
    (data / "boolq.jsonl").unlink()
    model = FakeModel()
    with pytest.raises(DataError, match="task boolq: there is no file"):
        run(model, suite=SUITE, data=data, out=tmp_path / "out")
    assert model.num_questions == 0


def test_a_folder_with_other_scores_is_refused(data, tmp_path):
    run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "out")
    other = FakeModel()
    other.id = "e" * 32
    with pytest.raises(ValueError, match="holds the scores of another model"):
        run(other, suite=SUITE, data=data, out=tmp_path / "out")


def test_a_model_with_a_short_context_is_refused(data, tmp_path):
    model = FakeModel()
    model.max_length = 32
    with pytest.raises(ValueError, match="takes at most 32"):
        run(model, suite=SUITE, data=data, out=tmp_path / "out")


def test_changed_data_makes_another_key(data, tmp_path):
    first = run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "one")
    write_rows(data / "copa.jsonl", [{"query": "q", "choices": ["a", "b"], "gold": 0}])
    assert run(FakeModel(), suite=SUITE, data=data, out=tmp_path / "two").key != first.key


def test_an_optional_task_without_data_is_left_out_and_said_so(tmp_path, monkeypatch):
    tasks = {name: make_task(name, file=f"{name}.jsonl") for name in ("copa", "boolq")}
    monkeypatch.setattr("evals.suite.load_task", tasks.__getitem__)
    suite = Suite.model_validate(
        SUITE.model_dump()
        | {
            "optional": ["boolq"],
            "aggregates": [
                {"name": "main", "how": "centered_mean", "tasks": ["copa"]},
                {"name": "beside", "how": "task", "tasks": ["boolq"]},
            ],
            "headline": "main",
        }
    )
    said = []
    monkeypatch.setattr(running, "say", said.append)
    rows = [{"query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(4)]
    write_rows(tmp_path / "data" / "copa.jsonl", rows)
    record = run(FakeModel(), suite=suite, data=tmp_path / "data", out=tmp_path / "out")
    assert [ref.name for ref in record.work.tasks] == ["copa"]
    assert list(record.results.aggregates) == ["main"]
    assert [line.split(":")[0] for line in said] == ["boolq is left out"]
    assert "optional" not in record.work.parameters["suite"]
    (tmp_path / "data" / "copa.jsonl").unlink()
    with pytest.raises(DataError, match="copa"):
        run(FakeModel(), suite=suite, data=tmp_path / "data", out=tmp_path / "other")
