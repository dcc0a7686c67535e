"""The compiled resize gives Pillow's bytes for any sizes, either pass first."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipelines.kernels import resample

METHODS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


def by_pillow(image: np.ndarray, size: tuple[int, int], method: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, METHODS[method]))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_size_gives_the_bytes_of_pillow(method: str) -> None:
    """Noise, and black and white alone: every sum is clipped somewhere."""
    rng = np.random.default_rng(7)
    for number in range(200):
        height, width = rng.integers(1, 300, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if number % 2:
            image = (image > 127).astype(np.uint8) * 255
        size = (int(rng.integers(1, 280)), int(rng.integers(1, 280)))
        actual = resample.resize(image, size, method=method)
        assert np.array_equal(actual, by_pillow(image, size, method)), (image.shape, size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((200, 100), (50, 99)),
        ((201, 100), (50, 100)),
        ((263, 138), (104, 184)),
        ((40, 40), (40, 9)),
    ],
)
def test_the_pass_that_is_first_is_pillow_s(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """On both sides of the rule: rows first where they shrink by more than twice the columns."""
    image = (np.random.default_rng(1).integers(0, 256, (*shape, 3)) > 127).astype(np.uint8) * 255
    assert np.array_equal(resample.resize(image, size), by_pillow(image, size, "bicubic"))


def test_a_part_of_the_result_is_that_part() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        height, width = rng.integers(30, 200, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        size = (int(rng.integers(10, 150)), int(rng.integers(10, 150)))
        left, top = int(rng.integers(0, size[0] - 5)), int(rng.integers(0, size[1] - 5))
        keep = (left, top, left + 5, top + 5)
        whole = by_pillow(image, size, "bicubic")
        part = resample.resize(image, size, keep=keep)
        assert np.array_equal(part, whole[top : top + 5, left : left + 5]), (image.shape, size)


def test_views_with_strides_are_read() -> None:
    image = np.random.default_rng(4).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    part = image[10:70, 20:101]
    assert np.array_equal(resample.resize(part, (31, 17)), by_pillow(part, (31, 17), "bicubic"))


def test_planes_are_read_from_the_table() -> None:
    image = np.array([[[0, 1, 2], [3, 4, 5]]], np.uint8)
    table = np.arange(768, dtype=np.float32).reshape(3, 256)
    assert resample.planes(image, table).tolist() == [[[0, 3]], [[257, 260]], [[514, 517]]]


def test_other_arrays_and_methods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(height, width, 3\)"):
        resample.resize(np.zeros((4, 4), np.uint8), (2, 2))
    with pytest.raises(ValueError, match="no filter 'lanczos'"):
        resample.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), method="lanczos")
