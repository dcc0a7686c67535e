"""The headers of a tar file (POSIX ustar) in memory, one after the other."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.words import Ints

CUT, CHECKSUM, SIZE, KIND, MANY, EXTENDED = 1, 2, 3, 4, 5, 6


def walk(data: npt.NDArray[np.uint8], most: int) -> tuple[Ints, Ints, int, int]:
    """Places of the headers of plain files, their sizes, where reading stopped, and why.

    The last is 0 at the block of zeros that ends a tar, else one of the codes above: EXTENDED is a
    header of an extension (long names, sparse files), which is not read here.
    """
    return _walk(data, most)


@nb.njit(cache=True, nogil=True)
def _walk(
    data: npt.NDArray[np.uint8], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int, int]:
    places = [np.int64(0) for _ in range(0)]
    sizes = [np.int64(0) for _ in range(0)]
    place, fault = np.int64(0), 0
    length = len(data)
    while True:
        if place + 512 > length:
            fault = 1  # without the block of zeros at the end, nobody knows what is missing
            break
        blank = True
        total = np.int64(0)
        for k in range(512):
            byte = data[place + k]
            if byte:
                blank = False
            total += 32 if 148 <= k < 156 else np.int64(byte)
        if blank:
            break
        told, digits = np.int64(0), 0
        for k in range(148, 156):
            byte = data[place + k]
            if 48 <= byte <= 55:
                told, digits = told * 8 + (byte - 48), digits + 1
            elif digits or byte not in (0, 32):
                break
        if digits == 0 or told != total:
            fault = 2
            break
        kind = data[place + 156]
        if kind in (76, 75, 120, 103, 83):  # L K x g S: extensions
            fault = 6
            break
        size, digits = np.int64(0), 0
        for k in range(124, 136):
            byte = data[place + k]
            if 48 <= byte <= 55:
                size, digits = size * 8 + (byte - 48), digits + 1
            elif digits or byte not in (0, 32):
                break
        if digits == 0:
            fault = 3
            break
        if kind != 48 and kind != 0 and kind != 53:
            fault = 4
            break
        if place + 512 + size > length:
            fault = 1
            break
        if kind != 53:  # folders hold nothing
            if len(places) >= most:
                fault = 5
                break
            places.append(place)
            sizes.append(size)
        place += 512 + (size + 511) // 512 * 512
    return np.array(places, dtype=np.int64), np.array(sizes, dtype=np.int64), place, fault
