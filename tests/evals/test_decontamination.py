from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import yaml

from evals.decontamination import ITEMS, Overlap, items_table, text_overlap
from evals.suite import Aggregate, Suite
from evals.tasks import load_task
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.text.contamination import word_hashes
from tests.evals.helpers import make_task, write_rows

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def table(*texts):
    rows = [{"task": "t", "item": i, "text": text} for i, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def fractions_of(texts, documents, **named):
    overlap = Overlap(table(*texts), **named)
    overlap.add(documents)
    return overlap.fractions().tolist()


def test_an_item_that_stands_in_a_document_is_found_whole():
    assert fractions_of([LONG], [None, "", f"before {LONG} after"]) == [1.0]


def test_case_and_punctuation_do_not_matter():
    assert fractions_of([LONG], [LONG.upper().replace(" ", ", ")]) == [1.0]


def test_half_of_the_ngrams_is_half_an_overlap():
    # 14 words have two 13-grams; the document holds the first
    assert fractions_of([LONG], [" ".join(LONG.split()[:13])]) == [0.5]


def test_words_in_another_order_are_not_found():
    assert fractions_of([LONG], [" ".join(LONG.split()[::-1])]) == [0.0]


def test_ngrams_do_not_cross_documents():
    words = LONG.split()
    assert fractions_of([LONG], [" ".join(words[:7]), " ".join(words[7:])]) == [0.0]


def test_a_short_item_is_looked_for_whole_and_a_shorter_one_not_at_all():
    eight = " ".join(LONG.split()[:8])
    seven = " ".join(LONG.split()[:7])
    fractions = fractions_of([eight, seven], [LONG])
    assert fractions[0] == 1.0
    assert np.isnan(fractions[1])


def test_the_report_counts_by_task():
    overlap = Overlap(table(LONG, "zero " * 13, "too short"))
    overlap.add([LONG])
    (report,) = overlap.report()
    assert (report.num_items, report.num_too_short, report.num_found) == (3, 1, 1)
    assert report.found == (0,)
    assert report.mean_overlap == 0.5  # of the two that are long enough
    assert report.score is None


def test_equal_words_have_equal_hashes_and_others_do_not():
    hashes, borders = word_hashes(pa.array(["Tea tea, coffee!", None, "TEA"]))
    assert borders.tolist() == [0, 3, 3, 4]
    assert hashes[3] == hashes[0]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.fixture
def suite(tmp_path, monkeypatch):
    tasks = [make_task("copa", file="a.jsonl"), make_task("boolq", file="b.jsonl", secret=True)]
    monkeypatch.setattr(Suite, "load_tasks", lambda self: tasks)
    for task in tasks:
        row = {"query": "Why is it?", "choices": ["No", "Yes, so"], "gold": 1}
        write_rows(tmp_path / task.file, [row])
    return Suite(
        name="s",
        version="1",
        benchmark="dclm",
        description="d",
        tasks=("copa", "boolq"),
        aggregates=(Aggregate(name="all", how="centered_mean"),),
        headline="all",
    )


def test_items_are_questions_with_their_right_answers(suite, tmp_path):
    assert items_table(suite, tmp_path, secret=True).to_pylist() == [
        {"task": "copa", "item": 0, "text": "Why is it? Yes, so"},
        {"task": "boolq", "item": 0, "text": "Why is it? Yes, so"},
    ]


@pytest.fixture
def leaky(tmp_path):
    """Two shards; the second holds the item of copa with one word that is another."""
    folder = tmp_path / "documents"
    folder.mkdir()
    write_rows(folder / "0.jsonl", [{"text": "nothing"}, {"text": LONG}])
    leak = "why is the sky over the mountains far more blue after the rain has gone Yes so"
    write_rows(folder / "1.jsonl", [{"text": f"He asked: {leak}", "url": "https://a.b/c"}])
    return str(folder)


@pytest.fixture
def paraphrased(suite, tmp_path, leaky):
    """The report and the matches of a paraphrase, by a map over tasks."""
    query = "Why is the sky over the mountains so much more blue after the rain has gone"
    for file in ("a.jsonl", "b.jsonl"):
        row = {"query": query, "choices": ["No", "Yes, so"], "gold": 1}
        write_rows(tmp_path / file, [row])

    def of(map_tasks):
        overlap = text_overlap(leaky, "light", str(tmp_path), map_tasks=map_tasks)
        return overlap.report(), overlap.matches

    return of


def test_a_paraphrase_is_found_with_its_document_and_passage(paraphrased):
    reports, matches = paraphrased(map_here)
    assert [(r.task, r.num_found, r.found, r.mean_overlap) for r in reports] == [
        ("copa", 1, (0,), 0.0),  # no 13 words in a row
        ("boolq", 1, (0,), 0.0),
    ]
    copa = next(match for match in matches if match.task == "copa")
    assert (copa.shard, copa.document, copa.url) == ("1.jsonl", 0, "https://a.b/c")
    assert copa.passage.startswith("why is the sky over the mountains")
    secret = next(match for match in matches if match.task == "boolq")
    assert secret.passage == ""


@pytest.mark.ray
@pytest.mark.slow
def test_processes_and_ray_find_the_same(suite, leaky, tmp_path, monkeypatch, ray_cluster):
    monkeypatch.undo()  # workers know the tasks that are installed
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(suite.model_dump(mode="json") | {"tasks": ["copa"]}))
    query = "Why is the sky over the mountains so much more blue after the rain has gone"
    copa = tmp_path / load_task("copa").file
    copa.parent.mkdir()
    others = [f"Of thing {n} there is nothing that anybody here would say" for n in range(99)]
    write_rows(
        copa, [{"query": q, "choices": ["No", "Yes, so"], "gold": 1} for q in [query, *others]]
    )

    def found_by(map_tasks):
        overlap = text_overlap(leaky, str(file), str(tmp_path), map_tasks=map_tasks)
        return overlap.report(), overlap.matches

    here = found_by(map_here)
    assert here[0][0].num_found == 1
    assert found_by(ProcessMap(2)) == here
    assert found_by(ray_cluster) == here


def test_secret_texts_are_left_out(suite, tmp_path):
    assert items_table(suite, tmp_path)["task"].to_pylist() == ["copa"]
