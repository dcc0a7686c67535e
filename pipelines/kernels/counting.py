"""How many words there are in all texts together, at the speed of memory."""

from __future__ import annotations

import numba as nb
import numpy as np
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets

BLOCK = 255  # the starts of words in a block fit a byte, so the sum is over bytes (SIMD)


def words(texts: pa.Array) -> int:
    """Runs of bytes between ASCII white space (and control characters) in a large_string array."""
    if len(texts) == 0 or texts.buffers()[2] is None:
        return 0
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)
    offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2], dtype=np.uint8)
    return int(_words(data, offsets))


@nb.njit(cache=True, nogil=True)
def _words(data: Bytes, offsets: Offsets) -> int:
    first, last = offsets[0], offsets[-1]
    count = 0
    for begin in range(first + 1, last, BLOCK):  # where a byte of a word follows one of none
        here = data[begin : min(begin + BLOCK, last)]
        before = data[begin - 1 : min(begin + BLOCK, last) - 1]
        starts = np.uint8(0)  # of one block, so that the loop is one of vectors of bytes
        for i in range(len(here)):
            starts += np.uint8(here[i] > 32) & np.uint8(before[i] <= 32)
        count += np.int64(starts)
    for row in range(len(offsets) - 1):  # and where a row begins with a word
        begin = offsets[row]
        if begin < offsets[row + 1] and data[begin] > 32:
            count += begin == first or data[begin - 1] > 32
    return count
