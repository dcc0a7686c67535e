"""Images in a log: their bytes by hand, and what is no image."""

from __future__ import annotations

import numpy as np
import pytest

from evals.images.shown_images import (
    MAX_SIDE,
    NUM_SHOWN,
    grid,
    interleaved,
    nearest_images,
    read_shown,
    shape_of,
    shown_column,
    small_bytes,
)


def test_the_ends_of_the_range_are_black_and_white() -> None:
    image = np.array([[[-1.0, 1.0], [0.0, 2.0]]], np.float32)
    assert small_bytes(image).tolist() == [[[0, 255], [128, 255]]]  # 127.5 rounds to even


def test_a_large_image_becomes_means_of_blocks() -> None:
    """130 pixels need blocks of 3; the last pixel has no whole block and is left out."""
    image = np.zeros((3, 130, 130), np.float32)
    image[0, :3, :3] = 1.0
    small = small_bytes(image)
    assert small.shape == (3, 43, 43)
    assert small[0, 0, 0] == 255
    assert small[1, 0, 0] == small[0, 1, 1] == 128


def test_only_the_first_are_shown_and_read_back() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (NUM_SHOWN + 5, 3, 8, 8)).astype(np.float32)
    column = shown_column(images, rows=len(images))
    assert column.null_count == 5
    back = read_shown(column.to_pylist())
    assert len(back) == NUM_SHOWN
    assert np.array_equal(back[7], small_bytes(images[7]))


def test_a_length_is_of_one_shape_only() -> None:
    lengths: dict[int, tuple[int, int, int]] = {}
    for channels in (1, 3):
        for side in range(1, MAX_SIDE + 1):
            shape = (channels, side, side)
            assert lengths.setdefault(channels * side * side, shape) == shape
            assert shape_of(channels * side * side) == shape
    assert shape_of(0) is shape_of(2) is shape_of((MAX_SIDE + 1) ** 2) is None


@pytest.mark.parametrize("values", [[[0] * 5], [[0] * 4, [0] * 9], [[0] * 12, [0] * 4]])
def test_what_is_no_image_is_refused(values: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="not a square image"):
        read_shown(values)


def test_neighbours_are_the_nearest_of_all_blocks() -> None:
    images = np.array([0.0, 0.9]).reshape(2, 1, 1, 1)
    blocks = [np.array([0.5, -0.1]).reshape(2, 1, 1, 1), np.array([1.0]).reshape(1, 1, 1, 1)]
    assert nearest_images(images, blocks).reshape(-1).tolist() == [-0.1, 1.0]


def test_rows_alternate_and_are_filled_up_with_white() -> None:
    drawn = [np.full((1, 1, 1), value, np.uint8) for value in (1, 2, 3)]
    nearest = [np.full((1, 1, 1), value, np.uint8) for value in (4, 5, 6)]
    order = interleaved(drawn, nearest, columns=2).reshape(-1).tolist()
    assert order == [1, 2, 4, 5, 3, 255, 6, 255]
    pixels = grid(np.array(order, np.uint8).reshape(8, 1, 1, 1), columns=2)
    assert pixels.shape == (9, 5, 3)
    assert pixels[1, [1, 3], 0].tolist() == [1, 2]
    assert (pixels[0] == 255).all()
