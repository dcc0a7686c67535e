"""Random numbers that are a hash of where they are used: same place, same number, on any machine.

numpy's generators may change between versions; a packed dataset may not.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draws(seed: int, use: str, index: int, count: int) -> NDArray[np.uint64]:
    """`count` numbers, uniform over 64 bits, for one use of a seed at one place.

    SplitMix64 (Steele, Lea and Flood 2014) started from a sha256 of (seed, use, index).
    """
    start = hashlib.sha256(f"{seed}/{use}/{index}".encode()).digest()[:8]
    return mixed(np.uint64(int.from_bytes(start, "little")), np.arange(1, count + 1))


def mixed(start: Any, number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The numbers of SplitMix64's sequences from `start`, by their place from 1 on."""
    with np.errstate(over="ignore"):
        value = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return last


def permutation(seed: int, use: str, index: int, count: int) -> NDArray[np.int64]:
    """The numbers below `count` in random order."""
    return np.argsort(draws(seed, use, index, count), kind="stable")
