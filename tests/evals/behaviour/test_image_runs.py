"""All 40 datasets of DataComp, made up, through a whole run: figures by hand, faults, reruns."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datacomp.results import aggregate_results, datacomp_tasks, read_results
from evals.data_check import check_data
from evals.images.image_tasks import image_folder, read_images
from evals.images.report import confusion, image_page
from evals.images.synthetic import write_synthetic_images
from evals.models import ImageError
from evals.reports import open_run
from evals.run import run
from evals.suite import load_suite
from evals.tasks import EvalError, load_task
from pipelines.errors import DataError
from pipelines.execution.executors import ProcessMap
from pipelines.records import ScoresRecord
from pipelines.storage.open import open_store
from pipelines.templates import templates

DIM = 16


class FakeClip:
    """Features from the hash of a text, and from an image's colours; counts what it is asked."""

    def __init__(self) -> None:
        self.id, self.settings = "c" * 32, {"precision": "fp32"}
        self.num_images = self.num_texts = 0

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeClip)

    def encode_images(self, images: Iterable[bytes]) -> np.ndarray:
        collected = []
        for index, data in enumerate(images):
            self.num_images += 1
            try:
                small = Image.open(io.BytesIO(data)).convert("RGB").resize((2, 2))
            except OSError as error:
                raise ImageError(index, str(error)) from None
            collected.append(np.resize(np.asarray(small, np.float32).ravel() - 128, DIM))
        return np.array(collected, np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.num_texts += len(texts)
        digests = [hashlib.sha256(text.encode()).digest()[:DIM] for text in texts]
        return np.array([[b - 127.5 for b in d] for d in digests], np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wds")
    write_synthetic_images(load_suite("datacomp/full").load_tasks(), folder, seed=1, images=48)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScoresRecord, Path]:
    out = tmp_path_factory.mktemp("scores")
    return run(FakeClip(), suite="datacomp/full", data=data, out=out), out


def mean(values: Iterable[float]) -> float:
    actual = list(values)
    return sum(actual) / len(actual)


def by_hand(name: str, rows: list[dict]) -> float:
    """The main metric of a dataset from the answers to its single images, in plain Python."""
    task = load_task(name)
    if task.kind == "image_retrieval":
        sides = [[r["rank"] == 0 for r in rows if r["side"] == side] for side in ("text", "image")]
        return mean(mean(side) for side in sides)
    if task.kind == "image_association":
        return mean(
            len(set(r["gold"]) & set(r["predicted"])) / len(set(r["gold"]) | set(r["predicted"]))
            for r in rows
            if r["candidates"] >= 10
        )
    hits = [r["gold"] == r["predicted"] for r in rows]
    if task.metric == "acc1":
        return mean(hits)
    if task.metric == "mean_per_class_recall":
        classes = defaultdict(list)
        for row, hit in zip(rows, hits, strict=True):
            classes[row["gold"]].append(hit)
        return mean(map(mean, classes.values()))
    if task.metric == "F1-macro_all":
        gold, answer = Counter(r["gold"] for r in rows), Counter(r["predicted"] for r in rows)
        both = Counter(r["gold"] for r, hit in zip(rows, hits, strict=True) if hit)
        return mean(2 * both[c] / (gold[c] + answer[c]) for c in gold)
    field = {"fmow": "region", "dollar_street": "income_ds", "geode": "region"}[name]
    groups = defaultdict(list)
    for row, hit in zip(rows, hits, strict=True):
        right = row["gold"] in row["top5"] if name == "dollar_street" else hit
        groups[row["metadata"][task.metadata.index(field)]].append(right)
    return min(map(mean, groups.values()))


def test_every_figure_of_forty_datasets_equals_one_by_hand(
    finished: tuple[ScoresRecord, Path],
) -> None:
    record, out = finished
    opened = open_run(str(out))
    tasks = datacomp_tasks()
    counting = [task.name for task in tasks.values() if task.ranks]
    assert len(counting) == 38
    main = {name: by_hand(name, opened.log(name).to_pylist()) for name in counting}
    for name, value in main.items():
        assert opened.score(name).value == pytest.approx(value, abs=1e-12), name
    assert len({round(value, 6) for value in main.values()}) > 12, "the model must tell some apart"
    shifts = ("imagenet_sketch", "imagenetv2", "imagenet_a", "imagenet_o", "imagenet_r")
    expected = {
        "average": mean(main.values()),
        "imagenet": main["imagenet1k"],
        "shifts": mean(main[name] for name in (*shifts, "objectnet")),
        "vtab": mean(v for n, v in main.items() if n.startswith("vtab_") or n == "sun397"),
        "retrieval": mean(main[name] for name in ("flickr_1k", "mscoco_5k", "winogavil")),
    }
    aggregates = record.results.aggregates
    assert {name: score.value for name, score in aggregates.items()} == pytest.approx(expected)
    for score in (*aggregates.values(), *record.results.tasks):
        assert score.stderr is not None
        assert score.stderr >= 0
    assert 0 < aggregates["average"].stderr < 0.05


def test_the_references_file_holds_the_same(finished: tuple[ScoresRecord, Path]) -> None:
    record, out = finished
    results = read_results((out / "eval_results.jsonl").read_bytes(), source="r")
    assert len(results) == 40
    assert results["fairness/fairface"]["main_metric"] is None
    columns = aggregate_results({key: m["main_metric"] for key, m in results.items()})
    assert columns["Average"] == pytest.approx(record.results.aggregates["average"].value)
    assert columns["VTAB"] == pytest.approx(record.results.aggregates["vtab"].value)


def test_a_image_is_encoded_once_and_features_are_kept(
    data: Path, tmp_path: Path, finished: tuple[ScoresRecord, Path]
) -> None:
    model = FakeClip()
    record = run(model, suite="datacomp/full", data=data, out=tmp_path)
    images = sum(
        len(read_images(t, str(data)).keys) for t in load_suite("datacomp/full").load_tasks()
    )
    assert model.num_images == images
    kept = [file for file in record.outputs if file.name.startswith("features/")]
    assert len(kept) == 42  # one of images each, and two retrieval sets have texts
    assert record.id == finished[0].id
    assert model.num_texts < 30_000, "ImageNet's classifier is made once for its four datasets"


def test_processes_side_by_side_measure_the_same(
    data: Path, tmp_path: Path, finished: tuple[ScoresRecord, Path]
) -> None:
    record = run(
        FakeClip(), suite="datacomp/full", data=data, out=tmp_path, map_tasks=ProcessMap(2)
    )
    assert record.id == finished[0].id


def test_datasets_are_read_from_a_web_server(data: Path, tmp_path: Path, finished) -> None:
    (tmp_path / "two.yaml").write_text(
        "{name: two, version: '1', benchmark: datacomp, description: Two., headline: mean, "
        "tasks: [cifar10, flickr_1k], aggregates: [{name: mean, how: mean}]}"
    )
    handler = partial(SimpleHTTPRequestHandler, directory=str(data))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        record = run(
            FakeClip(), suite=str(tmp_path / "two.yaml"), data=address, out=tmp_path / "out"
        )
        server.shutdown()
        thread.join()
    local = {score.task: score.value for score in finished[0].results.tasks}
    assert {s.task: s.value for s in record.results.tasks} == {
        name: local[name] for name in ("cifar10", "flickr_1k")
    }


def test_every_dataset_of_the_suite_has_a_home_on_the_hub() -> None:
    homes = {task.name: image_folder(task, "hub") for task in datacomp_tasks().values()}
    assert homes["cifar10"] == "hf://datasets/djghosh/wds_cifar10_test"
    assert homes["flickr_1k"] == "hf://datasets/nlphuji/flickr_1k_test_image_text_retrieval"
    assert homes["winogavil"] == "hf://datasets/nlphuji/winogavil"
    assert len(set(homes.values())) == 40
    with pytest.raises(DataError, match="emoji_groups is not on the hub"):
        image_folder(load_task("emoji_groups"), "hub")


# ---- faults


@pytest.fixture
def spoiled(data: Path, tmp_path: Path) -> Path:
    """A copy of three datasets that a test may damage."""
    for name in ("wds_cifar10_test", "wds_mnist_test", "wds_stl10_test"):
        shutil.copytree(data / name, tmp_path / "data" / name)
    (tmp_path / "three.yaml").write_text(
        "{name: three, version: '1', benchmark: datacomp, description: Three., headline: mean, "
        "tasks: [cifar10, mnist, stl10], aggregates: [{name: mean, how: mean}]}"
    )
    return tmp_path


def rewrite(path: Path, change) -> None:
    """Give every member of a tar to `change(name, bytes)`, which returns its bytes."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            content = change(name, content)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def ask(folder: Path, model: FakeClip) -> ScoresRecord:
    return run(model, suite=str(folder / "three.yaml"), data=folder / "data", out=folder / "out")


def test_a_failed_dataset_is_named_and_the_others_are_kept(spoiled: Path) -> None:
    shard = spoiled / "data" / "wds_mnist_test" / "test" / "1.tar"
    whole = shard.read_bytes()
    rewrite(shard, lambda name, content: b"no" if name == "s0000030.png" else content)
    model = FakeClip()
    with pytest.raises(DataError, match=r"task mnist: .*sample s0000030: the image does not dec"):
        ask(spoiled, model)
    assert not (spoiled / "out" / "record.json").exists()
    assert {p.name for p in (spoiled / "out" / "logs").iterdir()} == {"cifar10", "stl10"}
    shard.write_bytes(whole)
    read_images.cache_clear()  # as in another process
    again = FakeClip()
    assert ask(spoiled, again).counts["questions"] == 3 * 48
    assert again.num_images == 48, "only the dataset that was missing"


def test_several_failed_datasets_are_all_named(spoiled: Path) -> None:
    for name in ("wds_mnist_test", "wds_stl10_test"):
        rewrite(spoiled / "data" / name / "test" / "0.tar", lambda n, c: b"" if n[-1] == "g" else c)
    with pytest.raises(DataError, match=r"(?s)2 tasks could not .*task mnist.*task stl10"):
        ask(spoiled, FakeClip())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "classnames.txt",
            lambda b: b.replace(b"river\n", b"", 1),
            "has 9 classes, the task has 10",
        ),
        ("classnames.txt", lambda b: b.replace(b"river", b"", 1), "line 1 is empty"),
        ("test/1.tar", lambda b: b[:-9000], r"test/1\.tar.*breaks off"),
        ("test/nshards.txt", lambda b: b"3\n", r"test/2\.tar"),
        ("test/nshards.txt", lambda b: b"two\n", "expected one number"),
    ],
)
def test_a_damaged_dataset_is_refused_before_anything_is_asked(
    spoiled: Path, file: str, change, message: str
) -> None:
    path = spoiled / "data" / "wds_mnist_test" / file
    path.write_bytes(change(path.read_bytes()))
    model = FakeClip()
    with pytest.raises(DataError, match=message):
        ask(spoiled, model)
    assert model.num_images == 0


def test_a_label_out_of_range_is_named(spoiled: Path) -> None:
    shard = spoiled / "data" / "wds_stl10_test" / "test" / "0.tar"
    rewrite(shard, lambda name, content: b"10" if name == "s0000003.cls" else content)
    answer = r"test/0\.tar, sample s0000003: the label 10 is out of range; .* has 10 classes"
    with pytest.raises(DataError, match=answer):
        ask(spoiled, FakeClip())


def test_classes_without_images_are_counted_and_named(data: Path, finished) -> None:
    counts = finished[0].counts
    assert counts["classes_without_pictures/imagenet1k"] == 952
    assert "classes_without_pictures/cifar10" not in counts
    notes = [item.message for item in check_data(load_task("cars"), data) if item.level == "note"]
    assert any(note.startswith("148 classes have no image") for note in notes)


def test_a_suite_without_one_dataset_has_no_average(data: Path, tmp_path: Path) -> None:
    results = {key: 0.5 for key in datacomp_tasks() if key != "wilds/fmow"}
    with pytest.raises(EvalError, match=r"Average is over 38 datasets; 1 have no result: wilds/fm"):
        aggregate_results(results)
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "wds_wilds-fmow_test")
    with pytest.raises(DataError, match=r"task fmow: there is no dataset in .*wds_wilds-fmow_test"):
        run(FakeClip(), suite="datacomp/full", data=tmp_path / "data", out=tmp_path / "out")
    assert list(open_store(str(tmp_path / "out")).list()) == []


# ---- what a person looks at


def page(finished: tuple[ScoresRecord, Path], data: Path, task: str) -> str:
    return image_page(open_run(str(finished[1])), task, data=str(data), limit=5)


def test_the_page_of_a_classification_shows_confusions_and_the_worst_mistakes(
    finished: tuple[ScoresRecord, Path], data: Path
) -> None:
    shown = page(finished, data, "cifar10")
    assert shown.count("<rect ") == 10 * 10
    log = open_run(str(finished[1])).log("cifar10").to_pylist()
    wrong = sorted((r for r in log if not r["correct"]), key=lambda r: r["margin"])
    assert f"The worst of {len(wrong)} mistakes" in shown
    keys = [row["key"] for row in wrong[:5]]
    places = [shown.index(key) for key in keys]
    assert places == sorted(places), "the worst first"
    assert shown.count('<div class="card">') == 5
    assert shown.count("data:image/png;base64,") == 5
    assert "No image has the class" in page(finished, data, "cars")


def test_every_kind_of_task_has_a_page(finished: tuple[ScoresRecord, Path], data: Path) -> None:
    assert "farthest from their image" in page(finished, data, "flickr_1k")
    assert "Cues with the least overlap" in page(finished, data, "winogavil")
    assert "<h2>age</h2>" in page(finished, data, "fairface")
    many = page(finished, data, "imagenet1k")  # too many classes for squares with names
    assert "confusion of 1000 classes" in many
    assert "<rect" not in many


def test_names_are_escaped_and_other_data_is_refused(
    finished: tuple[ScoresRecord, Path], data: Path, tmp_path: Path
) -> None:
    gold = np.array([0, 1])
    values = confusion(gold, gold, ["<script>alert(1)</script>", "b"])
    shown = templates("evals.images").get_template("macros.html").module.confusion(values)
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    shutil.copytree(data / "wds_cifar10_test", tmp_path / "wds_cifar10_test")
    names = tmp_path / "wds_cifar10_test" / "classnames.txt"
    names.write_text(names.read_text().replace("river", "brook"))
    with pytest.raises(EvalError, match=r"the dataset of cifar10 in .* is not the one that was me"):
        page(finished, tmp_path, "cifar10")
    with pytest.raises(EvalError, match="has no task over images 'heldout_ending'"):
        page(finished, data, "heldout_ending")
