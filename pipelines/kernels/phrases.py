"""Which texts can contain a phrase of a list: one pass, however long the list.

Bytes are compared 64 at a time. Of a short list, two rare bytes of each phrase are looked for, of a
long list of whole words the first bytes of each word; only where these are is a phrase compared.

The answer is exact for case-sensitive phrases. Without regard to case only ASCII letters are
folded, and a text with one of the few other characters that fold to ASCII counts as a candidate: a
caller looks at candidates again with the full rule, and need not look at others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, padded
from pipelines.kernels.characters import Ints
from pipelines.kernels.vectors import WIDTH, below, digits, eight, equal, letters, lowest

FOLD_TO_ASCII = "\u0130\u0131\u017f\u212a"  # dotted I, dotless i, long s, Kelvin sign
COMMON = b" etaoinsrhldcumfpgwybvkxjqz"  # the bytes of text, the most frequent first; others: rare
MAX_PROBES = 24  # phrases whose rare bytes are all looked for: more would take longer than a table
MAX_OFFSET = 63  # bytes of a phrase among which the rare ones are chosen
BITS = 16  # of the table of first bytes: 64 Kbit, which stay in the first cache
_RANKS = {byte: rank for rank, byte in enumerate(COMMON)}
_HASH = np.uint64(0x9E3779B97F4A7C15)  # odd, so that all three bytes count
_FOLDED = np.uint64(0x2020202020202020)

Table = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Phrases:
    """Phrases as arrays: those that begin with the bytes a, b are at first[a << 8 | b] .. next.

    `short` marks phrases of one byte. `everywhere` is set when a phrase can be anywhere (it is
    empty, or holds other letters than ASCII whose case is to be ignored). `probes` has a row
    (offset, mask, byte, offset, mask, byte) for each phrase of a short list, `starts` the hashes of
    the first three bytes of the phrases of a list of whole words, and `others` the first bytes
    of phrases that do not begin with a letter, digit or _; where a list has none, it is empty.
    """

    data: Bytes
    start: Ints
    size: Ints
    first: npt.NDArray[np.int32]
    short: Table
    fold: bool
    whole: bool
    after_number: bool
    everywhere: bool
    probes: Bytes
    starts: Table
    others: Bytes


def prepare(
    phrases: Sequence[str], *, ignore_case: bool, whole: bool = False, after_number: bool = False
) -> Phrases:
    """The phrases in the form that `candidates` takes.

    With `whole`, a phrase inside a longer word of ASCII letters, digits and _ does not count; with
    `after_number` only one whose line is a number and the phrase (`3.4k likes`), signs aside.
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
    few = not everywhere and len(set(needles)) <= MAX_PROBES
    starts = np.zeros(0, np.bool_)
    if whole and not few and not short.any():
        starts = np.zeros(1 << BITS, np.bool_)
        for needle in long:
            thirds = range(256) if len(needle) == 2 else needle[2:3]
            for third in thirds:
                starts[_hash_of_three(needle[0], needle[1], third)] = True
    return Phrases(
        *(data, start, size, table, short, ignore_case, whole, after_number, everywhere),
        probes=_probes(needles, ignore_case) if few else np.zeros((0, 6), np.uint8),
        starts=starts,
        others=np.array(sorted({n[0] for n in long if not _in_word(n[0])}), np.uint8),
    )


def _hash_of_three(*three: int) -> int:
    folded = int.from_bytes(three, "little") | 0x202020
    return (folded * int(_HASH) & (1 << 64) - 1) >> (64 - BITS)


def _probes(needles: Sequence[bytes], fold: bool) -> Bytes:
    """The two rarest bytes of each phrase, with where they are and the mask that folds them."""
    rows = []
    for needle in sorted(set(needles)):
        places = range(min(len(needle), MAX_OFFSET))
        rare = sorted(places, key=lambda k: -_RANKS.get(needle[k], len(COMMON)))
        row = []
        for k in (rare[0], rare[1 % len(rare)]):
            row += [k, 0x20 if fold and 97 <= needle[k] <= 122 else 0, needle[k]]
        rows.append(row)
    return np.array(rows, np.uint8).reshape(len(rows), 6)


