"""Which vectors of a cluster go, against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.global_steps import vector_groups
from pipelines.global_steps.vector_groups import nearest_kept


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def slow(vectors: np.ndarray, least: float) -> list[int]:
    rows = vectors.astype(np.float32)
    kept: list[int] = []
    copy_of = []
    for number, row in enumerate(rows):
        products = [round(float(row @ rows[other]), 5) for other in kept]
        if products and max(products) >= least:
            copy_of.append(kept[int(np.argmax(products))])
        else:
            kept.append(number)
            copy_of.append(number)
    return copy_of


@pytest.mark.parametrize("block", [4, 1024])
def test_a_row_goes_if_one_that_stays_is_as_similar(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_groups, "BLOCK", block)
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(9, 16))
    vectors = unit(centres[rng.integers(0, 9, 60)] + 0.12 * rng.normal(size=(60, 16)))
    copy_of, similarity = nearest_kept(vectors, 0.9)
    assert copy_of.tolist() == slow(vectors, 0.9)
    assert (similarity >= 0.9 - 1e-6).all()
    assert 9 <= len(set(copy_of.tolist())) < 40


def test_what_is_like_one_that_went_stays() -> None:
    # 0, 20 and 40 degrees: the second is a copy of the first, the third of none that stays
    angles = np.deg2rad([0, 20, 40])
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    copy_of, similarity = nearest_kept(vectors, float(np.cos(np.deg2rad(25))))
    assert copy_of.tolist() == [0, 0, 2]
    assert similarity[1] == pytest.approx(np.cos(np.deg2rad(20)), abs=1e-3)


def test_nothing_has_no_copies() -> None:
    copy_of, _ = nearest_kept(np.zeros((0, 3), np.float16), 0.9)
    assert len(copy_of) == 0
