"""Class names and templates from installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datacomp.results import datacomp_tasks
from evals.images.class_names import CLIP_BENCHMARK, class_names, templates, write_names
from evals.tasks import load_task
from pipelines.errors import DataError

pytest.importorskip("open_clip")


def test_imagenets_names_and_templates_come_from_open_clip() -> None:
    names = class_names(load_task("imagenet1k"))
    assert (len(names), names[0], names[999]) == (1000, "tench", "toilet paper")
    answer = templates(load_task("imagenet1k"))
    assert (len(answer), answer[0]) == (80, "a bad photo of a {c}.")
    # The first three of ImageNet-R's 200 classes: goldfish, great white shark, hammerhead.
    first = class_names(load_task("imagenet_r"))[:3]
    assert first == ["goldfish", "great white shark", "hammerhead shark"]
    assert len(class_names(load_task("imagenet_a"))) == 200


def test_only_what_is_missing_is_written(tmp_path: Path) -> None:
    task = load_task("imagenetv2")
    folder = tmp_path / task.file
    folder.mkdir()
    (folder / "classnames.txt").write_text("mine\n")
    assert write_names(task, tmp_path) == [folder / "zeroshot_classification_templates.txt"]
    assert (folder / "classnames.txt").read_text() == "mine\n"
    assert write_names(task, tmp_path) == []


def test_a_package_that_is_not_there_and_a_task_without_lists_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)
    with pytest.raises((DataError, ValueError), match="clip_benchmark"):
        class_names(load_task("mnist"))
    with pytest.raises(DataError, match="objectnet: no package has these lists; they come with"):
        class_names(load_task("objectnet"))


def test_keys_are_of_tasks_of_the_suite() -> None:
    assert set(CLIP_BENCHMARK) <= {task.name for task in datacomp_tasks().values()}


def test_clip_benchmarks_lists_have_the_right_number_of_classes() -> None:
    pytest.importorskip("clip_benchmark")
    for name, (classes, _) in CLIP_BENCHMARK.items():
        task = load_task(name)
        assert all("{c}" in line for line in templates(task)), name
        if classes is not None:
            assert len(class_names(task)) == task.classes
