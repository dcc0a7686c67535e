"""A few images in a log, to show what a model draws.

Images are square, with one or three channels and at most `MAX_SIDE` pixels wide, stored as lists of
bytes by channel, row and column. The length determines the shape: 3 s^2 is never a square, so a
length is that of a grey or of a colour image, never of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.models import Floats

NUM_SHOWN = 36
"""How many images are in a log, the first ones: six rows of six."""
MAX_SIDE = 64  # pixels: 36 colour images take at most 442 kB of a log

Bytes = npt.NDArray[np.uint8]


def shown_column(images: Floats, *, rows: int) -> pa.Array:
    """The first `NUM_SHOWN` images (n, channels, side, side) in [-1, 1] of a log with `rows`."""
    shown: list[list[int] | None] = [None] * rows
    for number, image in enumerate(images[:NUM_SHOWN]):
        shown[number] = small_bytes(image).reshape(-1).tolist()
    return pa.array(shown, pa.list_(pa.uint8()))


def small_bytes(image: Floats) -> Bytes:
    """An image (channels, side, side) as bytes, shrunk by block means to at most `MAX_SIDE`."""
    channels, side, _ = image.shape
    factor = -(-side // MAX_SIDE)
    if factor > 1:
        whole = side // factor * factor
        blocks = image[:, :whole, :whole].reshape(
            channels, whole // factor, factor, whole // factor, factor
        )
        image = blocks.mean((2, 4))
    return bytes_of(image)


def bytes_of(images: Floats) -> Bytes:
    """Values in [-1, 1] as 0 to 255, of any shape."""
    pixels: Bytes = ((np.clip(images, -1, 1) + 1) * 127.5).round().astype(np.uint8)
    return pixels


def shape_of(length: int) -> tuple[int, int, int] | None:
    """(channels, side, side) of an image of `length` bytes; None if no image has this length."""
    for channels in (1, 3):
        side = math.isqrt(length // channels)
        if 1 <= side <= MAX_SIDE and channels * side * side == length:
            return channels, side, side
    return None


def read_shown(values: Sequence[Sequence[int] | None]) -> list[Bytes]:
    """The images of a column up to the first null. ValueError for one of another shape."""
    images: list[Bytes] = []
    for value in values:
        if value is None:
            break
        shape = shape_of(len(value))
        if shape is None or (images and images[0].shape != shape):
            raise ValueError(f"{len(value)} bytes are not a square image of the others' shape")
        images.append(np.array(value, np.uint8).reshape(shape))
    return images


def nearest_images(images: Floats, blocks: Iterable[Floats]) -> Floats:
    """For each image the nearest of all images of the blocks, by Euclidean distance."""
    rows = images.reshape(len(images), -1)
    best, result = np.full(len(rows), np.inf), np.zeros_like(images)
    for block in blocks:
        others = block.reshape(len(block), -1)
        gaps = (rows**2).sum(1)[:, None] + (others**2).sum(1) - 2 * rows @ others.T
        position, value = gaps.argmin(1), gaps.min(1)
        closer = value < best
        best[closer], result[closer] = value[closer], block[position[closer]]
    return result


def grid(images: npt.NDArray[np.uint8], *, columns: int) -> Bytes:
    """Images (n, channels, h, w) in a grid with white lines between, (height, width, 3) uint8."""
    number, channels, height, width = images.shape
    rows = -(-number // columns)
    result = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 255, np.uint8)
    for n, image in enumerate(images):
        top, left = n // columns * (height + 1) + 1, n % columns * (width + 1) + 1
        colours = np.broadcast_to(image, (3, height, width)) if channels == 1 else image[:3]
        result[top : top + height, left : left + width] = colours.transpose(1, 2, 0)
    return result


def interleaved(first: Sequence[Bytes], second: Sequence[Bytes], *, columns: int) -> Bytes:
    """Rows of the first images, each with a row of the second ones below it, (n, ...)."""
    white = np.full_like(first[0], 255)
    result: list[Bytes] = []
    for begin in range(0, len(first), columns):
        for images in (first, second):
            row = list(images[begin : begin + columns])
            result += row + [white] * (columns - len(row))
    return np.stack(result)
