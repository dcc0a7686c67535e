"""Some images asked again: an honest log repeats, altered rows are named."""

from __future__ import annotations

from pathlib import Path

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    layers = {"weight0": np.eye(64, 8, dtype=np.float32), "bias0": np.ones(8, np.float32)}
    np.savez(folder / "digits_heldout.npz", images=strokes(1, 128), **layers)  # type: ignore[arg-type]
    write_synthetic_images(
        [load_task("cifar10"), load_task("flickr_1k")], folder, seed=3, images=70
    )
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


def test_ranks_among_all_images_are_not_asked_alone(folder: Path) -> None:
    task = load_task("flickr_1k")
    data = read_data(task, str(folder))
    log = pa.table({"row": [0]})
    assert asked_again(task, data, [0], NullModel("random"), log) is None
