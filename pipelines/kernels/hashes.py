"""Hashes of words, byte by byte: those of many words at a time, as vectors.

A word's hash is a key of filters and signatures that are kept, so it never changes; the state of
one word cannot be computed faster than a byte at a time, but the words do not depend on each other.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes
from pipelines.kernels.characters import Hashes, Ints
from pipelines.kernels.vectors import eight, ones

HASH_SEED = np.uint64(0x9E3779B97F4A7C15)  # not 0, or leading zero bytes would not count
HASH_PRIME = np.uint64(0x517CC1B727220A95)  # odd, so that no bit is lost; rustc's FxHash has it
GROUP = 512  # words that are hashed together: their numbers fit the first cache

_1, _5, _8 = np.uint64(1), np.uint64(5), np.uint64(8)
_59, _255 = np.uint64(59), np.uint64(255)
_ALL_BITS, _TOP_BITS = ~np.uint64(0), np.uint64(0x8080808080808080)


@nb.njit(cache=True, inline="always")
def mix(state: np.uint64, byte: np.uint8) -> np.uint64:
    """The next state of the byte hash: rotate, xor, multiply."""
    return ((state << _5 | state >> _59) ^ np.uint64(byte)) * HASH_PRIME


@nb.njit(cache=True)
def measure(
    data: Bytes,
    moved: int,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    begin: int,
    end: int,
    scratch: Hashes,
) -> None:
    """Code points and hashes of the words begin .. end: eight bytes of many words at a time.

    Their places are those in the data and `moved`; eight bytes can be read from any of them.
    """
    words, sizes, states, longer = scratch[0], scratch[1], scratch[2], scratch[3]
    for first in range(begin, end, GROUP):
        num = min(GROUP, end - first)
        for k in range(num):
            at = start[first + k]
            size = stop[first + k] - at
            word = first_eight(data, at - moved, size)
            length[first + k] = size - inner_bytes(word)
            words[k], sizes[k], states[k] = word, np.uint64(size), HASH_SEED
        _mix_all(words, sizes, states, num)
        num_longer = 0
        for k in range(num):
            hashes[first + k] = states[k]
            longer[num_longer] = first + k
            num_longer += sizes[k] > _8
        done = 8
        while num_longer > 0:
            for k in range(num_longer):
                number = np.int64(longer[k])
                at = start[number] + done
                size = stop[number] - at
                word = first_eight(data, at - moved, size)
                length[number] -= inner_bytes(word)
                words[k], sizes[k], states[k] = word, np.uint64(size), hashes[number]
            _mix_all(words, sizes, states, num_longer)
            num, num_longer = num_longer, 0
            for k in range(num):
                hashes[np.int64(longer[k])] = states[k]
                longer[num_longer] = longer[k]
                num_longer += sizes[k] > _8
            done += 8


@nb.njit(cache=True, inline="always")
def first_eight(data: Bytes, at: int, size: int) -> np.uint64:
    """The first eight of some bytes as a number, the first one lowest; zeros behind fewer."""
    return eight(data, at) & (_ALL_BITS >> np.uint64(64 - 8 * min(size, 8)))


@nb.njit(cache=True, inline="always")
def inner_bytes(word: np.uint64) -> int:
    """How many of eight bytes are 10xxxxxx, which begin no character."""
    return ones(word & ~(word << _1) & _TOP_BITS)


@nb.njit(cache=True)
def _mix_all(words: Hashes, sizes: Hashes, states: Hashes, num: int) -> None:
    """Mix the bytes of each word (the first `size` of eight) into its state, as `mix` does."""
    for word in range(num):
        rest, size, state = words[word], sizes[word], states[word]
        for k in range(8):
            mixed = ((state << _5 | state >> _59) ^ (rest & _255)) * HASH_PRIME
            state = mixed if np.uint64(k) < size else state
            rest >>= _8
        states[word] = state
