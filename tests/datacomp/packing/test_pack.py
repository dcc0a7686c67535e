"""Datasets to shards with a record, and shards that were made elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from datacomp.curation.curate import curate
from datacomp.packing.pack import pack_dataset, register_shards
from datacomp.recipe import Recipe
from datacomp.training.train import train
from pipelines.errors import PackError, TrainingError
from pipelines.execution.executors import map_here
from pipelines.formats.pool import open_pool
from pipelines.images.reshard import iter_samples
from pipelines.pipeline import Pipeline
from pipelines.records import RecordError
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store
from tests.datacomp.image_pool import write_images


def pack(folder: Path, recipe: Recipe, out: Path, **options):
    return pack_dataset(
        str(folder / "dataset"), recipe=recipe, out=str(out), map_tasks=map_here, **options
    )


def test_the_record_names_shards_and_dataset(packed_images: Path, small_recipe: Recipe) -> None:
    chain = read_chain(open_store(str(packed_images / "packed")))
    assert [record.kind for record in chain] == ["pool", "dataset", "packed"]
    packed = chain[-1]
    assert packed.counts == {"samples": 120, "shards": 3, "uids_without_sample": 0}
    assert [file.num_rows for file in packed.outputs] == [50, 50, 20]
    uids = [key for key, _ in iter_samples(str(packed_images / "packed"))]
    assert len(set(uids)) == 120


def test_packing_again_gives_the_same_record(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    first = read_chain(open_store(str(packed_images / "packed")))[-1]
    assert pack(packed_images, small_recipe, packed_images / "packed").id == first.id
    assert pack(packed_images, small_recipe, tmp_path / "p").id == first.id
    other = small_recipe.model_copy(update={"shard_size": 30})
    with pytest.raises(RecordError, match="another dataset"):
        pack(packed_images, other, tmp_path / "p")


def test_a_list_that_was_edited_is_refused(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(packed_images / "dataset", tmp_path / "dataset")
    file = tmp_path / "dataset" / "subset.npy"
    file.write_bytes(file.read_bytes()[:-16])
    with pytest.raises(RecordError, match=r"subset\.npy is not the file that its record names"):
        pack(tmp_path, small_recipe, tmp_path / "p")


def test_a_pool_without_images_says_what_to_do(small_recipe: Recipe, tmp_path: Path) -> None:
    write_images(tmp_path / "pool", tars=1, per_tar=20)
    pool = open_pool(str(tmp_path / "pool" / "metadata"))
    curate(
        Pipeline.from_steps([], name="no_filter"),
        pool,
        out=str(tmp_path / "dataset"),
        map_tasks=map_here,
    )
    shutil.move(tmp_path / "pool" / "shards", tmp_path / "elsewhere")
    with pytest.raises(PackError, match=r"has no tars .*; fetch its images with `datacomp pool`"):
        pack(tmp_path, small_recipe, tmp_path / "p")
    write_images(tmp_path / "other", tars=1, per_tar=1)
    shutil.rmtree(tmp_path / "other" / "metadata")
    made = pack(tmp_path, small_recipe, tmp_path / "p", tars=str(tmp_path / "elsewhere"))
    assert made.counts["samples"] == 20


def test_none_of_the_uids_in_the_tars_is_an_error(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    from tests.pipelines.images.made_up_tars import write_pool

    write_pool(tmp_path / "tars", tars=1, per_tar=5)
    with pytest.raises(PackError, match="none of the 120 uids"):
        pack(packed_images, small_recipe, tmp_path / "p", tars=str(tmp_path / "tars"))


def test_shards_of_another_resharder_are_registered_and_trained_on(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(packed_images / "packed", folder)
    for name in ("record.json", "chain.json"):
        (folder / name).unlink()
    with pytest.raises(TrainingError, match="run first: datacomp register-shards"):
        train(str(folder), recipe=small_recipe, seed=0, out=str(tmp_path / "model"))
    record = register_shards(str(folder), recipe=small_recipe)
    assert record.counts == {"samples": 120, "shards": 3}
    chain = read_chain(open_store(str(folder)))
    assert chain[1].work.external
    short = small_recipe.model_copy(update={"samples": 64, "num_checkpoints": 1})
    train(str(folder), recipe=short, seed=0, out=str(tmp_path / "model"))
    with pytest.raises(PackError, match=r"has a record\.json already"):
        register_shards(str(folder), recipe=small_recipe)


def test_a_folder_that_no_resharder_wrote_is_refused(
    packed_images: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(PackError, match=r"has no meta\.json"):
        register_shards(str(tmp_path), recipe=small_recipe)
    shutil.copytree(packed_images / "packed", tmp_path / "s")
    (tmp_path / "s" / "record.json").unlink()
    (tmp_path / "s" / "00000002.tar").unlink()
    content = orjson.loads((tmp_path / "s" / "meta.json").read_bytes())
    assert content["output_shard_count"] == 3
    with pytest.raises(PackError, match=r"has 2 tars, meta\.json says 3; copy the folder again"):
        register_shards(str(tmp_path / "s"), recipe=small_recipe)
