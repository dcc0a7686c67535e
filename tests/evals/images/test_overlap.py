"""Items of image tasks in a dataset of pairs: by image, by caption, as one score and another."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pytest

from evals.images.overlap import image_overlap
from evals.images.synthetic import write_synthetic_images
from evals.overlap import overlap_with
from evals.overlap_report import TaskOverlap
from evals.tasks import EvalError, ImageTask, load_task
from pipelines.errors import DataError
from pipelines.execution.executors import ProcessMap
from tests.pipelines.images.test_likeness import drawing, encoded

CAPTION = "a long caption of an image that nobody else has ever written down before"


def task_of(name: str) -> ImageTask:
    task = load_task(name)
    assert isinstance(task, ImageTask)
    return task


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, data in sample.items():
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight classified drawings in two shards, three with two captions each, one association."""
    folder = tmp_path / "data"
    task = task_of("cifar10")
    root = folder / task.file
    for shard in range(2):
        samples = [
            {"png": encoded(drawing(n)), "cls": str(n % 10).encode()}
            for n in range(4 * shard, 4 * shard + 4)
        ]
        write_tar(root / "test" / f"{shard}.tar", samples)
    (root / "test" / "nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    (root / "zeroshot_classification_templates.txt").write_text("a {c}")
    root = folder / task_of("flickr_1k").file
    captions = [f"{CAPTION.replace('image', str(n))}\nshort {n}".encode() for n in range(3)]
    write_tar(
        root / "test" / "0.tar",
        [{"png": encoded(drawing(20 + n)), "txt": captions[n]} for n in range(3)],
    )
    (root / "test" / "nshards.txt").write_text("1")
    root = folder / task_of("winogavil").file
    instance = {"cue": "cue", "candidates": [*"abcde"], "associations": ["a"]}
    images = {f"{n}.png": encoded(drawing(40 + n)) for n in range(5)}
    write_tar(root / "test" / "0.tar", [images | {"json": orjson.dumps(instance)}])
    (root / "test" / "nshards.txt").write_text("1")
    return folder


def reports(dataset: Path, data: Path, *names: str, workers: int = 1) -> list[TaskOverlap]:
    tasks = [task_of(name) for name in names]
    map_tasks = ProcessMap(workers)
    return image_overlap(str(dataset), tasks, str(data), map_tasks=map_tasks).report()


def pair(seed: int, caption: str = "nothing", **options: int) -> dict[str, bytes]:
    return {"jpg": encoded(drawing(seed), "JPEG", **options), "txt": caption.encode()}


def test_images_are_found_in_every_shard_and_counted_by_row(data: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "a.tar", [pair(100), pair(2, quality=60)])
    write_tar(tmp_path / "set" / "b.tar", [pair(101), pair(7), pair(102)])
    [report] = reports(tmp_path / "set", data, "cifar10")
    assert report.found == (2, 7)
    assert (report.num_items, report.num_too_short, report.num_found) == (8, 0, 2)
    assert report.mean_overlap == 0.25


def test_an_image_of_a_retrieval_task_counts_with_its_captions(data: Path, tmp_path: Path) -> None:
    """Rows 0 to 5 are the captions, two an image; 6 to 8 the images."""
    write_tar(tmp_path / "set" / "a.tar", [pair(21), pair(100, CAPTION.replace("image", "2"))])
    [report] = reports(tmp_path / "set", data, "flickr_1k")
    assert report.found == (2, 3, 4, 7)
    assert report.num_items == 9


def test_an_association_is_found_by_half_of_its_images(data: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "two" / "a.tar", [pair(40), pair(41)])
    write_tar(tmp_path / "three" / "a.tar", [pair(40), pair(41), pair(44)])
    [few], [many] = (reports(tmp_path / folder, data, "winogavil") for folder in ("two", "three"))
    assert (few.found, few.mean_overlap) == ((), 0.4)
    assert (many.found, many.mean_overlap) == ((0,), 0.6)


def test_processes_side_by_side_find_the_same(data: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / "set" / f"{number}.tar", [pair(number), pair(20 + number)])
    names = ("cifar10", "flickr_1k")
    first = reports(tmp_path / "set", data, *names)
    assert [report.found for report in first] == [(0, 1, 2), tuple(range(9))]
    assert reports(tmp_path / "set", data, *names, workers=2) == first


def test_images_of_the_dataset_that_do_not_decode_are_counted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("evals.images.overlap.say", lines.append)
    write_tar(tmp_path / "set" / "a.tar", [pair(2), {"jpg": b"no image", "txt": b"x"}])
    [report] = reports(tmp_path / "set", data, "cifar10")
    assert report.found == (2,)
    [line] = lines
    assert line.startswith("1 images of")


def test_an_image_of_the_suite_that_does_not_decode_is_named(data: Path, tmp_path: Path) -> None:
    path = data / task_of("cifar10").file / "test" / "1.tar"
    write_tar(path, [{"png": b"no image", "cls": b"0"}])
    write_tar(tmp_path / "set" / "a.tar", [pair(2)])
    with pytest.raises(DataError, match=r"cifar10: .*1.tar, image 0 does not decode"):
        reports(tmp_path / "set", data, "cifar10")


def test_a_folder_without_tars_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tars of images"):
        reports(tmp_path / "nothing", data, "cifar10")


def test_images_of_one_suite_are_found_in_themselves(tmp_path: Path) -> None:
    """Every kind of task, on generated folders: each item is found in a dataset of all images."""
    names = ("fairface", "camelyon17", "flickr_1k", "winogavil")
    tasks = [task_of(name) for name in names]
    write_synthetic_images(tasks, tmp_path / "data", seed=0, images=12)
    for number, path in enumerate(sorted((tmp_path / "data").rglob("*.tar"))):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{number}.tar").write_bytes(path.read_bytes())
    for report in reports(tmp_path / "set", tmp_path / "data", *names):
        assert report.num_found == report.num_items - report.num_too_short > 0


def test_a_suite_of_generators_has_no_overlap(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="digits_frechet"):
        overlap_with(str(tmp_path), "ambient/tiny", str(tmp_path))


def test_owners_of_captions_are_their_images(data: Path) -> None:
    from evals.images.image_tasks import read_images
    from evals.images.overlap import _owners

    owners = _owners(read_images(task_of("flickr_1k"), str(data)))
    assert owners[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert np.issubdtype(owners.dtype, np.int64)
