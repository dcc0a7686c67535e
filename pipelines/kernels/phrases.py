"""Which texts can contain a phrase of a list: one pass, however long the list.

The answer is exact for case-sensitive phrases. Without regard to case only ASCII letters are
folded, and a text with one of the few other characters that fold to ASCII counts as a candidate: a
caller looks at candidates again with the full rule, and need not look at others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.words import Ints

FOLD_TO_ASCII = "\u0130\u0131\u017f\u212a"  # dotted I, dotless i, long s, Kelvin sign


@dataclass(frozen=True)
class Phrases:
    """Phrases as arrays: those that begin with the bytes a, b are at first[a << 8 | b] .. next.

    `short` marks phrases of one byte. `everywhere` is set when a phrase can be anywhere (it is
    empty, or holds other letters than ASCII whose case is to be ignored).
    """

    data: Bytes
    start: Ints
    size: Ints
    first: npt.NDArray[np.int32]
    short: npt.NDArray[np.bool_]
    fold: bool
    whole: bool
    everywhere: bool


def prepare(phrases: Sequence[str], *, ignore_case: bool, whole: bool = False) -> Phrases:
    """The phrases in the form that `candidates` takes.

    With `whole`, a phrase inside a longer word of ASCII letters, digits and _ does not count.
    """
    everywhere = False
    needles: list[bytes] = []
    folding = [*FOLD_TO_ASCII] if ignore_case else []
    for phrase in [*phrases, *folding]:
        if ignore_case and phrase not in folding:
            cased = any(not c.isascii() and c.lower() != c.upper() for c in phrase)
            everywhere |= cased
            phrase = "".join(c.lower() if c.isascii() else c for c in phrase)
        everywhere |= not phrase
        needles.append(phrase.encode("utf-8"))
    short = np.zeros(256, dtype=np.bool_)
    for needle in needles:
        if len(needle) == 1:
            short[needle[0]] = True
    long = sorted({needle for needle in needles if len(needle) > 1})
    first = np.zeros((1 << 16) + 1, dtype=np.int32)
    for needle in long:
        first[(needle[0] << 8 | needle[1]) + 1] += 1
    size = np.array([len(needle) for needle in long], dtype=np.int64)
    start = np.zeros(len(long), dtype=np.int64)
    np.cumsum(size[:-1], out=start[1:])
    data = np.frombuffer(b"".join(long) or b"\0", dtype=np.uint8)
    table = np.cumsum(first).astype(np.int32)
    return Phrases(data, start, size, table, short, ignore_case, whole, everywhere)


def candidates(texts: pa.Array, phrases: Phrases) -> npt.NDArray[np.bool_]:
    """Whether each text can contain one of the phrases."""
    return places(texts, phrases) >= 0


def places(texts: pa.Array, phrases: Phrases) -> Ints:
    """The first byte of each text at which a phrase can occur (0: anywhere), -1 where none can."""
    if phrases.everywhere:
        return np.zeros(len(texts), dtype=np.int64)
    data, offsets = buffers_of(texts)
    return _places(
        *(data, offsets, phrases.data, phrases.start, phrases.size, phrases.first, phrases.short),
        *(phrases.fold, phrases.whole),
    )


@nb.njit(cache=True, inline="always")
def _in_word(byte: int) -> bool:
    """Whether a byte is an ASCII letter or digit, or _."""
    return 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte == 95


@nb.njit(cache=True, nogil=True)
def _places(
    data: Bytes,
    offsets: Offsets,
    needles: Bytes,
    start: Ints,
    size: Ints,
    first: npt.NDArray[np.int32],
    short: npt.NDArray[np.bool_],
    fold: bool,
    whole: bool,
) -> Ints:
    rows = len(offsets) - 1
    out = np.full(rows, -1, np.int64)
    folded = np.empty(256, np.uint8)
    for byte in range(256):
        folded[byte] = byte + 32 if fold and 65 <= byte <= 90 else byte
    begins = np.zeros(256, np.bool_)
    for byte in range(256):
        begins[byte] = short[byte] or first[byte << 8] != first[(byte + 1) << 8]
    for row in range(rows):
        end = offsets[row + 1]
        position = offsets[row]
        while position < end:
            byte = folded[data[position]]
            if not begins[byte]:
                position += 1
                continue
            if short[byte]:
                out[row] = position - offsets[row]
                break
            if (
                whole
                and position > offsets[row]
                and _in_word(byte)
                and _in_word(data[position - 1])
            ):
                position += 1
                continue
            if position + 1 < end:
                key = np.int64(byte) << 8 | np.int64(folded[data[position + 1]])
                for needle in range(first[key], first[key + 1]):
                    length = size[needle]
                    if position + length <= end:
                        equal = True
                        for k in range(2, length):
                            if folded[data[position + k]] != needles[start[needle] + k]:
                                equal = False
                                break
                        if equal and whole:
                            last_byte = needles[start[needle] + length - 1]
                            if position + length < end:
                                equal = not (
                                    _in_word(last_byte) and _in_word(data[position + length])
                                )
                        if equal:
                            out[row] = position - offsets[row]
                            break
                if out[row] >= 0:
                    break
            position += 1
    return out


def dotted(texts: pa.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether each text has a dot before an ASCII letter in lower case, and one between digits."""
    ranges = _dotted(*buffers_of(texts))
    return ranges[:, 0], ranges[:, 1]


@nb.njit(cache=True, nogil=True)
def _dotted(data: Bytes, offsets: Offsets) -> npt.NDArray[np.bool_]:
    rows = len(offsets) - 1
    out = np.zeros((rows, 2), np.bool_)
    for row in range(rows):
        for position in range(offsets[row] + 1, offsets[row + 1] - 1):
            if data[position] == 46:
                after, before = data[position + 1], data[position - 1]
                if 97 <= after <= 122:
                    out[row, 0] = True
                elif 48 <= after <= 57 and 48 <= before <= 57:
                    out[row, 1] = True
    return out


def phone_like(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each text has three digits, one of - . and space, and four digits."""
    return _phone_like(*buffers_of(texts))


@nb.njit(cache=True, nogil=True)
def _phone_like(data: Bytes, offsets: Offsets) -> npt.NDArray[np.bool_]:
    rows = len(offsets) - 1
    out = np.zeros(rows, np.bool_)
    for row in range(rows):
        run = 0  # digits just before
        before = 0  # digits before the separator just before this run
        for position in range(offsets[row], offsets[row + 1]):
            byte = data[position]
            if 48 <= byte <= 57:
                run += 1
                if run >= 4 and before >= 3:
                    out[row] = True
                    break
            else:
                before = run if byte == 45 or byte == 46 or byte == 32 else 0
                run = 0
    return out
