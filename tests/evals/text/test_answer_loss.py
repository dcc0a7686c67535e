"""Bits per byte of right answers: by hand, beside the kind that is scored right or wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.controls import check_probabilities
from evals.kinds import kind_of, read_data
from evals.models import ModelError
from evals.nulls import NullModel
from evals.run import score_task
from evals.tasks import AnswerLossTask, load_task, parse_task, shots_of, task_names
from leaderboard.submissions.logs import COLUMNS, NEEDED
from tests.evals.helpers import write_rows

ROWS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [
        {"query": "the river runs past", "choices": ["a stone", "über lamps"], "gold": gold}
        for gold in (0, 1, 1)
    ],
    "schema": [
        {"context_options": ["ann sang", "bob sang"], "continuation": "and left", "gold": gold}
        for gold in (0, 1)
    ],
    "language_modeling": [{"context": "the end of the", "continuation": "road"}] * 3,
}
BYTES = {
    "multiple_choice": [7, 11, 11],  # ü has two bytes
    "schema": [8, 8],
    "language_modeling": [4, 4, 4],
}


def task_of(asked: str) -> AnswerLossTask:
    values = {
        "name": "t", "kind": "answer_loss", "asked": asked, "description": "-", "category": "-",
        "metric": "bits_per_byte", "higher_is_better": False, "file": "t.jsonl", "licence": "-",
        "random_baseline": {"v1": 8.0, "v2": 8.0},
    }  # fmt: skip
    task = parse_task(values, source="test")
    assert isinstance(task, AnswerLossTask)
    return task


def ask(asked: str, folder: Path, model: Any) -> Any:
    write_rows(folder / "t.jsonl", ROWS[asked])
    task = task_of(asked)
    data = read_data(task, folder)
    return kind_of(task).answer(task, data, range(data.num_rows), model, window=512)


@pytest.mark.parametrize("asked", sorted(ROWS))
def test_a_uniform_model_needs_the_bits_of_its_vocabulary(asked: str, tmp_path: Path) -> None:
    log = ask(asked, tmp_path, NullModel("uniform"))
    assert log["num_bytes"].to_pylist() == BYTES[asked]
    tokens = np.array(log["num_tokens"].to_pylist())
    # This model has one token a byte; the space before the answer is fed, and not scored.
    assert tokens.tolist() == BYTES[asked]
    score, _ = score_task(task_of(asked), log)
    assert score.value == pytest.approx(tokens.sum() * math.log2(257) / sum(BYTES[asked]), rel=1e-6)


@pytest.mark.parametrize("asked", sorted(ROWS))
def test_the_losses_are_those_of_the_right_option(asked: str, tmp_path: Path) -> None:
    model = NullModel("random")
    log = ask(asked, tmp_path, model)
    question = task_of(asked).question()
    data = read_data(question, tmp_path)
    whole = kind_of(question).answer(question, data, range(data.num_rows), model, window=512)
    for row, nats in zip(whole.to_pylist(), log["nats"].to_pylist(), strict=True):
        option = row["options"][row["gold"] or 0]
        assert nats == pytest.approx(sum(option["losses"]), rel=1e-6)


@pytest.mark.parametrize("null", ["nan", "negative"])
def test_losses_that_are_none_are_refused(null: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="row 0: the model gives a loss"):
        ask("multiple_choice", tmp_path, NullModel(null))


def test_probabilities_that_do_not_sum_to_one_are_refused(tmp_path: Path) -> None:
    """A model that gives every option no loss would lead by it."""
    write_rows(tmp_path / "t.jsonl", ROWS["multiple_choice"])
    task = task_of("multiple_choice")
    data = read_data(task, tmp_path)
    assert check_probabilities(task, data, NullModel("uniform"), window=512) > 0
    with pytest.raises(ModelError, match="not to 1"):
        check_probabilities(task, data, NullModel("zeros"), window=512)


def test_the_log_has_the_form_that_submissions_are_checked_for(tmp_path: Path) -> None:
    log = ask("schema", tmp_path, NullModel("uniform"))
    known = COLUMNS["answer_loss"]
    assert set(NEEDED["answer_loss"]) <= set(log.column_names) <= set(known)
    assert all(known[field.name](field.type) for field in log.schema)


def test_a_loss_task_asks_as_its_twin_does() -> None:
    names = [name for name in task_names() if name.endswith("_loss")]
    tasks = [load_task(name) for name in names]
    losses = [task for task in tasks if isinstance(task, AnswerLossTask)]
    assert losses
    for task in losses:
        twin = load_task(task.name.removesuffix("_loss"))
        assert task.question().kind == twin.kind
        assert shots_of(task) == shots_of(twin)
        same = ("file", "rows", "sha256", "delimiter", "prelimiter", "category", "by_category")
        assert [getattr(task, n) for n in same] == [getattr(twin, n) for n in same]
