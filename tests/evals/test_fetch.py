from __future__ import annotations

import pytest

from evals.fetch import HOMES, fetch, write_rows
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
    }
    assert (item.context, item.gold) == texts[name]


def test_a_row_of_another_form_is_named(tmp_path):
    task = load_task("squad")
    with pytest.raises(DataError, match="rajpurkar/squad, row 1 does not fit"):
        write_rows(task, tmp_path, [ROWS["squad"], {"context": "C."}], HOMES[task.file])


def test_a_task_without_a_home_says_where_its_data_is(tmp_path):
    with pytest.raises(EvalError, match=r"task bbq has no home on the hub.*safety/bbq\.jsonl"):
        fetch(load_task("bbq"), tmp_path)
