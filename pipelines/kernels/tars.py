"""The headers of a tar file (POSIX ustar) in memory, one after the other."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.characters import Ints

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


NAME, PREFIX, MAGIC = 100, 345, 257  # bytes of a name, and where prefix and magic begin


@nb.njit(cache=True, nogil=True, inline="always")
def _lower(byte: np.uint8) -> np.uint8:
    return np.uint8(byte + 32) if 65 <= byte <= 90 else byte


@nb.njit(cache=True, nogil=True)
def group(
    data: npt.NDArray[np.uint8], headers: npt.NDArray[np.int64]
) -> tuple[
    bool,
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
]:
    """Members in samples: whether it could be done, dots, ends of names, first members, jsons.

    Dots and ends are places in `data`: a key ends at the dot, its extension begins behind it. The
    last two have one entry a sample: the number of its first member, and of the one whose extension
    is json (-1 if none). It cannot be done for a name that is unsafe, hidden, without extension, or
    continued in the prefix, and for two members of one name; the caller then reads name by name.
    """
    count = len(headers)
    dots = np.empty(count, dtype=np.int64)
    ends = np.empty(count, dtype=np.int64)
    firsts = np.empty(count, dtype=np.int64)
    jsons = np.empty(count, dtype=np.int64)
    samples = 0
    for i in range(count):
        head = headers[i]
        if data[head + PREFIX] and data[head + MAGIC] == 117:  # u of ustar
            return False, dots, ends, firsts, jsons
        end = head
        while end < head + NAME and data[end]:
            end += 1
        leaf, dot = head, np.int64(-1)
        for k in range(head, end):
            byte = data[k]
            if byte == 47:  # a slash ends a folder: `..`, __MACOSX and an empty first are refused
                size = k - leaf
                if size == 0 or data[leaf] == 46 or (size == 8 and data[leaf] == 95):
                    return False, dots, ends, firsts, jsons
                leaf, dot = k + 1, np.int64(-1)
            elif byte == 46 and dot < 0:
                dot = np.int64(k)
        if dot <= leaf or dot + 1 >= end:
            return False, dots, ends, firsts, jsons
        for k in range(dot + 1, end):
            byte = _lower(data[k])
            if not (97 <= byte <= 122 or 48 <= byte <= 57 or byte in (46, 95, 45)):
                return False, dots, ends, firsts, jsons
        dots[i], ends[i] = dot, end
        same = samples > 0 and dots[i - 1] - headers[i - 1] == dot - head
        if same:
            for k in range(dot - head):
                if data[headers[i - 1] + k] != data[head + k]:
                    same = False
                    break
        if not same:
            firsts[samples], jsons[samples] = i, -1
            samples += 1
        for j in range(firsts[samples - 1], i):
            equal = ends[j] - dots[j] == end - dot
            if equal:
                for k in range(end - dot):
                    if _lower(data[dots[j] + k]) != _lower(data[dot + k]):
                        equal = False
                        break
            if equal:
                return False, dots, ends, firsts, jsons
        if end - dot == 5 and (
            _lower(data[dot + 1]) == 106
            and _lower(data[dot + 2]) == 115
            and _lower(data[dot + 3]) == 111
            and _lower(data[dot + 4]) == 110
        ):
            jsons[samples - 1] = i
    return True, dots, ends, firsts[:samples].copy(), jsons[:samples].copy()
