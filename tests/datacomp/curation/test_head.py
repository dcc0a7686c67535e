"""A head over features: what it learns, what it refuses, and the step that applies it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.curation.head import HeadOptions, train_head
from pipelines import kernels
from pipelines.errors import DataError
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.formats.uid_lists import SUBSET
from pipelines.image_text.feature_head import FeatureScore, read_head
from pipelines.records import AssetRecord
from pipelines.registry import build
from pipelines.scoring.train import evaluation_of

DIM, ROWS = 12, 900


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tables of pairs; a third is good, and is on one side of a plane, with some noise."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "tables").mkdir()
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((2, ROWS, DIM))
    good = rng.random(ROWS) < 1 / 3
    image[:, 0] = np.where(good, 2, -2) + rng.standard_normal(ROWS) * 0.5
    image[5] = np.nan
    uids = [f"{n:032x}" for n in rng.permutation(ROWS)]
    for number, part in enumerate(np.array_split(np.arange(ROWS), 3)):
        table = pa.table({"uid": [uids[n] for n in part]})
        pq.write_table(table, folder / "tables" / f"{number}.parquet")
        half = {"l14_img": image[part], "l14_txt": text[part]}
        halves = {name: array.astype(np.float16) for name, array in half.items()}
        np.savez(folder / "tables" / f"{number}.npz", **halves)
    high, low, _ = kernels.uids.parse(
        pa.array([uids[n] for n in np.flatnonzero(good)], pa.large_string())
    )
    records = np.empty(len(high), SUBSET)
    records["f0"], records["f1"] = high, low
    np.save(folder / "good.npy", np.sort(records))
    return folder


def trained(
    pool: Path, out: Path, *, map_tasks: MapTasks = map_here, hidden: int = 0
) -> AssetRecord:
    return train_head(
        open_pool(str(pool / "tables")),
        str(pool / "good.npy"),
        out=out,
        options=HeadOptions(hidden=hidden, held_out=0.3, epochs=200),
        map_tasks=map_tasks,
    )


@pytest.mark.parametrize("hidden", [0, 8])
def test_learns_a_planted_difference(pool: Path, tmp_path: Path, hidden: int) -> None:
    evaluation = evaluation_of(trained(pool, tmp_path / "head.npz", hidden=hidden))
    assert evaluation is not None
    assert evaluation.auc > 0.98
    assert evaluation.auc_of_length is None
    assert evaluation.positives > 50
    assert not (tmp_path / "head.npz.work").exists()


def test_several_processes_train_the_same_head(pool: Path, tmp_path: Path) -> None:
    here = trained(pool, tmp_path / "one" / "head.npz")
    there = trained(pool, tmp_path / "two" / "head.npz", map_tasks=ProcessMap(2))
    assert here.id == there.id


def test_the_step_gives_what_the_head_says(pool: Path, tmp_path: Path) -> None:
    from pipelines.assets.catalogue import Assets
    from pipelines.images.pairs import read_table
    from pipelines.storage.open import open_store

    trained(pool, tmp_path / "head.npz")
    step = build(FeatureScore, {"model": "head.npz"}, where="here")
    assert isinstance(step, FeatureScore)
    step.load(Assets(folders=(tmp_path,)))
    store = open_store(str(pool / "tables"))
    [batch] = read_table(store, "0.parquet", ["uid", "l14_img", "l14_txt"])
    scores = step.modify(batch)["score"]
    assert scores[5].as_py() is None  # its features are no numbers
    with np.load(pool / "tables" / "0.npz") as arrays:
        image, text = arrays["l14_img"].astype(float), arrays["l14_txt"].astype(float)
    head = read_head(tmp_path / "head.npz")
    inputs = np.concatenate(
        [image[0] / np.linalg.norm(image[0]), text[0] / np.linalg.norm(text[0])]
    )
    by_hand = 1 / (1 + np.exp(-(head.weights[0][0] @ inputs + head.biases[0][0])))
    assert scores[0].as_py() == pytest.approx(by_hand, abs=1e-5)  # float32 sums


def test_features_of_another_model_are_refused(pool: Path, tmp_path: Path) -> None:
    from pipelines.assets.catalogue import Assets

    trained(pool, tmp_path / "head.npz")
    step = build(FeatureScore, {"model": "head.npz", "features": ["b32_img"]}, where="here")
    with pytest.raises(ValueError, match="was trained on l14_img, l14_txt"):
        step.load(Assets(folders=(tmp_path,)))


def test_a_list_of_another_pool_is_refused(pool: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros(40, SUBSET))
    with pytest.raises(DataError, match="check that the list is of this pool"):
        train_head(
            open_pool(str(pool / "tables")),
            str(tmp_path / "other.npy"),
            out=tmp_path / "head.npz",
            options=HeadOptions(),
            map_tasks=map_here,
        )
