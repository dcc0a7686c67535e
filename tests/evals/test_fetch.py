from __future__ import annotations

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


def test_a_row_of_another_form_is_named(tmp_path):
    task = load_task("squad")
    with pytest.raises(DataError, match="rajpurkar/squad, row 1 does not fit"):
        write_rows(task, tmp_path, [ROWS["squad"], {"context": "C."}], HOMES[task.file])


def test_a_task_without_a_home_says_where_its_data_is(tmp_path):
    with pytest.raises(
        EvalError, match=r"task bbq: no hub repository is known for it.*safety/bbq\.jsonl"
    ):
        fetch(load_task("bbq"), tmp_path)
