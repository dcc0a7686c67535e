"""What a generator drew is shown as its check has drawn it; other bytes are refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from evals.images.shown_images import NUM_SHOWN, shown_column
from evals.tasks import Task
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.sample_grids import sample_grids, shows_images
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.made_up import make_folder

ROWS = 80


def with_images(task: Task, log: pa.Table) -> pa.Table:
    if task.kind != "image_memorisation":
        return log
    images = np.random.default_rng(3).uniform(-1, 1, (len(log), 1, 8, 8)).astype(np.float32)
    column = shown_column(images, rows=len(log))
    return log.append_column("image", column).append_column("nearest", column)


def folder_of(tmp_path: Path, edit: Callable[[Task, pa.Table], pa.Table]) -> Path:
    return make_folder(tmp_path, benchmark="ambient", rows=ROWS, edit=edit)


def test_each_seed_has_a_grid(tmp_path: Path) -> None:
    bundle = open_bundle(folder_of(tmp_path, with_images))
    checked = check_bundle(bundle)
    assert checked.faults == ()
    assert checked.measured is not None
    assert checked.measured.row.shows_images
    [(seed, png), *_] = sample_grids(bundle)
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
    assert width % (6 * 9 + 1) == 0  # six images of 8 pixels, lines between
    assert height * (6 * 9 + 1) == width * (12 * 9 + 1)
    assert seed in [score.seed for score in checked.measured.row.seeds]


def test_a_log_without_images_is_as_good_as_before(tmp_path: Path) -> None:
    bundle = open_bundle(folder_of(tmp_path, lambda task, log: log))
    checked = check_bundle(bundle)
    assert checked.faults == ()
    assert checked.measured is not None
    assert not checked.measured.row.shows_images
    assert not shows_images(bundle)
    assert list(sample_grids(bundle)) == []


def other_sizes(images: list[list[int] | None]) -> list[list[int] | None]:
    return [[0] * 9, *images[1:]]


def too_large(images: list[list[int] | None]) -> list[list[int] | None]:
    return [[0] * 65 * 65 if image is not None else None for image in images]


def everywhere(images: list[list[int] | None]) -> list[list[int] | None]:
    return [image if image is not None else [0] * 64 for image in images]


def first_missing(images: list[list[int] | None]) -> list[list[int] | None]:
    return [None, *images[1:]]


@pytest.mark.parametrize("change", [other_sizes, too_large, everywhere, first_missing])
def test_bytes_that_are_no_images_are_refused(
    change: Callable[[list[list[int] | None]], list[list[int] | None]], tmp_path: Path
) -> None:
    def edit(task: Task, log: pa.Table) -> pa.Table:
        log = with_images(task, log)
        if "image" not in log.column_names:
            return log
        column = pa.array(change(log["image"].to_pylist()), pa.list_(pa.uint8()))
        return log.set_column(log.schema.get_field_index("image"), "image", column)

    assert NUM_SHOWN < ROWS
    faults = check_bundle(open_bundle(folder_of(tmp_path, edit))).faults
    assert {(fault.rule, fault.field) for fault in faults} == {("arithmetic", "image")}


def test_a_column_of_texts_is_no_column_of_images(tmp_path: Path) -> None:
    def edit(task: Task, log: pa.Table) -> pa.Table:
        if task.kind != "image_memorisation":
            return log
        texts = pa.array(["<script>"] * len(log))
        return log.append_column("image", texts).append_column("nearest", texts)

    faults = check_bundle(open_bundle(folder_of(tmp_path, edit))).faults
    assert {fault.rule for fault in faults} == {"form.columns"}
