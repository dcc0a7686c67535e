"""The headers of a tar file (POSIX ustar) in memory, one after the other."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.words import Ints

CUT, CHECKSUM, SIZE, MANY, EXTENDED = 1, 2, 3, 5, 6


def walk(data: npt.NDArray[np.uint8], most: int) -> tuple[Ints, Ints, int, int, int]:
    """Places of the headers of plain files, their sizes, where reading stopped, why, and links.

    The fourth is 0 at the blocks of zeros that end a tar, else one of the codes above: EXTENDED is
    a header of an extension (long names, sparse files), which is not read here. A tar may follow
    another in one file; whatever follows the zeros and is not a header is a fault. The last counts
    links and devices, which are passed over.
    """
    return _walk(data, most)


@nb.njit(cache=True, nogil=True)
def _walk(
    data: npt.NDArray[np.uint8], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, int, int]:
    places = [np.int64(0) for _ in range(0)]
    sizes = [np.int64(0) for _ in range(0)]
    position, fault = np.int64(0), 0
    length, links, ended = len(data), 0, False
    while True:
        if position + 512 > length:
            fault = 0 if ended else 1  # without the zeros, nobody knows what is missing
            for k in range(position, length):
                if data[k]:
                    fault = 1
            break
        blank = True
        total = np.int64(0)
        for k in range(512):
            byte = data[position + k]
            if byte:
                blank = False
            total += 32 if 148 <= k < 156 else np.int64(byte)
        if blank:
            ended = True
            position += 512
            continue
        ended = False
        checksum, digits = np.int64(0), 0
        for k in range(148, 156):
            byte = data[position + k]
            if 48 <= byte <= 55:
                checksum, digits = checksum * 8 + (byte - 48), digits + 1
            elif digits or byte not in (0, 32):
                break
        if digits == 0 or checksum != total:
            fault = 2
            break
        kind = data[position + 156]
        if kind in (76, 75, 120, 103, 83):  # L K x g S: extensions
            fault = 6
            break
        if kind in (49, 50, 51, 52, 54):  # links, devices, pipes: no bytes follow
            links += 1
            position += 512
            continue
        size, digits = np.int64(0), 0
        if data[position + 124] == 128:  # base 256, of sizes from 8 GiB on, and of some writers
            for k in range(125, 136):
                digits += 1
                if size >= 1 << 54:
                    digits = 0
                    break
                size = size * 256 + np.int64(data[position + k])
        else:
            for k in range(124, 136):
                byte = data[position + k]
                if 48 <= byte <= 55:
                    size, digits = size * 8 + (byte - 48), digits + 1
                elif digits or byte not in (0, 32):
                    break
        if digits == 0:
            fault = 3
            break
        if position + 512 + size > length:
            fault = 1
            break
        if kind != 53:  # folders hold nothing
            if len(places) >= most:
                fault = 5
                break
            places.append(position)
            sizes.append(size)
        position += 512 + (size + 511) // 512 * 512
    headers = np.array(places, dtype=np.int64), np.array(sizes, dtype=np.int64)
    return headers[0], headers[1], position, fault, links
