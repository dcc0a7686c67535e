"""Characters of UTF-8 text and their properties in the pinned Unicode table."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes
from pipelines.kernels.unicode_table import load_table

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

INDEX, BLOCKS, UNICODE_VERSIONS = load_table()


@nb.njit(cache=True, inline="always")
def decode(data: Bytes, position: int) -> tuple[int, int]:
    """The code point at a byte place of valid UTF-8, and how many bytes it takes."""
    first = np.int64(data[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[position + 1]) & 0x3F), 2
    if first < 0xF0:
        code = (first & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6
        return code | (np.int64(data[position + 2]) & 0x3F), 3
    code = (first & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
    return code | (np.int64(data[position + 2]) & 0x3F) << 6 | (
        np.int64(data[position + 3]) & 0x3F
    ), 4


@nb.njit(cache=True, inline="always")
def flags_of(code: int, index: npt.NDArray[np.uint16], blocks: npt.NDArray[np.uint16]) -> int:
    """The 16 bits of a code point."""
    return np.int64(blocks[np.int64(index[code >> 7]) << 7 | code & 127])


@nb.njit(cache=True, inline="always")
def _width(byte: int) -> int:
    """Bytes of the character that begins with this byte (0x80 or above)."""
    return np.int64(2) + (byte >= 0xE0) + (byte >= 0xF0)


@nb.njit(cache=True, inline="always")
def _flags_at(
    data: Bytes,
    position: int,
    width: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> int:
    """The 16 bits of the character of two to four bytes at a place."""
    code = np.uint32(data[position]) & (np.uint32(0x7F) >> np.uint32(width))
    for k in range(position + 1, position + width):
        code = code << np.uint32(6) | (np.uint32(data[k]) & np.uint32(0x3F))
    high = np.uint32(index[code >> np.uint32(7)]) << np.uint32(7)
    return np.int64(blocks[high | (code & np.uint32(127))])
