"""Damaged, edited or unsuitable input of a training run is refused with one clear message."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dclm.recipe import Recipe, num_steps
from dclm.training.train import spike_limit, train
from pipelines.errors import CheckpointError, TrainingError
from pipelines.formats.shards import ShardError
from pipelines.records import ModelRecord, RecordError, parse_record
from pipelines.storage.base import StorageError
from tests.dclm.stopping import StoppedError, stop_at

# ---- Bad input ----------------------------------------------------------------------------------


@pytest.fixture
def spoiled(packed_words, tmp_path: Path):
    """A copy of the packed data that a test may damage."""
    recipe, packed = packed_words
    shutil.copytree(packed, tmp_path / "packed")
    return recipe, tmp_path / "packed"


def run(recipe: Recipe, packed: Path, tmp_path: Path, **options) -> ModelRecord:
    return train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "out"), **options)


def test_missing_shard_is_named(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    (packed / "data" / "00000000.npy").unlink()
    with pytest.raises(ShardError, match=r"00000000\.npy is missing"):
        run(recipe, packed, tmp_path)


def test_truncated_shard_is_named(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    os.truncate(packed / "data" / "00000000.npy", 1000)
    with pytest.raises(ShardError, match=r"00000000\.npy has 1000 bytes, but the record says"):
        run(recipe, packed, tmp_path)


def test_changed_shard_is_named(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    path = packed / "data" / "00000000.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"00000000\.npy was changed"):
        run(recipe, packed, tmp_path)


def test_edited_manifest_is_refused(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    path = packed / "manifest.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"num_sequences": row["num_sequences"] + 1}) + "\n")
    with pytest.raises(ShardError, match="not the manifest that the record names"):
        run(recipe, packed, tmp_path)


def repack(packed: Path, sequences: np.ndarray, num_sequences: int | None = None) -> None:
    """Replace the only shard, and make manifest and record agree with it, or lie about its size."""
    from dclm.packing.openlm_format import ManifestRow, write_manifest
    from pipelines.storage.base import write_bytes
    from pipelines.storage.open import open_store

    np.save(packed / "data" / "00000000.npy", sequences)
    store = open_store(packed)
    shard = write_bytes(store, "data/00000000.npy", store.read_bytes("data/00000000.npy"))
    count = len(sequences) if num_sequences is None else num_sequences
    row = ManifestRow(shard="00000000", num_sequences=count)
    manifest = write_bytes(store, "manifest.jsonl", write_manifest([row]))
    record = parse_record(store.read_bytes("record.json"), source="record")
    sealed = type(record).seal(
        work=record.work, parents=record.parents, outputs=[shard, manifest], made_by=record.made_by
    )
    write_bytes(store, "record.json", sealed.to_json())


def test_manifest_that_lies_about_a_shard_is_refused(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    repack(packed, np.zeros((20, 33), np.uint16), num_sequences=30)
    with pytest.raises(ShardError, match="holds 20 sequences of 33 ids, but the manifest says 30"):
        run(recipe, packed, tmp_path)


def test_ids_beyond_the_vocabulary_are_named(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    sequences = np.zeros((20, 33), np.uint16)
    sequences[13, 5] = 320
    repack(packed, sequences)
    message = r"shard 00000000 rows \[13\] .* holds the id 320, but .* ends at 319"
    with pytest.raises(ShardError, match=message):
        run(recipe, packed, tmp_path)


def test_too_little_data_is_refused(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    repack(packed, np.zeros((7, 33), np.uint16))
    with pytest.raises(ShardError, match="7 sequences, less than one step of 8: too little data"):
        run(recipe, packed, tmp_path)


def test_data_packed_for_another_recipe_is_refused(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    model = recipe.model.model_copy(update={"seq_len": 64})
    other = recipe.model_copy(update={"model": model})
    with pytest.raises(RecordError, match=r"packed with sequence length 32, but .* has 64"):
        run(other, packed, tmp_path)


def test_seed_outside_the_recipe_is_refused(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    with pytest.raises(ValueError, match=r"seed 7 is not allowed .* one of \(0, 1\)"):
        train(str(packed), recipe=recipe, seed=7, out=str(tmp_path))


def test_folder_of_another_training_is_refused(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    run(recipe, packed, tmp_path)
    with pytest.raises(RecordError, match=r"other work .*choose an empty --out"):
        train(str(packed), recipe=recipe, seed=1, out=str(tmp_path / "out"))


def test_checkpoint_of_another_recipe_is_refused(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    with pytest.raises(StoppedError):
        run(recipe, packed, tmp_path, checkpoint_every=5, progress=stop_at(12))
    other = recipe.model_copy(update={"learning_rate": 0.011})
    with pytest.raises(CheckpointError, match=r"of another training .*choose an empty --out"):
        run(other, packed, tmp_path)


def test_damaged_checkpoint_is_named(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    with pytest.raises(StoppedError):
        run(recipe, packed, tmp_path, checkpoint_every=5, progress=stop_at(12))
    path = next((tmp_path / "out" / "checkpoints").glob("step-*/*.distcp"))
    os.truncate(path, 50)
    with pytest.raises(CheckpointError, match=r"step-000000.. is damaged"):
        run(recipe, packed, tmp_path)


def test_no_space_is_said_before_the_training(packed_words, tmp_path: Path, monkeypatch) -> None:
    recipe, packed = packed_words
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(StorageError, match=r"0\.0 GB free, but its checkpoints need"):
        run(recipe, packed, tmp_path)


def test_loss_that_is_no_number_stops_and_names_the_data(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    wild = recipe.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    message = r"the loss of step \d+ is not finite .* its batch is shard 00000000 rows \["
    with pytest.raises(TrainingError, match=message):
        run(wild, packed, tmp_path)


def test_a_jump_of_the_loss_stops_the_training(spoiled, tmp_path: Path) -> None:
    recipe, packed = spoiled
    sequences = np.tile(np.arange(33, dtype=np.uint16), (800, 1))
    sequences[640:648] = np.random.default_rng(0).integers(100, 300, (8, 33))
    repack(packed, sequences)
    recipe = recipe.model_copy(update={"tokens": 100 * 8 * 32})
    message = r"the loss of step 80 jumped from .* shard 00000000 rows \[640, "
    with pytest.raises(TrainingError, match=message):
        run(recipe, packed, tmp_path)
    with pytest.raises(StoppedError):  # past the jump, and stopped behind it
        run(recipe, packed, tmp_path, stop_at_spike=False, checkpoint_every=5, progress=stop_at(90))
    again = run(recipe, packed, tmp_path)
    assert again.counts["steps"] == num_steps(recipe)
    assert again.made_by.figures["passed_spikes"] >= 1  # whoever resumes it does not hide them


def test_the_limit_of_a_jump_grows_with_the_spread_of_the_losses() -> None:
    calm, noisy = [3.0, 3.02] * 25, [2.5, 3.5] * 25
    assert spike_limit(calm) == pytest.approx(3.01 + 2.0)
    assert spike_limit(noisy) == pytest.approx(3.0 + 10 * 1.4826 * 0.5)
    assert spike_limit([*calm, 90.0]) < 6  # one outlier does not move it
