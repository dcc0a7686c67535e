from __future__ import annotations

import re
import zipfile

import orjson
import pytest

from evals.data_check import check_data
from evals.kinds import KINDS, kind_of, read_data
from evals.suite import load_suite
from evals.tasks import EvalError, load_task, parse_task, task_names
from pipelines.errors import DataError
from tests.evals.helpers import make_task, write_rows

GOOD = {"query": "q", "choices": ["a", "b"], "gold": 1}


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("multiple_choice", GOOD | {"gold": 2}, "field 'gold' is 2, but the row has 2 options"),
        ("multiple_choice", GOOD | {"gold": -1}, "field 'gold' is -1"),
        ("multiple_choice", GOOD | {"gold": "1"}, "field 'gold' should be an index"),
        ("multiple_choice", GOOD | {"choices": ["a", " "]}, "an empty text at position 1"),
        ("multiple_choice", GOOD | {"choices": ["a"]}, "a choice needs at least two"),
        ("multiple_choice", GOOD | {"choices": "ab"}, "field 'choices' should be a list of texts"),
        ("multiple_choice", {"choices": ["a", "b"], "gold": 0}, "'query' should be a text"),
        ("language_modeling", {"context": "c", "continuation": " "}, "'continuation' is empty"),
        ("generation", {"context": "c", "answer": None}, "'answer' should be a text"),
        ("schema", {"context_options": ["a", "b"], "gold": 0}, "'continuation' should be a text"),
        ("perplexity", {"text": ""}, "'text' is empty"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, kind, row, message):
    good = {
        "multiple_choice": GOOD,
        "language_modeling": {"context": "c", "continuation": "x"},
        "generation": {"context": "c", "answer": "x"},
        "schema": {"context_options": ["a", "b"], "continuation": "x", "gold": 0},
        "perplexity": {"text": "x"},
    }[kind]
    write_rows(tmp_path / "t.jsonl", [good, row])
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_data(make_task(kind=kind), tmp_path)
    assert "task t: " in str(caught.value)
    assert "row 1" in str(caught.value)


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text(orjson.dumps(GOOD).decode() + '\n{"query": \n')
    with pytest.raises(DataError, match="row 1: not JSON"):
        read_data(make_task(), tmp_path)


def test_a_missing_category_is_named(tmp_path):
    write_rows(tmp_path / "t.jsonl", [GOOD])
    with pytest.raises(DataError, match="'category' should be a text, found nothing"):
        read_data(make_task(by_category=True), tmp_path)


def test_another_number_of_rows_is_refused(tmp_path):
    write_rows(tmp_path / "t.jsonl", [GOOD, GOOD])
    with pytest.raises(DataError, match="has 2 rows, but the task says 3"):
        read_data(make_task(rows=3), tmp_path)


def test_missing_data_names_the_task_and_the_way_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"task t: there is no file .*t\.jsonl\. Ask Bob\."):
        read_data(make_task(source="Ask Bob."), tmp_path)


def test_texts_are_stripped_and_lists_are_not(tmp_path):
    write_rows(tmp_path / "t.jsonl", [{"query": " q \n", "choices": [" a", "b "], "gold": 0}])
    (item,) = read_data(make_task(), tmp_path).items
    assert (item.context, item.options) == ("q", (" a", "b "))


def test_only_the_recorded_bytes_are_verified(tmp_path):
    write_rows(tmp_path / "t.jsonl", [GOOD])
    checksum = read_data(make_task(), tmp_path).sha256
    assert not read_data(make_task(), tmp_path).verified
    assert read_data(make_task(sha256=checksum), tmp_path).verified
    assert not read_data(make_task(sha256="0" * 64), tmp_path).verified


def test_built_data_is_verified_by_the_list_beside_it(tmp_path):
    write_rows(tmp_path / "t.jsonl", [GOOD])
    checksum = read_data(make_task(), tmp_path).sha256
    (tmp_path / "built.json").write_bytes(orjson.dumps({"files": {"t.jsonl": checksum}}))
    assert read_data(make_task(built=True), tmp_path).verified
    write_rows(tmp_path / "t.jsonl", [GOOD, GOOD])
    assert not read_data(make_task(built=True), tmp_path).verified


def test_oddities_are_noted(tmp_path):
    write_rows(tmp_path / "t.jsonl", [GOOD, GOOD, GOOD | {"choices": ["a", "a"]}])
    notes = [
        finding.message for finding in check_data(make_task(), tmp_path) if finding.level == "note"
    ]
    assert notes == [
        "1 rows have duplicated options (first: row 2)",
        "the right answer is option 1 in every row: a model that ties wins",
        "1 rows repeat an earlier row",
    ]


def test_an_unknown_task_is_answered_with_near_names():
    with pytest.raises(ValueError, match=r"'arc'; did you mean arc_challenge, .*arc_easy"):
        load_task("arc")


def test_every_task_file_is_valid():
    for name in task_names():
        assert load_task(name).name == name


