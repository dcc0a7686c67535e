"""langdetect's identification of languages (Shuyo 2010) over tables of n-grams.

The loops are those of langdetect's `Detector` and `NGram`, operation by operation, so that results
are equal to the last bit; its chance is that of Python's `random.Random`, whose 32-bit outputs are
given.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

EMPTY = np.uint64(0)  # the key of a slot without an n-gram
BLANK = ord(" ")
CODE_BITS = 21  # of a code point: a key is up to three of them, the last one lowest

TRIALS = 7
MAX_DRAWS = 1001  # n-grams that a trial looks at when no language wins: ITERATION_LIMIT and one
CHECKED_EVERY = 5
CONVERGED = 0.99999
ALPHA, ALPHA_WIDTH, BASE_FREQUENCY = 0.5, 0.05, 10000.0


@nb.njit(nogil=True, cache=True)
def fill(keys: Keys, slots: Keys, rows: Ints) -> None:
    """Write keys into an open table of a power of two of `slots`; `rows` are their places."""
    for row in range(len(keys)):
        slot = _first_slot(keys[row], len(slots))
        while slots[slot] != EMPTY:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot], rows[slot] = keys[row], row


@nb.njit(nogil=True, cache=True)
def _first_slot(key: np.uint64, size: int) -> int:
    mixed = key * np.uint64(
        0x9E3779B97F4A7C15
    )  # Fibonacci hashing; its high bits are the mixed ones
    return np.int64(mixed >> np.uint64(32)) & (size - 1)


@nb.njit(nogil=True, cache=True)
def ngrams(codes: Codes, upper: Flags, slots: Keys, rows: Ints) -> Ints:
    """The rows of a text's known n-grams of one to three characters, in its order.

    `codes` are normalized characters, `upper` says which are upper-case letters. N-grams lie within
    a word and the blanks around it; those of a word's second capital letter and after are left out.
    """
    result = np.empty(3 * len(codes), np.int32)
    count = 0
    first, second, last = np.uint64(0), np.uint64(0), np.uint64(BLANK)  # of the buffer; 0 is none
    capitals, last_upper = False, False
    mask = np.uint64((1 << CODE_BITS) - 1)
    for k in range(len(codes)):
        code = np.uint64(codes[k]) & mask
        if last == BLANK:
            first, second, capitals = np.uint64(0), np.uint64(0), False
            if code == BLANK:
                continue
        first, second, last = second, last, code
        capitals = upper[k] and (capitals or last_upper)
        last_upper = upper[k]
        if capitals:
            continue
        if code != BLANK:
            row = _row(last, slots, rows)
            if row >= 0:
                result[count] = row
                count += 1
        key = second << np.uint64(CODE_BITS) | last
        row = _row(key, slots, rows)
        if row >= 0:
            result[count] = row
            count += 1
        if first:
            row = _row(first << np.uint64(2 * CODE_BITS) | key, slots, rows)
            if row >= 0:
                result[count] = row
                count += 1
    return result[:count]


@nb.njit(nogil=True, cache=True)
def _row(key: np.uint64, slots: Keys, rows: Ints) -> int:
    slot = _first_slot(key, len(slots))
    while slots[slot] != EMPTY:
        if slots[slot] == key:
            return rows[slot]
        slot = (slot + 1) & (len(slots) - 1)
    return -1


@nb.njit(nogil=True, cache=True)
def detect(grams: Ints, table: Floats, outputs: Codes, result: Floats) -> bool:
    """Write the probability of each language, the mean of seven trials; False: too few `outputs`.

    table: (n-grams, languages). A trial draws n-grams of the text until a language has all of the
    probability, or `MAX_DRAWS` times.
    """
    languages = table.shape[1]
    probabilities = np.empty(languages)
    bits = 0
    while len(grams) >> bits:
        bits += 1
    result[:] = 0.0
    used, kept, has_kept = 0, 0.0, False  # the second value of a pair of normal ones
    for _ in range(TRIALS):
        probabilities[:] = 1.0 / languages
        if has_kept:
            normal, has_kept = kept, False
        else:
            if used + 4 > len(outputs):
                return False
            angle = _uniform(outputs, used) * math.tau
            radius = math.sqrt(-2.0 * math.log(1.0 - _uniform(outputs, used + 2)))
            used += 4
            normal, kept, has_kept = math.cos(angle) * radius, math.sin(angle) * radius, True
        weight = (ALPHA + normal * ALPHA_WIDTH) / BASE_FREQUENCY
        for draw in range(MAX_DRAWS):
            while True:
                if used == len(outputs):
                    return False
                number = outputs[used] >> np.uint32(32 - bits)
                used += 1
                if number < len(grams):
                    break
            gram = table[grams[number]]
            for k in range(languages):
                probabilities[k] *= weight + gram[k]
            if draw % CHECKED_EVERY == 0 and _normalize(probabilities) > CONVERGED:
                break
        for k in range(languages):
            result[k] += probabilities[k] / TRIALS
    return True


@nb.njit(nogil=True, cache=True)
def _uniform(outputs: Codes, at: int) -> float:
    """`random.random()` of two outputs."""
    high, low = outputs[at] >> np.uint32(5), outputs[at + 1] >> np.uint32(6)
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@nb.njit(nogil=True, cache=True)
def _normalize(probabilities: Floats) -> float:
    """Divide by the sum, which is taken in order; the largest is returned."""
    total = 0.0
    for k in range(len(probabilities)):
        total += probabilities[k]
    largest = 0.0
    for k in range(len(probabilities)):
        probabilities[k] /= total
        largest = max(largest, probabilities[k])
    return largest
