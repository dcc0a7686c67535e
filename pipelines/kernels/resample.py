"""Resize 8-bit RGB images with Pillow's separable filter, byte for byte.

Pillow's `resize` of 8-bit images works in fixed point: the weights of a filter, normalised in
doubles, are rounded to 22 bits below the point; one pass goes over columns, one over rows, each sum
starting at a half and clipped to 0..255. The same integers in the same order give the same bytes.
Which pass is first was measured on Pillow 13; `pipelines.images.fast_decode` compares before use.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba as nb
import numpy as np
import numpy.typing as npt

Image8 = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.int32]
PRECISION_BITS = 32 - 8 - 2  # of a weight, so that a sum of products fits into 32 bits
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0, "box": 0.5}
CUBIC_A = -0.5  # Pillow's bicubic is that of Keys (1981)


def resize(
    image: Image8,
    size: tuple[int, int],
    *,
    method: str = "bicubic",
    keep: tuple[int, int, int, int] | None = None,
) -> Image8:
    """An image (height, width, 3) at `size` (width, height), as Pillow's `Image.resize` gives it.

    `keep`: the part (left, top, right, bottom) of the result that is computed. ValueError for an
    image of another shape, or a method without weights here.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        actual = f"{image.dtype} {image.shape}"
        raise ValueError(f"expected (height, width, 3) of 8 bits, found {actual}")
    height, width = image.shape[:2]
    new_width, new_height = size
    left, top, right, bottom = (0, 0, new_width, new_height) if keep is None else keep
    across = tuple(part[left:right] for part in weights(width, new_width, method))
    down = tuple(part[top:bottom] for part in weights(height, new_height, method))
    # Pillow 13 does the pass first that leaves less to do: rows where the height shrinks by more
    # than twice what the width does.
    rows_first = new_height < height and height - new_height > 2 * (width - new_width)
    if rows_first:
        image = _down(image, *down)
    elif new_height != height:  # the rows that the second pass reads
        begin, end = int(down[0][0]), int(down[0][-1] + down[1][-1])
        image, down = image[begin:end], (down[0] - np.int32(begin), *down[1:])
    else:
        image = image[top:bottom]
    image = _across(image, *across) if new_width != width else image[:, left:right]
    if new_height != height and not rows_first:
        image = _down(image, *down)
    return image


def planes(image: Image8, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Floats (3, height, width) of an image; `table` (3, 256) has the float of each value."""
    return _planes(np.ascontiguousarray(image), table)


@lru_cache(maxsize=1024)  # about 20 kB each: crops of stored images have up to 512 sizes
def weights(size: int, out: int, method: str) -> tuple[Weights, Weights, Weights]:
    """First input of each output, how many it has, and their weights (outputs, most inputs)."""
    if method not in SUPPORT:
        raise ValueError(f"no filter {method!r}; there are {', '.join(SUPPORT)}")
    scale = size / out
    wide = max(scale, 1.0)
    support = SUPPORT[method] * wide
    most = math.ceil(support) * 2 + 1
    first, count = np.zeros(out, np.int32), np.zeros(out, np.int32)
    table = np.zeros((out, most), np.float64)
    _fill(size, scale, wide, support, list(SUPPORT).index(method), first, count, table)
    scaled = table * (1 << PRECISION_BITS)
    fixed = np.where(table < 0, scaled - 0.5, scaled + 0.5).astype(np.int64).astype(np.int32)
    return first, count, fixed


@nb.njit(cache=True, nogil=True)
def _filter(kind: int, x: float) -> float:
    if kind == 2:  # box
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    x = abs(x)
    if kind == 1:  # bilinear
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return ((CUBIC_A + 2.0) * x - (CUBIC_A + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * CUBIC_A
    return 0.0


@nb.njit(cache=True, nogil=True)
def _fill(
    size: int,
    scale: float,
    wide: float,
    support: float,
    kind: int,
    first: Weights,
    count: Weights,
    table: npt.NDArray[np.float64],
) -> None:
    for out in range(len(first)):
        center = (out + 0.5) * scale
        low = int(center - support + 0.5)
        low = max(low, 0)
        high = int(center + support + 0.5)
        high = min(high, size)
        high -= low
        total = 0.0
        for k in range(high):
            weight = _filter(kind, (k + low - center + 0.5) * (1.0 / wide))
            table[out, k] = weight
            total += weight
        if total != 0.0:
            for k in range(high):
                table[out, k] /= total
        first[out], count[out] = low, high


ROWS = 16  # that are summed at once


@nb.njit(cache=True, nogil=True)
def _across(image: Image8, first: Weights, count: Weights, table: Weights) -> Image8:
    """Sum columns. Sixteen rows are turned on their side, so that one weight meets many values."""
    rows, width, out = image.shape[0], image.shape[1], len(first)
    result = np.empty((rows, out, 3), np.uint8)
    side = np.empty((width, 3 * ROWS), np.uint8)
    sums = np.empty(3 * ROWS, np.int32)
    half = np.int32(1 << (PRECISION_BITS - 1))
    for top in range(0, rows, ROWS):
        here = min(ROWS, rows - top)
        for row in range(here):
            for x in range(width):
                side[x, row] = image[top + row, x, 0]
                side[x, row + ROWS] = image[top + row, x, 1]
                side[x, row + 2 * ROWS] = image[top + row, x, 2]
        for x in range(out):
            for lane in range(3 * ROWS):
                sums[lane] = half
            low = first[x]
            for k in range(count[x]):
                weight = table[x, k]
                for lane in range(3 * ROWS):
                    sums[lane] += np.int32(side[low + k, lane]) * weight
            for row in range(here):
                for channel in range(3):
                    value = sums[row + channel * ROWS] >> PRECISION_BITS
                    result[top + row, x, channel] = min(max(value, 0), 255)
    return result


@nb.njit(cache=True, nogil=True)
def _down(image: Image8, first: Weights, count: Weights, table: Weights) -> Image8:
    """Sum rows."""
    out, across = len(first), image.shape[1] * 3
    flat = np.ascontiguousarray(image).reshape(image.shape[0], across)
    result = np.empty((out, across), np.uint8)
    sums = np.empty(across, np.int32)
    half = np.int32(1 << (PRECISION_BITS - 1))
    for y in range(out):
        for x in range(across):
            sums[x] = half
        low = first[y]
        for k in range(count[y]):
            weight = table[y, k]
            for x in range(across):
                sums[x] += np.int32(flat[low + k, x]) * weight
        for x in range(across):
            result[y, x] = min(max(sums[x] >> PRECISION_BITS, 0), 255)
    return result.reshape(out, image.shape[1], 3)


@nb.njit(cache=True, nogil=True)
def _planes(image: Image8, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    height, width = image.shape[:2]
    result = np.empty((3, height, width), np.float32)
    for y in range(height):
        for x in range(width):
            result[0, y, x] = table[0, image[y, x, 0]]
            result[1, y, x] = table[1, image[y, x, 1]]
            result[2, y, x] = table[2, image[y, x, 2]]
    return result