def test_every_suite_is_valid():
    for name, size in (
        ("dclm/tiny", 3),
        ("light", 2),
        ("medium", 12),
        ("core", 23),
        ("extended", 53),
    ):
        suite = load_suite(name)
        assert len(suite.tasks) == size
        assert suite.headline in {aggregate.name for aggregate in suite.aggregates}


def test_core_has_22_tasks_and_mmlu_is_beside_it():
    core = load_suite("core")
    members = {a.name: [task.name for task in core.members(a)] for a in core.aggregates}
    assert len(members["core_v2"]) == 22
    assert "mmlu_fewshot" not in members["core_v2"]
    assert members["mmlu"] == ["mmlu_fewshot"]


def test_an_unknown_suite_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"suite 'hard' is unknown; choose one of .*dclm/core"):
        load_suite("hard")


@pytest.mark.parity
def test_tasks_and_suites_are_the_recorded_ones(fixtures):
    path = fixtures / "dclm-eval/aggregation/tasks_and_suites.json"
    recorded = orjson.loads(path.read_bytes())
    for theirs in recorded["tasks"]:
        ours = load_task(theirs["label"])
        assert ours.kind == theirs["type"].replace("generation_task_with_answers", "generation")
        assert ours.shots == theirs["shots"]
        assert ours.delimiter == theirs["cont_delim"]
        assert ours.prelimiter == theirs["prelim"]
        assert ours.cot_delimiter == theirs["cot"]
        assert list(ours.stop) == theirs["stop"]
        assert ours.by_category == theirs["has_categories"]
        assert f"local_data/{ours.file}".replace("local_data/gpqa", "gpqa") in (
            theirs["uri"],
            f"local_data/{theirs['uri']}",
        )
        assert ours.rows == (theirs["rows"] or theirs["meta_rows"])
        assert ours.sha256 == theirs["sha256"]
        assert ours.category == theirs["category"]
        assert ours.random_baseline.v1 == pytest.approx(theirs["baseline_v1"] / 100, abs=1e-12)
        assert ours.random_baseline.v2 == pytest.approx(theirs["baseline_v2"] / 100, abs=1e-12)
        assert ("core" in ours.groups) == theirs["core"]
    for ours, theirs in (
        ("light", "light"),
        ("medium", "medium"),
        ("core", "mmlu_and_lowvar"),
        ("extended", "heavy"),
    ):
        assert list(load_suite(ours).tasks) == recorded["suites"][f"{theirs}.yaml"]["labels"]


@pytest.mark.parity
def test_the_recorded_data_passes_its_checks(fixtures):
    folder = fixtures / "dclm-eval/local_data"
    for task in load_suite("extended").load_tasks():
        if (folder / task.file).is_file():
            levels = {finding.level for finding in check_data(task, folder)}
            assert levels <= {"note"}, task.name


GPQA = """Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3
"What, exactly?",right,w1,w2,w3
Why?,right,w1,w2,w3
"""


def test_gpqa_is_read_from_its_zip_in_the_shuffled_order(tmp_path):
    (tmp_path / "gpqa_data").mkdir()
    with zipfile.ZipFile(tmp_path / "gpqa_data/dataset.zip", "w") as files:
        files.writestr("dataset/gpqa_main.csv", GPQA)
    items = read_data(load_task("gpqa_main").model_copy(update={"rows": 2}), tmp_path).items
    # random.Random(42).shuffle([0, 1, 2, 3]) twice gives [2, 1, 3, 0] and [3, 2, 0, 1]
    assert [item.context for item in items] == ["What, exactly?", "Why?"]
    assert [item.options[item.gold] for item in items] == ["right", "right"]
    assert [item.gold for item in items] == [3, 2]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dataset.zip", "gpqa_data"]


def test_a_broken_gpqa_zip_is_named(tmp_path):
    (tmp_path / "gpqa_data").mkdir()
    (tmp_path / "gpqa_data/dataset.zip").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"task gpqa_main: .*is not GPQA's dataset\.zip"):
        read_data(load_task("gpqa_main"), tmp_path)


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("hellaswag", "6ad3c97dcbe1e3c8086d1e57e443053a"),
        ("imagenet1k", "7a983bc779c377ee1fe9e2f13b1a55ae"),
        ("open_lm_val", "be328ccc1976977a2f64a9de4bd18c09"),
        ("heldout_bits_per_byte", "1f6c39b30f420dcc8f4a234a7a3d3d9b"),
        ("fairface", "ded30002443cfa935bf275ad564d3592"),
    ],
)
def test_a_task_has_the_hash_it_had_when_all_kinds_were_one_class(name, definition):
    assert load_task(name).definition() == definition


def test_a_field_of_another_kind_is_refused():
    with pytest.raises(EvalError, match=r"mine\.yaml(.|\n)*shots"):
        parse_task(
            load_task("imagenet1k").model_dump() | {"name": "mine", "shots": 3}, source="mine.yaml"
        )


def test_every_kind_has_a_class():
    tasks = {load_task(name).kind: load_task(name) for name in task_names()}
    assert set(tasks) == set(KINDS)
    for task in tasks.values():
        assert kind_of(task).tally
