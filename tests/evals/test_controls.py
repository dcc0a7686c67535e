"""Controls: a score that uses its context drops without it, one that does not is seen not to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evals.controls import check_probabilities, chosen_rows, controls_of, image_controls
from evals.images.generation import TrainingSet
from evals.kinds import kind_of, read_data
from evals.models import Ids, ModelError, Query, TokenScores
from evals.nulls import NullModel
from evals.tasks import Task, load_task
from pipelines.records import Control
from tests.evals.helpers import make_task, strokes, write_rows

N = 200


class Reader(NullModel):
    """Knows the answer: the option that repeats the last byte of the context is cheap."""

    def __init__(self) -> None:
        super().__init__("uniform")

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        return [[self._read(q.context, answer) for answer in q.continuations] for q in queries]

    def _read(self, context: Ids, answer: Ids) -> TokenScores:
        losses = np.where(answer == context[-1], 0.1, 5.0).astype(np.float32)
        return TokenScores(losses, np.full(len(answer), context[-1], np.int32))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """The context ends in the letter of the right option."""
    letters = "abcd"
    rows = [
        {"query": f"{n} {letters[n % 4]}", "choices": list(letters), "gold": n % 4}
        for n in range(N)
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    return make_task(delimiter="")


def controls(task: Task, folder: Path, model: NullModel) -> dict[str, Control]:
    data = read_data(task, folder)
    log = kind_of(task).answer(task, data, range(N), model, window=64)
    all_controls = controls_of(task, data, model, window=64, log=log)
    return {control.name: control for control in all_controls}


def test_a_model_that_reads_loses_its_score_with_the_context(task: Task, tmp_path: Path) -> None:
    all_controls = controls(task, tmp_path, Reader())
    swapped, rotated = all_controls["context swapped"], all_controls["options rotated"]
    assert (swapped.score, swapped.num_items) == (1.0, 64)
    # The context of another question has the same letter about one time in four.
    assert 0.05 < swapped.control < 0.5
    assert swapped.low > 0.4
    assert (rotated.control, rotated.drop) == (1.0, 0.0)
    assert rotated.low < 0 < rotated.high


def test_a_model_that_does_not_read_loses_nothing(task: Task, tmp_path: Path) -> None:
    all_controls = controls(task, tmp_path, NullModel("context_blind"))
    assert all_controls["context swapped"].drop == 0
    assert all_controls["context swapped"].low < 0


def test_a_model_that_goes_by_the_place_of_an_option_is_seen(tmp_path: Path) -> None:
    rows = [{"query": f"{n}", "choices": list("abcd"), "gold": 0} for n in range(N)]
    write_rows(tmp_path / "t.jsonl", rows)
    all_controls = controls(make_task(), tmp_path, NullModel("first_option"))
    assert (all_controls["options rotated"].score, all_controls["options rotated"].control) == (
        1.0,
        0.0,
    )
    assert all_controls["options rotated"].low > 0.9


def test_the_sample_depends_on_the_data_alone(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    assert chosen_rows(data, 64, what="control") == chosen_rows(data, 64, what="control")
    assert chosen_rows(data, 64, what="control") != list(range(64))
    assert len(set(chosen_rows(data, 64, what="control"))) == 64


def test_images_are_shuffled_in_the_log() -> None:
    gold = np.arange(300) % 10
    log = pa.table({"row": np.arange(300), "gold": gold, "predicted": gold})
    [all_controls] = image_controls(load_task("cifar10"), log)
    assert (all_controls.name, all_controls.score) == ("images shuffled", 1.0)
    assert all_controls.control < 0.25
    assert all_controls.low > 0.7
    blind = log.set_column(2, "predicted", pa.array(np.zeros(300, np.int64)))
    [all_controls] = image_controls(load_task("cifar10"), blind)
    assert all_controls.low <= 0


# ---- probabilities


def test_probabilities_that_sum_to_one_pass(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    for null in ("uniform", "random", "context_blind"):
        assert check_probabilities(task, data, NullModel(null), window=64) == 2


def test_certainty_of_everything_is_refused(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    with pytest.raises(ModelError, match=r"sum to 257 over 257 ids, not to 1"):
        check_probabilities(task, data, NullModel("zeros"), window=64)


def test_losses_beside_the_distribution_are_refused(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    with pytest.raises(ModelError, match=r"a loss of 5 where its own probabilities say 5\.549"):
        check_probabilities(task, data, Reader(), window=64)


@pytest.mark.parametrize("kind", ["perplexity", "token_loss", "generation"])
def test_every_kind_of_text_has_places_to_check(kind: str, tmp_path: Path) -> None:
    rows = {
        "perplexity": {"text": "one two"},
        "token_loss": {"ids": [4, 5, 6]},
        "generation": {"context": "2+2?", "answer": "4"},
    }
    write_rows(tmp_path / "t.jsonl", [rows[kind]] * 3)
    task = make_task(kind=kind)
    data = read_data(task, tmp_path)
    assert check_probabilities(task, data, NullModel("uniform"), window=64) == 2
    with pytest.raises(ModelError, match="sum to 257"):
        check_probabilities(task, data, NullModel("zeros"), window=64)


@pytest.mark.parametrize("null", [None, "constant"])
def test_a_model_that_restores_loses_it_with_the_measurements(
    null: str | None, tmp_path: Path
) -> None:
    """What is drawn without a look at the measurements is as near with those of another image."""
    np.savez(tmp_path / "digits_heldout.npz", images=strokes(1, 128))
    task = load_task("digits_restored_pixels")
    data = read_data(task, str(tmp_path))
    model = TrainingSet(strokes(2, 40)) if null is None else NullModel(null)
    log = kind_of(task).answer(task, data, range(data.num_rows), model, window=0)
    assert isinstance(log, pa.Table)
    [control] = controls_of(task, data, model, window=0, log=log)
    assert (control.name, control.num_items) == ("measurements swapped", 16)
    assert (control.low > 0) == (null is None)