def candidates(texts: pa.Array, phrases: Phrases) -> npt.NDArray[np.bool_]:
    """Whether each text can contain one of the phrases."""
    return places(texts, phrases) >= 0


def places(texts: pa.Array, phrases: Phrases) -> Ints:
    """The first byte of each text at which a phrase can occur (0: anywhere), -1 where none can."""
    if phrases.everywhere:
        return np.zeros(len(texts), dtype=np.int64)
    data, offsets = buffers_of(texts)
    lists = (phrases.data, phrases.start, phrases.size, phrases.first, phrases.short)
    rules = (phrases.fold, phrases.whole, phrases.after_number)
    if len(phrases.probes):
        return _in_parts(_by_rare_bytes, data, offsets, *lists, *rules, phrases.probes)
    if len(phrases.starts):
        tables = (phrases.starts, phrases.others)
        return _in_parts(_by_word_starts, data, offsets, *lists, *rules, *tables)
    return _places(data, offsets, *lists, *rules)


def _in_parts(kernel: Callable[..., None], data: Bytes, offsets: Offsets, *options: object) -> Ints:
    """Run a kernel that reads blocks and probes behind the last row."""
    out = np.full(len(offsets) - 1, -1, np.int64)
    for part, part_offsets, rows in padded(data, offsets, WIDTH + MAX_OFFSET + 8):
        kernel(part, part_offsets, *options, out[rows])
    return out


@nb.njit(cache=True, inline="always")
def _in_word(byte: int) -> bool:
    """Whether a byte is an ASCII letter or digit, or _."""
    return 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte == 95


@nb.njit(cache=True, inline="always")
def _folded(byte: int, fold: bool) -> int:
    return byte + 32 if fold and 65 <= byte <= 90 else byte


@nb.njit(cache=True, inline="always")  # a call would count references to all of the arrays
def _begins_at(
    data: Bytes,
    position: int,
    begin: int,
    end: int,
    needles: Bytes,
    start: Ints,
    size: Ints,
    first: npt.NDArray[np.int32],
    short: Table,
    fold: bool,
    whole: bool,
    after_number: bool,
) -> bool:
    """Whether a phrase begins at a place of the text begin .. end."""
    byte = _folded(data[position], fold)
    if short[byte]:
        return not after_number or _alone_after_number(data, position, position + 1, begin, end)
    if position + 1 >= end:
        return False
    if whole and position > begin and _in_word(byte) and _in_word(data[position - 1]):
        return False
    key = np.int64(byte) << 8 | np.int64(_folded(data[position + 1], fold))
    for needle in range(first[key], first[key + 1]):
        length = size[needle]
        if position + length > end:
            continue
        equal_so_far = True
        for k in range(2, length):
            if _folded(data[position + k], fold) != needles[start[needle] + k]:
                equal_so_far = False
                break
        if equal_so_far and whole and position + length < end:
            last_byte = needles[start[needle] + length - 1]
            equal_so_far = not (_in_word(last_byte) and _in_word(data[position + length]))
        if equal_so_far:
            stop = position + length
            return not after_number or _alone_after_number(data, position, stop, begin, end)
    return False


@nb.njit(cache=True)
def _alone_after_number(data: Bytes, position: int, stop: int, begin: int, end: int) -> bool:
    """Whether the line of a phrase is signs, digits, commas and dots, k, m or b, white space,
    the phrase and signs. Bytes other than ASCII may be anything."""
    if data[position] >= 0x80:
        return True
    at = position - 1
    while at >= begin and (data[at] == 9 or 11 <= data[at] <= 13 or 28 <= data[at] <= 32):
        at -= 1
    if at >= begin and data[at] >= 0x80:
        return True
    if at == position - 1 or at < begin:
        return False
    letter = data[at] | 0x20
    at -= letter == 107 or letter == 109 or letter == 98
    number = False
    while at >= begin and (48 <= data[at] <= 57 or data[at] == 44 or data[at] == 46):
        number |= data[at] >= 48
        at -= 1
    maybe = False  # whether there are other characters than ASCII
    while at >= begin and data[at] != 10 and not _in_word(data[at]):
        maybe |= data[at] >= 0x80
        at -= 1
    while stop < end and data[stop] != 10 and not _in_word(data[stop]):
        maybe |= data[stop] >= 0x80
        stop += 1
    if (at >= begin and data[at] != 10) or (stop < end and data[stop] != 10):
        return False
    return number or maybe


