"""Nearest centroids: the first of the greatest inner products, on any device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.image_text import clusters
from pipelines.image_text.clusters import NearTargets, nearest, on_device

pytest.importorskip("torch")


def exactly(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (features.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)


def test_rough_products_and_an_exact_look_give_the_exact_answer(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal(64)
    centroids = (base + 0.05 * rng.standard_normal((500, 64))).astype(np.float32)  # all alike
    features = (base + 0.05 * rng.standard_normal((300, 64))).astype(np.float32)
    rough = features.astype(np.float64) @ np.float64(_bf16(centroids)).T
    expected = exactly(features, centroids)
    assert (rough.argmax(axis=1) != expected).any()  # the rough products alone would be wrong
    monkeypatch.setattr(clusters, "DEVICE_BYTES", 4 * 500 * 7)  # seven rows at a time
    assert (on_device("cpu", centroids)(features) == expected).all()


def test_the_first_of_equal_centroids_is_taken() -> None:
    centroids = np.array([[0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    features = np.array([[2, 0], [0, 3], [1, 1], [0, 0]], np.float32)
    assert on_device("cpu", centroids)(features).tolist() == [1, 0, 0, 0]
    assert nearest(features, centroids).tolist() == [1, 0, 0, 0]


def test_lengths_of_many_magnitudes_change_nothing() -> None:
    rng = np.random.default_rng(1)
    scale = 10.0 ** rng.integers(-6, 7, (400, 1))
    features = (rng.standard_normal((400, 32)) * scale).astype(np.float32)
    centroids = (rng.standard_normal((200, 32)) * 10.0 ** rng.integers(-3, 4, (200, 1))).astype(
        np.float32
    )
    assert (on_device("cpu", centroids)(features) == exactly(features, centroids)).all()


@pytest.mark.gpu
def test_a_gpu_answers_as_exact_arithmetic_does() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    rng = np.random.default_rng(2)
    centroids = rng.standard_normal((10_000, 768)).astype(np.float32)
    features = rng.standard_normal((4_000, 768)).astype(np.float32)
    assert (on_device("cuda", centroids)(features) == exactly(features, centroids)).all()


def _bf16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, as float32."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF_0000)).view(np.float32)


class Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, name: str) -> Path:
        return self._path / name


@pytest.mark.parametrize("on_torch", [False, True])
def test_features_that_are_no_numbers_belong_to_no_cluster(tmp_path, on_torch: bool) -> None:
    """Also where the device's function assigns, which has no cluster for a row of NaN."""
    np.save(tmp_path / "centroids.npy", np.eye(2, dtype=np.float32))
    np.save(tmp_path / "targets.npy", np.array([[1, 0]], np.float32))
    step = NearTargets(centroids="centroids.npy", targets="targets.npy")
    step.load(Folder(tmp_path))
    if on_torch:
        step._nearest = on_device("cpu", step._centroids)
    rows = np.array([[1, 0], [0, 1], [np.nan, 0], [2, 0], [np.inf, 0], [-np.inf, 0]], np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 2)
    table = pa.table({"row": pa.array(range(6), pa.int64()), "l14_img": column})
    bad = "features_are_no_numbers"
    assert step.reject(Batch(table)).to_pylist() == [None, "far_from_targets", bad, None, bad, bad]
