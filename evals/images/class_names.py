"""Class names and templates from installed packages, for datasets that lack these files.

The published datasets include both files, and an evaluation reads only the files. When a folder
lacks them, they are written there from open_clip (ImageNet and, by timm's lists of classes, its
subsets A and R) and from clip_benchmark. No package is imported: the lists are read as data.
"""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import orjson

from evals.images.image_tasks import CLASSES, TEMPLATES
from evals.tasks import ImageTask
from pipelines.errors import DataError

IMAGENET = {"imagenet1k": "", "imagenet_sketch": "", "imagenetv2": "", "imagenet_a": "a"}
IMAGENET |= {"imagenet_r": "r"}
"""Tasks with ImageNet's classes, and the letter of timm's list for tasks with a subset of them."""

CLIP_BENCHMARK = {
    "vtab_caltech101": ("caltech101_vtab", "caltech101"),
    "cifar10": (None, "cifar10"),
    "vtab_cifar100": (None, "cifar100"),
    "vtab_clevr_count_all": ("clevr_count_all", "clevr_count_all"),
    "vtab_clevr_closest_object_distance": (
        "clevr_closest_object_distance",
        "clevr_closest_object_distance",
    ),
    "country211": ("country211", "country211"),
    "vtab_dtd": (None, "dtd"),
    "vtab_eurosat": ("eurosat", "eurosat"),
    "fgvc_aircraft": (None, "fgvc_aircraft"),
    "food101": (None, "food101"),
    "gtsrb": ("gtsrb", "gtsrb"),
    "vtab_kitti_closest_vehicle_distance": (
        "kitti_closest_vehicle_distance",
        "kitti_closest_vehicle_distance",
    ),
    "mnist": ("mnist", "mnist"),
    "vtab_flowers": ("flowers", "flowers"),
    "vtab_pets": ("pets", "pets"),
    "voc2007": (None, "voc2007"),
    "vtab_pcam": ("pcam", "pcam"),
    "renderedsst2": (None, "renderedsst2"),
    "vtab_resisc45": (None, "resisc45"),
    "cars": (None, "cars"),
    "stl10": (None, "stl10"),
    "sun397": (None, "sun397"),
    "vtab_svhn": ("svhn", "svhn"),
}
"""Keys in clip_benchmark's lists of English class names, and of templates."""


def write_names(task: ImageTask, folder: Path) -> list[Path]:
    """Write the lists missing from a dataset's folder; returns the paths written.

    DataError when no installed package has the list, or its number of classes is not the task's.
    """
    written = []
    for name in (CLASSES, TEMPLATES):
        path = folder / task.file / name
        if path.exists():
            continue
        lines = class_names(task) if name == CLASSES else templates(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(path)
    return written


def class_names(task: ImageTask) -> list[str]:
    """The names of a task's classes, in the order of their labels."""
    if task.name in IMAGENET:
        names = list(_open_clip()["IMAGENET_CLASSNAMES"])
        part = IMAGENET[task.name]
        if part:
            lists = _package("timm") / "data" / "_info" / f"imagenet_{part}_indices.txt"
            names = [names[int(line)] for line in lists.read_text().split()]
    else:
        names = _clip_benchmark(task, "en_classnames.json", 0)
    if task.classes is not None and len(names) != task.classes:
        raise DataError(f"task {task.name} has {task.classes} classes, the package {len(names)}")
    return names


def templates(task: ImageTask) -> list[str]:
    """The templates of a task, with {c} where the class goes."""
    if task.name in IMAGENET:
        return [template("{c}") for template in _open_clip()["OPENAI_IMAGENET_TEMPLATES"]]
    return _clip_benchmark(task, "en_zeroshot_classification_templates.json", 1)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"class names and templates come from {name}, which is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _open_clip() -> dict[str, Any]:
    return runpy.run_path(str(_package("open_clip") / "zero_shot_metadata.py"))


def _clip_benchmark(task: ImageTask, file: str, index: int) -> list[str]:
    key = CLIP_BENCHMARK.get(task.name, (None, None))[index]
    if key is None:
        raise DataError(
            f"task {task.name}: no package has these lists; they come with the dataset. "
            f"{task.source}"
        )
    lists: dict[str, list[str]] = orjson.loads(
        (_package("clip_benchmark") / "datasets" / file).read_bytes()
    )
    return lists[key]