@nb.njit(cache=True)
def _beginnings(first: npt.NDArray[np.int32], short: Table) -> Table:
    """The bytes that phrases begin with."""
    begins = np.zeros(256, np.bool_)
    for byte in range(256):
        begins[byte] = short[byte] or first[byte << 8] != first[(byte + 1) << 8]
    return begins


@nb.njit(cache=True, nogil=True)
def _places(
    data: Bytes,
    offsets: Offsets,
    needles: Bytes,
    start: Ints,
    size: Ints,
    first: npt.NDArray[np.int32],
    short: Table,
    fold: bool,
    whole: bool,
    after_number: bool,
) -> Ints:
    rows = len(offsets) - 1
    out = np.full(rows, -1, np.int64)
    begins = _beginnings(first, short)
    for row in range(rows):
        begin, end = offsets[row], offsets[row + 1]
        for position in range(begin, end):
            if begins[_folded(data[position], fold)] and _begins_at(
                data,
                position,
                begin,
                end,
                needles,
                start,
                size,
                first,
                short,
                fold,
                whole,
                after_number,
            ):
                out[row] = position - begin
                break
    return out


@nb.njit(cache=True, nogil=True)
def _by_rare_bytes(
    data: Bytes,
    offsets: Offsets,
    needles: Bytes,
    start: Ints,
    size: Ints,
    first: npt.NDArray[np.int32],
    short: Table,
    fold: bool,
    whole: bool,
    after_number: bool,
    probes: Bytes,
    out: Ints,
) -> None:
    for row in range(len(out)):
        begin, end = offsets[row], offsets[row + 1]
        at = begin
        while at < end and out[row] < 0:
            bits = np.uint64(0)
            for k in range(len(probes)):
                first_at, second_at = at + np.int64(probes[k, 0]), at + np.int64(probes[k, 3])
                both = equal(data, first_at, probes[k, 1], probes[k, 2])
                bits |= both & equal(data, second_at, probes[k, 4], probes[k, 5])
            bits &= below(end - at)
            while bits:
                position = at + lowest(bits)
                bits &= bits - np.uint64(1)
                if _begins_at(
                    data,
                    position,
                    begin,
                    end,
                    needles,
                    start,
                    size,
                    first,
                    short,
                    fold,
                    whole,
                    after_number,
                ):
                    out[row] = position - begin
                    break
            at += WIDTH


@nb.njit(cache=True, nogil=True)
def _by_word_starts(
    data: Bytes,
    offsets: Offsets,
    needles: Bytes,
    start: Ints,
    size: Ints,
    first: npt.NDArray[np.int32],
    short: Table,
    fold: bool,
    whole: bool,
    after_number: bool,
    starts: Table,
    others: Bytes,
    out: Ints,
) -> None:
    for row in range(len(out)):
        begin, end = offsets[row], offsets[row + 1]
        at = begin
        before = np.uint64(0)  # 1 when the byte before is in a word
        while at < end and out[row] < 0:
            inside = letters(data, at) | digits(data, at)
            inside |= equal(data, at, np.uint8(0), np.uint8(95))
            bits = inside & ~(inside << np.uint64(1) | before)
            before = inside >> np.uint64(63)
            for k in range(len(others)):
                bits |= equal(data, at, np.uint8(0), others[k])
            bits &= below(end - at)
            while bits:
                position = at + lowest(bits)
                bits &= bits - np.uint64(1)
                key = (eight(data, position) | _FOLDED) & np.uint64(0xFFFFFF)
                if starts[(key * _HASH) >> np.uint64(64 - BITS)] and _begins_at(
                    data,
                    position,
                    begin,
                    end,
                    needles,
                    start,
                    size,
                    first,
                    short,
                    fold,
                    whole,
                    after_number,
                ):
                    out[row] = position - begin
                    break
            at += WIDTH


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
