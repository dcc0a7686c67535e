"""Arrow strings as the two arrays that loops run over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


def buffers_of(texts: pa.Array) -> tuple[Bytes, Offsets]:
    """The UTF-8 bytes and the offsets of a large_string array: row i is data[o[i]:o[i + 1]].

    No copy. The array must hold no null (`TypeError` and `ValueError` say which promise broke).
    """
    if not pa.types.is_large_string(texts.type):
        raise TypeError(f"a kernel reads large_string, got {texts.type}")
    if texts.null_count:
        raise ValueError(f"a kernel reads texts without null, got {texts.null_count} nulls")
    _, offsets_buffer, data_buffer = texts.buffers()
    if offsets_buffer is None or len(texts) == 0:
        return np.zeros(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)
    offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    if data_buffer is None:
        return np.zeros(0, dtype=np.uint8), offsets
    return np.frombuffer(data_buffer, dtype=np.uint8), offsets


def padded(data: Bytes, offsets: Offsets, padding: int) -> Iterator[tuple[Bytes, Offsets, slice]]:
    """The rows in one or two parts, in whose data `padding` bytes can be read behind every row.

    The last rows are copied when less is behind them. Each part comes with its rows.
    """
    rows = len(offsets) - 1
    first = int(np.searchsorted(offsets[1:], len(data) - padding, side="right"))
    if first > 0:
        yield data, offsets[: first + 1], slice(0, first)
    if first < rows:
        begin = int(offsets[first])
        copied = np.zeros(int(offsets[-1]) - begin + padding, np.uint8)
        copied[: len(copied) - padding] = data[begin : int(offsets[-1])]
        copied.flags.writeable = data.flags.writeable  # or kernels are compiled for both
        yield copied, offsets[first:] - begin, slice(first, rows)


def empty(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of anything, from memory that a batch before has used.

    Fresh pages cost more than most kernels (the first touch of each is a fault); Arrow's allocator
    keeps those that were given back.
    """
    pool = pa.mimalloc_memory_pool() if _MIMALLOC else pa.default_memory_pool()
    buffer = pa.allocate_buffer(max(size, 1) * np.dtype(dtype).itemsize, memory_pool=pool)
    return np.frombuffer(buffer, dtype=dtype)


_MIMALLOC = "mimalloc" in pa.supported_memory_backends()
