"""Training: open_clip's loop under a recipe, the same after a kill, the same batch in parts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import load_file

from datacomp.recipe import Recipe
from datacomp.training.open_clip_loop import _is_trainable, check_skipped, skipped
from datacomp.training.train import METRICS, WEIGHTS, _check_samples, _shards, train
from leaderboard.rounds.train_folder import metric_lines
from pipelines.errors import BatchError, TrainingError
from pipelines.records import ModelRecord, PackedRecord, RecordError, parse_record
from pipelines.storage.open import open_store
from tests.datacomp.image_pool import add_member, draw

ROOT = Path(__file__).parents[3]


def run(packed: Path, recipe: Recipe, out: Path, **options) -> ModelRecord:
    return train(str(packed / "packed"), recipe=recipe, seed=0, out=str(out), **options)


@pytest.fixture(scope="module")
def trained(
    packed_images: Path, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    run(packed_images, small_recipe, out)
    return out


def read(folder: Path) -> ModelRecord:
    return parse_record((folder / "record.json").read_bytes(), source="record")


def test_a_training_leaves_a_record_weights_metrics_and_a_curve(trained: Path) -> None:
    record = read(trained)
    assert record.counts["steps"] == 12
    assert record.results["samples_seen"] == 12 * 32
    rows = metric_lines(trained / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["samples"] for row in rows] == [32 * n for n in range(1, 13)]
    assert rows[0]["loss"] == pytest.approx(np.log(32), abs=0.3)  # chance among 32
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["logit_scale"] == pytest.approx(1 / 0.07, rel=0.05)
    assert rows[1]["learning_rate"] == pytest.approx(1e-3)  # warmup of two steps
    left = {path.name for path in trained.iterdir()}
    assert left >= {WEIGHTS, METRICS, "open_clip_config.json", "loss.svg", "log.txt"}
    assert "open_clip" not in left
    assert b"samples seen" in (trained / "loss.svg").read_bytes()
    skipped = record.made_by.figures["skipped/UnidentifiedImageError"]
    assert skipped > 0  # two images of the pool do not decode; they are reported, not hidden


def test_open_clip_opens_the_folder(trained: Path) -> None:
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{trained}")
    stored = load_file(trained / WEIGHTS)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), stored[name])
    tokens = open_clip.get_tokenizer(f"local-dir:{trained}")(["a red circle"])
    assert model.encode_text(tokens).shape == (1, 64)
    from PIL import Image

    image = transform(Image.new("RGB", (40, 30)))
    assert image.shape == (3, 32, 32)
    assert torch.isfinite(model.encode_image(image[None])).all()


def test_the_same_again_gives_the_same_weights_and_id(
    trained: Path, packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    again = run(packed_images, small_recipe, tmp_path / "again")
    assert again.id == read(trained).id
    other = train(
        str(packed_images / "packed"), recipe=small_recipe, seed=1, out=str(tmp_path / "other")
    )
    assert other.outputs[0].sha256 != again.outputs[0].sha256


@pytest.mark.slow
def test_loaders_do_not_change_the_number_of_steps(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    record = run(packed_images, small_recipe, tmp_path / "three", loader_workers=3)
    assert record.counts["steps"] == 12
    again = run(packed_images, small_recipe, tmp_path / "again", loader_workers=3)
    assert again.id == record.id


def test_a_batch_in_parts_moves_the_weights_alike(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    """The same samples, the same contrast over all 32: the same steps, up to rounding."""
    recipe = small_recipe.model_copy(update={"samples": 4 * 32, "num_checkpoints": 1})
    first = run(packed_images, recipe, tmp_path / "one")
    four = run(packed_images, recipe, tmp_path / "four", max_batch=8)
    assert four.made_by.figures["parts"] == 4
    assert four.counts["steps"] == first.counts["steps"]
    losses = [
        [row["loss"] for row in metric_lines(tmp_path / name / "metrics.jsonl")]
        for name in ("one", "four")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


COMMAND = [sys.executable, "-m", "datacomp", "train", "--scale", "tiny"]


def command(packed: Path, recipe_file: Path, out: Path) -> list[str]:
    named = ["--recipe", str(recipe_file), "--data", str(packed / "packed"), "--out", str(out)]
    return [*COMMAND, *named]


@pytest.mark.slow
def test_killed_in_its_second_part_it_ends_with_the_same_model(
    trained: Path, packed_images: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    options = command(packed_images, recipe_file, out)
    process = subprocess.Popen(options, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not any(row["step"] >= 5 for row in metric_lines(out / "metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "record.json").exists(), "it was killed before its end"
    done = subprocess.run(options, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ETA" in done.stderr
    record = read(out)
    assert record.made_by.figures["resumed"] == 1
    assert record.id == read(trained).id


@pytest.mark.slow
def test_two_processes_of_torchrun_share_the_batch(
    packed_images: Path, recipe_file: Path, tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    options = command(packed_images, recipe_file, tmp_path / "two")
    done = subprocess.run(
        [*torchrun, "--master-port", "0", "--rdzv-backend", "c10d", *options[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model ") == 1, "only the first process prints"
    record = read(tmp_path / "two")
    assert record.made_by.figures["gpus"] == 2
    assert record.counts["steps"] == 12
    rows = metric_lines(tmp_path / "two" / "metrics.jsonl")
    assert rows[-1]["samples"] == 12 * 32
    assert rows[-1]["loss"] < rows[0]["loss"]


# ---- what is refused


def test_gpus_that_cannot_share_the_batch_are_refused_before_anything(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        TrainingError, match="3 processes were started, but MASTER_ADDR does not say"
    ):
        run(packed_images, small_recipe, tmp_path / "x")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(BatchError, match=r"3 GPUs cannot share the batch of 32 .*: 1, 2, 4"):
        run(packed_images, small_recipe, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_shards_that_changed_are_refused(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(packed_images, tmp_path / "copy")
    shard = tmp_path / "copy" / "packed" / "00000001.tar"
    shard.write_bytes(shard.read_bytes()[:-700])
    with pytest.raises(TrainingError, match=r"00000001\.tar has \d+ bytes, its record says \d+"):
        run(tmp_path / "copy", small_recipe, tmp_path / "x")


def test_shards_without_a_image_that_decodes_are_refused(
    small_recipe: Recipe, tmp_path: Path
) -> None:
    from datacomp.curation.curate import curate
    from datacomp.packing.pack import pack_dataset
    from pipelines.execution.executors import map_here
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline
    from tests.datacomp.image_pool import write_images

    write_images(tmp_path / "pool", tars=1, per_tar=40, broken=40)
    pool = open_pool(str(tmp_path / "pool" / "metadata"))
    curate(
        Pipeline.from_steps([], name="no_filter"), pool, out=str(tmp_path / "d"), map_tasks=map_here
    )
    pack_dataset(
        str(tmp_path / "d"), recipe=small_recipe, out=str(tmp_path / "packed"), map_tasks=map_here
    )
    with pytest.raises(TrainingError, match=r"40 of its first 40 samples .*40x an image that"):
        run(tmp_path, small_recipe, tmp_path / "x")


def test_a_folder_of_other_work_is_refused(
    trained: Path, packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match="other shards"):
        train(str(packed_images / "packed"), recipe=small_recipe, seed=2, out=str(trained))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "work.json").write_bytes(orjson.dumps({"key": "other"}))
    with pytest.raises(RecordError, match="holds another training run, unfinished"):
        run(packed_images, small_recipe, tmp_path / "half")
    with pytest.raises(RecordError, match="dataset record; expected packed shards"):
        train(str(packed_images / "dataset"), recipe=small_recipe, seed=0, out=str(tmp_path / "y"))


def test_a_loss_that_is_no_number_stops_the_training(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    wild = small_recipe.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+"):
        run(packed_images, wild, tmp_path / "x")
    assert not (tmp_path / "x" / "record.json").exists()


def test_a_pool_of_broken_images_is_not_trained_on(tmp_path, small_recipe) -> None:
    """More than a tenth of the samples read; fewer than twenty of them say nothing."""
    errors = [
        f"Handling webdataset error (UnidentifiedImageError('{n}')). Ignoring." for n in range(30)
    ]
    errors += ["Handling webdataset error (UnusableSample('7: no txt')). Ignoring."] * 5
    lines = b"".join(orjson.dumps({"error": error}) + b"\n" for error in errors)
    (tmp_path / "skipped.jsonl").write_bytes(lines)
    assert skipped(tmp_path) == {"UnidentifiedImageError": 30, "UnusableSample": 5}
    check_skipped(tmp_path, samples=315)
    with pytest.raises(
        TrainingError, match=r"35 of 349 samples read .*30 Unidentified.*5 Unusable"
    ):
        check_skipped(tmp_path, samples=314)
    (tmp_path / "skipped.jsonl").write_bytes(lines[: lines.index(b"\n") + 1] * 19)
    check_skipped(tmp_path, samples=1)


def test_a_broken_pool_is_refused_before_it_is_trained_on(tmp_path) -> None:
    good, broken = draw(0)[0], b"no image"
    for broken_ones, refused in ((1, False), (2, True), (4, True)):
        images = [broken] * broken_ones + [good] * (4 - broken_ones)
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for number, image in enumerate(images):
                add_member(tar, f"{number}.png", image)
                add_member(tar, f"{number}.txt", b"a caption")
        if refused:
            with pytest.raises(TrainingError, match=rf"{broken_ones} of its first 4 samples"):
                _check_samples(open_store(str(tmp_path)), "0.tar")
        else:
            _check_samples(open_store(str(tmp_path)), "0.tar")


def test_samples_without_a_caption_or_image_are_counted(caplog) -> None:
    image = {"__key__": "a", "png": b"", "txt": b""}
    assert _is_trainable(image)
    assert not _is_trainable({"__key__": "b", "gif": b"", "txt": b""})
    assert not _is_trainable({"__key__": "c", "png": b""})
    assert [record.getMessage() for record in caplog.records] == [
        "Handling webdataset error (UnusableSample('b: no png, jpg, jpeg or webp')). Ignoring.",
        "Handling webdataset error (UnusableSample('c: no txt')). Ignoring.",
    ]


@pytest.mark.s3
def test_shards_of_a_bucket_are_read_by_the_project_s_own_client(
    packed_images: Path, bucket: str
) -> None:
    store = open_store(f"{bucket}/packed")
    for path in sorted((packed_images / "packed").rglob("*")):
        if path.is_file():
            with store.create(str(path.relative_to(packed_images / "packed"))) as writer:
                writer.write(path.read_bytes())
    record = parse_record(store.read_bytes("record.json"), source="record.json")
    assert isinstance(record, PackedRecord)
    addresses = _shards(store, record)
    names = [file.name for file in record.outputs if file.name.endswith(".tar")]
    assert len(addresses) == len(names)
    kind, _, command = addresses[0].partition(":")
    read = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert kind == "pipe"
    assert read.stdout == (packed_images / "packed" / names[0]).read_bytes()
