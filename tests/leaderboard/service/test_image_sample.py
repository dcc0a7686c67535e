"""Some images asked again: an honest log repeats, altered rows are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evals.images.generation import TrainingSet
from evals.images.synthetic import write_synthetic_images
from evals.kinds import kind_of, read_data
from evals.nulls import NullModel
from evals.suite import load_suite
from evals.tasks import load_task
from leaderboard.service.image_sample import COLUMNS, asked_again
from tests.evals.helpers import strokes

ROWS = [3, 7, 11, 60]
TOGETHER = ("flickr_1k", "winogavil", "fairface")  # answers that depend on other images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    layers = {"weight0": np.eye(64, 8, dtype=np.float32), "bias0": np.ones(8, np.float32)}
    np.savez(folder / "digits_heldout.npz", images=strokes(1, 128), **layers)  # type: ignore[arg-type]
    tasks = [load_task(name) for name in ("cifar10", *TOGETHER)]
    write_synthetic_images(tasks, folder, seed=3, images=70)
    return folder


def altered(log: pa.Table, name: str, row: int) -> pa.Table:
    """The log with one row's numbers a tenth larger."""
    values = log[name].to_pylist()
    position = log["row"].to_pylist().index(row)
    worse = 1.1 * np.array(values[position]) - 0.1
    values[position] = worse.tolist()
    return log.set_column(log.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize("name", [*load_suite("ambient/tiny").tasks, "cifar10"])
def test_an_honest_log_repeats_and_an_altered_row_is_named(name: str, folder: Path) -> None:
    task = load_task(name)
    data = read_data(task, str(folder))
    model = NullModel("random") if name == "cifar10" else TrainingSet(strokes(2, 40))
    answer = kind_of(task).answer(task, data, range(data.num_rows), model, window=0)
    log = answer[0] if isinstance(answer, tuple) else answer
    rows = [row for row in ROWS if row < data.num_rows]
    assert asked_again(task, data, rows, model, log) == []
    assert asked_again(task, data, rows, model, altered(log, COLUMNS[task.kind], 7)) == [7]


def put(log: pa.Table, name: str, row: int, value: float) -> pa.Table:
    """The log with another value in one row."""
    values = log[name].to_pylist()
    values[log["row"].to_pylist().index(row)] = value
    kind = log.schema.field(name).type
    return log.set_column(log.schema.get_field_index(name), name, pa.array(values, kind))


def called_right(log: pa.Table, row: int) -> pa.Table:
    """Rank 0 for one row, with the right one said to be the best."""
    gold = log["gold"].to_pylist()[log["row"].to_pylist().index(row)]
    return put(put(put(log, "rank", row, 0), "predicted", row, gold), "correct", row, True)


def answered(name: str, folder: Path) -> tuple[Any, Any, NullModel, pa.Table]:
    task, model = load_task(name), NullModel("random")
    data = read_data(task, str(folder))
    log, _ = kind_of(task).answer(task, data, range(data.num_rows), model, window=0)
    return task, data, model, log


@pytest.mark.parametrize("candidates", [1000, 30])
def test_a_rank_is_repeated_among_the_candidates(
    candidates: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaderboard.service.rank_sample.CANDIDATES", candidates)
    task, data, model, log = answered("flickr_1k", folder)
    assert asked_again(task, data, ROWS, model, log) == []
    texts = sum(len(captions) for captions in data.captions)
    first = int(np.cumsum([0, *(len(captions) for captions in data.captions)])[7])
    for row in (first, texts + 7):  # its first caption, and the image itself
        assert (
            log["rank"].to_pylist()[row] > 5
        )  # features of no meaning: both are far from the best
        assert asked_again(task, data, ROWS, model, called_right(log, row)) == [7]
    worse = put(log, "rank", first, len(data.captions) - 1)
    whole = candidates >= len(data.captions)  # a rank that is too bad is seen among all of them
    assert asked_again(task, data, ROWS, model, worse) == ([7] if whole else [])


def test_an_association_is_repeated_from_its_own_candidates(folder: Path) -> None:
    task, data, model, log = answered("winogavil", folder)
    rows = list(range(min(6, data.num_rows)))
    assert asked_again(task, data, rows, model, log) == []
    claimed = 0.5 if log["jaccard"].to_pylist()[3] != 0.5 else 1.0
    assert asked_again(task, data, rows, model, put(log, "jaccard", 3, claimed)) == [3]


@pytest.mark.parametrize("objective", ["race", "gender", "age", "toxic"])
def test_what_is_said_of_an_image_is_repeated(objective: str, folder: Path) -> None:
    task, data, model, log = answered("fairface", folder)
    assert asked_again(task, data, ROWS, model, log) == []
    said = log[f"predicted_{objective}"].to_pylist()[7]
    other = put(log, f"predicted_{objective}", 7, 1 - said if said < 2 else 0)
    assert asked_again(task, data, ROWS, model, other) == [7]
