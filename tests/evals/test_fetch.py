from __future__ import annotations

from pathlib import Path

import pytest

from evals.fetch import HOMES, fetch, fetch_tasks, write_rows
from evals.kinds import read_data
from evals.tasks import EvalError, load_task
from pipelines.errors import DataError

ROWS = {
    "hellaswag": {
        "activity_label": "Roof",
        "ctx_a": "A man sits.",
        "ctx_b": "he",
        "endings": ["a", "b", "c", "d"],
        "label": "3",
    },
    "mmlu_fewshot": {
        "question": "Q?",
        "choices": ["w", "x", "y", "z"],
        "answer": 1,
        "subject": "s",
    },
    "squad": {"context": "C.", "question": "Q?", "answers": {"text": ["A", "B"]}},
    "arc_easy": {
        "question": "Q?",
        "choices": {"text": ["w", "x", "y"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "openbook_qa": {
        "question_stem": "Rain",
        "choices": {"text": ["is wet", "is dry"], "label": ["1", "2"]},
        "answerKey": "1",
    },
    "piqa": {"goal": "Dry a cup.", "sol1": "A cloth.", "sol2": "A hose.", "label": 0},
    "boolq": {"passage": "P.", "question": "is it so", "answer": True},
    "copa": {
        "premise": "The lamp fell.",
        "question": "cause",
        "choice1": "The table shook.",
        "choice2": "It was lit.",
        "label": 0,
    },
    "gsm8k_cot": {"question": "How many?", "answer": "1 + 999 = <<1+999=1000>>1000\n#### 1,000"},
    "lambada_openai": {"text": "They went to the old house"},
    "winogrande": {
        "sentence": "The cup hit the plate and _ broke.",
        "option1": "the cup",
        "option2": "the plate",
        "answer": "2",
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_hub_become_items_of_the_task(name, tmp_path):
    task = load_task(name).model_copy(update={"rows": 1})
    write_rows(task, tmp_path, [ROWS[name]], HOMES[task.file])
    data = read_data(task, tmp_path)
    assert not data.verified
    (item,) = data.items
    texts = {
        "hellaswag": ("Roof: A man sits. He", 3),
        "mmlu_fewshot": ("Q?\nA. w\nB. x\nC. y\nD. z", 1),
        "squad": ("Context: C.\nQuestion: Q?\nAnswer:", None),
        "arc_easy": ("Question: Q?", 1),
        "openbook_qa": ("Rain", 0),
        "piqa": ("Question: Dry a cup.", 0),  # readers strip the end of a query
        "boolq": ("Passage: P.\nQuestion: is it so?", 1),
        "copa": ("The lamp fell, because", 0),
        "gsm8k_cot": ("How many?", None),
        "lambada_openai": ("They went to the old", None),
        "winogrande": ("", 1),
    }
    assert (item.context, item.gold) == texts[name]
    answers = {
        "gsm8k_cot": "1000",
        "lambada_openai": "house",
        "winogrande": "broke.",
        "squad": "A",
    }
    assert item.answer == answers.get(name, "")
    if name == "winogrande":
        assert item.contexts == (
            "The cup hit the plate and the cup",
            "The cup hit the plate and the plate",
        )
    if name == "copa":
        assert item.options == ("the table shook.", "it was lit.")


def test_a_suite_is_fetched_as_far_as_it_has_homes(tmp_path, monkeypatch):
    wrote = []
    monkeypatch.setattr("evals.fetch.fetch", lambda task, folder: wrote.append(task.name) or folder)
    tasks = [load_task(name) for name in ("squad", "bbq", "copa")]
    copa = tmp_path / tasks[2].file
    copa.parent.mkdir(parents=True)
    copa.write_text("{}")
    fetched = fetch_tasks(tasks, tmp_path)
    assert (wrote, fetched.there, list(fetched.by_hand)) == (["squad"], ["copa"], ["bbq"])
    assert "bbq.jsonl" in fetched.by_hand["bbq"]


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (DataError("rajpurkar/squad, row 1 does not fit"), ["squad", "boolq", "gsm8k_cot"]),
        (RuntimeError("Dataset scripts are no longer supported"), ["squad", "boolq", "gsm8k_cot"]),
        (FileNotFoundError("it is not on the hub"), ["squad", "boolq", "gsm8k_cot"]),
        (ConnectionError("no route"), ["squad"]),  # the others would wait for the same
    ],
)
def test_a_dataset_that_cannot_be_fetched_stops_no_other(error, tried, tmp_path, monkeypatch):
    asked = []

    def fetched(task, folder):
        asked.append(task.name)
        if task.name == "squad":
            raise error
        return folder / task.file

    monkeypatch.setattr("evals.fetch.fetch", fetched)
    tasks = [load_task(name) for name in ("squad", "boolq", "bbq", "gsm8k_cot")]
    result = fetch_tasks(tasks, tmp_path)
    assert asked == tried
    assert str(error) in result.failed["squad"]
    assert len(result.written) + len(result.failed) == 3
    assert list(result.by_hand) == ["bbq"]


def test_the_homes_are_listed_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for file, home in HOMES.items():
        config = home.config or "-"
        assert f"| `{file}` | `{home.dataset}` | {config} | {home.split} |" in page


def test_a_row_of_another_form_is_named(tmp_path):
    task = load_task("squad")
    with pytest.raises(DataError, match="rajpurkar/squad, row 1 does not fit"):
        write_rows(task, tmp_path, [ROWS["squad"], {"context": "C."}], HOMES[task.file])


def test_a_task_without_a_home_says_where_its_data_is(tmp_path):
    with pytest.raises(
        EvalError, match=r"task bbq: no hub repository is known for it.*safety/bbq\.jsonl"
    ):
        fetch(load_task("bbq"), tmp_path)
