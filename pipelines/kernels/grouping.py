"""Equal 128-bit keys brought side by side, in time that grows with their number.

Keys are scattered by the leading bits of a mix of both halves until few share a place, then sorted
there by insertion. Nothing moves among equal keys, so a key that occurs a million times costs no
more than a million that differ.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from pipelines.kernels.bloom import final
from pipelines.kernels.characters import Hashes, Ints

DIGIT_BITS = 11  # 2,048 counters of 8 bytes: a level's counts fit the L1 cache
_P = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: steps far apart


def order(high: Hashes, low: Hashes) -> Ints:
    """Positions so that equal keys are neighbours; equal ones keep the order they came in."""
    digits = 1
    while digits * DIGIT_BITS < min(len(high).bit_length() + 1, 5 * DIGIT_BITS):
        digits += 1
    return _order(np.ascontiguousarray(high), np.ascontiguousarray(low), digits)


def split(values: Hashes, parts: int) -> tuple[Ints, Ints]:
    """Positions part by part (value modulo `parts`), in order inside, and where each part begins.

    Shapes (values,) and (parts + 1,).
    """
    return _split(np.ascontiguousarray(values), parts)


def mixed(high: Hashes, low: Hashes) -> Hashes:
    """One 64-bit hash of both halves of each key."""
    return _mixed(np.ascontiguousarray(high), np.ascontiguousarray(low))


@nb.njit(cache=True, nogil=True)
def _mixed(high: Hashes, low: Hashes) -> Hashes:
    mixed = np.empty(len(high), np.uint64)
    for i in range(len(high)):
        mixed[i] = final(high[i] + _P * final(low[i]))
    return mixed


@nb.njit(cache=True, nogil=True)
def _order(high: Hashes, low: Hashes, digits: int) -> Ints:
    size = len(high)
    buckets = 1 << DIGIT_BITS
    mask = np.uint64(buckets - 1)
    mixed, other = _mixed(high, low), np.empty(size, np.uint64)
    order, next_place = np.arange(size), np.empty(size, np.int64)
    for digit in range(digits):  # from the last of the leading digits to the first
        shift = np.uint64(64 - DIGIT_BITS * (digits - digit))
        counts = np.zeros(buckets + 1, np.int64)
        for i in range(size):
            counts[np.int64((mixed[i] >> shift) & mask) + 1] += 1
        for bucket in range(buckets):
            counts[bucket + 1] += counts[bucket]
        for i in range(size):
            bucket = np.int64((mixed[i] >> shift) & mask)
            other[counts[bucket]], next_place[counts[bucket]] = mixed[i], order[i]
            counts[bucket] += 1
        mixed, other = other, mixed
        order, next_place = next_place, order
    for i in range(1, size):
        value, where = mixed[i], order[i]
        k = i
        while k > 0 and _after(mixed[k - 1], order[k - 1], value, where, high, low):
            mixed[k], order[k] = mixed[k - 1], order[k - 1]
            k -= 1
        mixed[k], order[k] = value, where
    return order


@nb.njit(cache=True, inline="always")
def _after(
    left: np.uint64, left_at: int, right: np.uint64, right_at: int, high: Hashes, low: Hashes
) -> bool:
    """Whether the left key is the greater one."""
    if left != right:
        return left > right
    if high[left_at] != high[right_at]:
        return high[left_at] > high[right_at]
    return low[left_at] > low[right_at]


@nb.njit(cache=True, nogil=True)
def _split(values: Hashes, parts: int) -> tuple[Ints, Ints]:
    begins = np.zeros(parts + 1, np.int64)
    for i in range(len(values)):
        begins[np.int64(values[i] % np.uint64(parts)) + 1] += 1
    for part in range(parts):
        begins[part + 1] += begins[part]
    next_place = begins.copy()
    where = np.empty(len(values), np.int64)
    for i in range(len(values)):
        part = np.int64(values[i] % np.uint64(parts))
        where[next_place[part]] = i
        next_place[part] += 1
    return where, begins
