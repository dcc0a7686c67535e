"""A blocked Bloom filter over n-grams of words, and what its answers make of a text.

The filter is cut into blocks of 512 bits, one cache line each; all bits of an n-gram are in one
block (Putze, Sanders, Singler 2007). Blocks fill unevenly, so the rate of false positives is the
mean over a Poisson-distributed load, and the filter is sized by that mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes, Offsets
from pipelines.kernels.characters import Hashes, Ints
from pipelines.kernels.words import Words

BLOCK_BITS = 512  # a cache line: one look at memory per n-gram, whatever the number of hashes
PER_STATE = 7  # numbers of a bit, nine bits each, in one mixed number of 64
BLOCK_WORDS = 8  # 8 x 64 bits: one cache line
MAX_BLOCKS = (1 << 32) - 1  # the block comes from 32 bits of the hash; 256 GiB
PARAGRAPH, DOCUMENT, OLD_BOTH, BOTH, NAIVE_BOTH, SUBSTRING = range(6)

_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's
_P = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: steps far apart
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_ONE, _63, _511, _9, _6 = (np.uint64(n) for n in (1, 63, 511, 9, 6))


@dataclass
class Filter:
    """The bits, hashes per n-gram, and how many n-grams were new when they were put in."""

    bits: Hashes  # shape (blocks * 8,)
    num_hashes: int
    capacity: int
    inserted: int = 0


@dataclass(frozen=True)
class Sifted:
    """What goes of each row: row i has the spans border[i] .. border[i + 1], bytes in the row.

    contained, total: n-grams known before, and all; whole: the page goes as a whole.
    """

    start: Ints
    stop: Ints
    border: Ints
    contained: Ints
    total: Ints
    whole: npt.NDArray[np.bool_]


def false_positive_rate(ngrams: int, blocks: int, num_hashes: int) -> float:
    """The expected rate of a blocked filter after `ngrams` different n-grams."""
    load = ngrams / blocks
    spread = 12 * math.sqrt(load) + 12
    numbers = np.arange(max(0, int(load - spread)), int(load + spread) + 1)
    logs = numbers * math.log(load) - load if load else np.where(numbers == 0, 0.0, -np.inf)
    weights = np.exp(logs - np.array([math.lgamma(number + 1) for number in numbers.tolist()]))
    filled = 1 - (1 - 1 / BLOCK_BITS) ** (num_hashes * numbers)
    return float(min(1.0, (weights * filled**num_hashes).sum()))


def size(ngrams: int, rate: float) -> tuple[int, int]:
    """The fewest blocks, and the hashes per n-gram, that hold `ngrams` at this rate.

    Raises ValueError where more than 256 GiB would be needed.
    """
    best: tuple[int, int] | None = None
    for num_hashes in range(1, 25):
        low, high = 0, MAX_BLOCKS if best is None else best[0]
        if false_positive_rate(ngrams, high, num_hashes) > rate:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            if false_positive_rate(ngrams, middle, num_hashes) <= rate:
                high = middle
            else:
                low = middle
        if best is None or high < best[0]:
            best = (high, num_hashes)
    if best is None:
        raise ValueError(
            f"{ngrams} n-grams at a false-positive rate of {rate} need a filter above 256 GiB: "
            "use more groups, or a higher rate"
        )
    return best


def new_filter(ngrams: int, rate: float) -> Filter:
    """An empty filter for this many different n-grams."""
    blocks, num_hashes = size(ngrams, rate)
    return Filter(np.zeros(blocks * BLOCK_WORDS, np.uint64), num_hashes, ngrams)


def filling(filter_: Filter) -> tuple[float, float]:
    """The share of bits that are set, and the chance that an unknown n-gram is taken for known."""
    return _filling(filter_.bits, filter_.num_hashes)


def sift(
    filter_: Filter,
    words: Words,
    offsets: Offsets,
    *,
    mode: int,
    min_ngram: int,
    max_ngram: int,
    threshold: float,
    length: int,
) -> Sifted:
    """Ask the filter about every row in order, and put in what stays."""
    start, stop, border, contained, total, whole, new = _sift(
        mode,
        words.hash,
        words.start,
        words.begin,
        words.end,
        words.data,
        offsets,
        min_ngram,
        max_ngram,
        threshold,
        length,
        filter_.bits,
        filter_.num_hashes,
    )
    filter_.inserted += int(new)
    return Sifted(start, stop, border, contained, total, whole)


def seen(filter_: Filter, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Whether each key was known before; those that were not are put in, one after the other."""
    known = _seen(hashes, filter_.bits, filter_.num_hashes)
    filter_.inserted += int((~known).sum())
    return known


def cut(data: Bytes, offsets: Offsets, sifted: Sifted) -> tuple[Bytes, Offsets]:
    """The rows without their spans."""
    return _cut(data, offsets, sifted.start, sifted.stop, sifted.border)


@nb.njit(cache=True, inline="always")
def final(state: np.uint64) -> np.uint64:
    """Mix all bits of a 64-bit number (the finalizer of SplitMix64)."""
    state = (state ^ (state >> _30)) * _M1
    state = (state ^ (state >> _27)) * _M2
    return state ^ (state >> _31)


@nb.njit(cache=True, inline="always")
def _first(key: np.uint64, blocks: np.uint64) -> int:
    """The first word of a key's block."""
    return np.int64(((key >> _32) * blocks) >> _32) * BLOCK_WORDS


@nb.njit(cache=True, inline="always")
def _contains(key: np.uint64, bits: Hashes, num_hashes: int) -> bool:
    first = _first(key, np.uint64(len(bits) // BLOCK_WORDS))
    done = 0
    while done < num_hashes:
        state = final(key + np.uint64(done + 1) * _P)
        many = min(num_hashes, done + PER_STATE)
        while done < many:
            bit = state & _511
            if not (bits[first + np.int64(bit >> _6)] >> (bit & _63)) & _ONE:
                return False
            state >>= _9
            done += 1
    return True


@nb.njit(cache=True, inline="always")
def _insert(key: np.uint64, bits: Hashes, num_hashes: int) -> int:
    """Set the bits of a key; 1 where one of them was not set before."""
    first = _first(key, np.uint64(len(bits) // BLOCK_WORDS))
    new = np.uint64(0)
    done = 0
    while done < num_hashes:
        state = final(key + np.uint64(done + 1) * _P)
        many = min(num_hashes, done + PER_STATE)
        while done < many:
            bit = state & _511
            word = first + np.int64(bit >> _6)
            mask = _ONE << (bit & _63)
            old = bits[word]
            bits[word] = old | mask
            new |= mask & ~old
            state >>= _9
            done += 1
    return np.int64(new != np.uint64(0))


@nb.njit(cache=True, nogil=True)
def _filling(bits: Hashes, num_hashes: int) -> tuple[float, float]:
    total, chance = 0, 0.0
    for block in range(0, len(bits), BLOCK_WORDS):
        here = 0
        for word in range(block, block + BLOCK_WORDS):
            value = bits[word]
            while value:
                value &= value - _ONE
                here += 1
        total += here
        chance += (here / BLOCK_BITS) ** num_hashes
    return total / (len(bits) * 64), chance / (len(bits) // BLOCK_WORDS)


@nb.njit(cache=True, nogil=True)
def _seen(hashes: Hashes, bits: Hashes, num_hashes: int) -> npt.NDArray[np.bool_]:
    known = np.zeros(len(hashes), np.bool_)
    for i in range(len(hashes)):
        known[i] = _contains(hashes[i], bits, num_hashes)
        if not known[i]:
            _insert(hashes[i], bits, num_hashes)
    return known


@nb.njit(cache=True, nogil=True)
def _known(hashes: Hashes, bits: Hashes, num_hashes: int) -> npt.NDArray[np.bool_]:
    """Whether each key is known; nothing is put in."""
    known = np.zeros(len(hashes), np.bool_)
    for i in range(len(hashes)):
        known[i] = _contains(hashes[i], bits, num_hashes)
    return known


@nb.njit(cache=True)
def _fetch(keys: Hashes, count: int, bits: Hashes) -> None:
    """Read a word of each key's block: loads that wait for no other go to memory side by side."""
    blocks = np.uint64(len(bits) // BLOCK_WORDS)
    seen = np.uint64(0)
    for i in range(count):
        seen |= bits[_first(keys[i], blocks)]
    if seen == np.uint64(0):  # so that the reads are not left out as useless
        keys[0] = keys[0]


@nb.njit(cache=True)
def _ask(
    mixed: Hashes,
    begin: int,
    end: int,
    low: int,
    high: int,
    bits: Hashes,
    num_hashes: int,
    keys: Hashes,
    known: npt.NDArray[np.bool_],
) -> tuple[int, int, int]:
    """The n-grams of some words: their number, how many are known, and how long they are."""
    words = end - begin
    if words < low:
        return 0, 0, 0
    width = min(words, high)
    count = words - width + 1
    power = np.uint64(1)
    for _ in range(width):
        power = power * _P
    state = np.uint64(0)
    for i in range(words):
        state = state * _P + mixed[begin + i]
        if i >= width:
            state = state - mixed[begin + i - width] * power
        if i >= width - 1:
            keys[i - width + 1] = final(state + np.uint64(width))
    _fetch(keys, count, bits)
    contained = 0
    for i in range(count):
        known[i] = _contains(keys[i], bits, num_hashes)
        contained += known[i]
    return count, contained, width


@nb.njit(cache=True)
def _put(keys: Hashes, first: int, last: int, bits: Hashes, num_hashes: int) -> int:
    new = 0
    for i in range(first, last):
        new += _insert(keys[i], bits, num_hashes)
    return new


@nb.njit(cache=True)
def _joined(spans: Ints, count: int, threshold: float) -> int:
    """Join neighbours, first to last, while enough of the joined span is covered.

    A span is its begin, its end and how many of its words are covered.
    """
    kept = 0
    for i in range(count):
        begin, end, covered = spans[i, 0], spans[i, 1], spans[i, 2]
        if kept:
            together = spans[kept - 1, 2] + covered
            if together / (end - spans[kept - 1, 0]) >= threshold:
                spans[kept - 1, 1], spans[kept - 1, 2] = end, together
                continue
        spans[kept, 0], spans[kept, 1], spans[kept, 2] = begin, end, covered
        kept += 1
    return kept


@nb.njit(cache=True)
def _mirror(spans: Ints, count: int) -> None:
    copy = spans[:count].copy()
    for i in range(count):
        other = copy[count - 1 - i]
        spans[i, 0], spans[i, 1], spans[i, 2] = -other[1], -other[0], other[2]


@nb.njit(cache=True)
def _runs(
    known: npt.NDArray[np.bool_], count: int, width: int, threshold: float, length: int, spans: Ints
) -> int:
    """Word spans [begin, end) covered by known n-grams, joined, of at least `length` words."""
    num_spans = 0
    for i in range(count):
        if not known[i]:
            continue
        if num_spans and spans[num_spans - 1, 1] >= i:
            spans[num_spans - 1, 1] = i + width
        else:
            spans[num_spans, 0], spans[num_spans, 1] = i, i + width
            num_spans += 1
    for i in range(num_spans):
        spans[i, 2] = spans[i, 1] - spans[i, 0]
    if threshold < 1.0:
        num_spans = _joined(spans, num_spans, threshold)
        _mirror(spans, num_spans)
        num_spans = _joined(spans, num_spans, threshold)
        _mirror(spans, num_spans)
    kept = 0
    for i in range(num_spans):
        if spans[i, 1] - spans[i, 0] >= length:
            spans[kept, 0], spans[kept, 1] = spans[i, 0], spans[i, 1]
            kept += 1
    return kept


@nb.njit(cache=True, nogil=True)
def _sift(
    mode: int,
    hashes: Hashes,
    places: Ints,
    begins: Ints,
    ends: Ints,
    data: Bytes,
    offsets: Offsets,
    low: int,
    high: int,
    threshold: float,
    length: int,
    bits: Hashes,
    num_hashes: int,
) -> tuple[Ints, Ints, Ints, Ints, Ints, npt.NDArray[np.bool_], int]:
    rows = len(offsets) - 1
    mixed = np.empty(len(hashes), np.uint64)
    for i in range(len(hashes)):
        mixed[i] = final(hashes[i])
    border = np.zeros(rows + 1, np.int64)
    contained, total = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    whole = np.zeros(rows, np.bool_)
    longest = 1
    for row in range(rows):
        longest = max(longest, ends[row] - begins[row])
    keys, known = np.empty(longest, np.uint64), np.empty(longest, np.bool_)
    spans = np.empty((longest + 1, 3), np.int64)
    starts = [np.int64(0) for _ in range(0)]
    stops = [np.int64(0) for _ in range(0)]
    new = 0
    for row in range(rows):
        first, last = offsets[row], offsets[row + 1]
        begin, end = begins[row], ends[row]
        if mode == DOCUMENT or mode == NAIVE_BOTH:
            count, hits, _ = _ask(mixed, begin, end, low, high, bits, num_hashes, keys, known)
            contained[row], total[row] = hits, count
            whole[row] = count > 0 and hits / count > threshold
            if not whole[row]:
                new += _put(keys, 0, count, bits, num_hashes)
        if mode == PARAGRAPH or mode == OLD_BOTH or (mode == NAIVE_BOTH and not whole[row]):
            contained[row] = total[row] = 0
            unit, word = first, begin
            stop = first
            while True:
                while stop < last and data[stop] != 10:
                    stop += 1
                past = word
                while past < end and places[past] < stop:
                    past += 1
                count, hits, _ = _ask(mixed, word, past, low, high, bits, num_hashes, keys, known)
                contained[row] += hits
                total[row] += count
                if count > 0 and hits / count > threshold:
                    starts.append(unit - first)
                    stops.append(stop - first)
                else:
                    new += _put(keys, 0, count, bits, num_hashes)
                if stop >= last:
                    break
                unit, word = stop, past
                stop += 1
            if mode == OLD_BOTH and total[row] > 0:
                whole[row] = contained[row] / total[row] > threshold
        if mode == BOTH or mode == SUBSTRING:
            count, hits, width = _ask(mixed, begin, end, low, high, bits, num_hashes, keys, known)
            contained[row], total[row] = hits, count
        if mode == BOTH and count > 0:
            whole[row] = hits / count >= threshold
            if not whole[row]:
                stop, word = first, begin
                while stop < last and data[stop] != 10:
                    stop += 1
                while word < end and places[word] < stop:
                    word += 1
                own, hits = max(0, word - begin - width + 1), 0
                for i in range(own):
                    hits += known[i]
                if own > 0 and hits / own >= threshold:
                    starts.append(np.int64(0))
                    stops.append(stop - first)
                    new += _put(keys, word - begin, count, bits, num_hashes)
                else:
                    new += _put(keys, 0, count, bits, num_hashes)
        if mode == SUBSTRING and count > 0:
            num_spans = _runs(known, count, width, threshold, length, spans)
            free = 0
            for i in range(num_spans):
                if spans[i, 0] - width + 1 > free:
                    new += _put(keys, free, spans[i, 0] - width + 1, bits, num_hashes)
                free = spans[i, 1]
                past = begin + spans[i, 1]
                starts.append(places[begin + spans[i, 0]] - first)
                stops.append((places[past] if past < end else last) - first)
            new += _put(keys, free, count, bits, num_hashes)
        border[row + 1] = len(starts)
    return np.array(starts), np.array(stops), border, contained, total, whole, new


@nb.njit(cache=True, nogil=True)
def _cut(
    data: Bytes, offsets: Offsets, start: Ints, stop: Ints, border: Ints
) -> tuple[Bytes, Offsets]:
    rows = len(offsets) - 1
    out = np.empty(offsets[rows] - offsets[0], np.uint8)
    places = np.zeros(rows + 1, np.int64)
    filled = 0
    for row in range(rows):
        copied = offsets[row]
        for span in range(border[row], border[row + 1] + 1):
            last = span == border[row + 1]
            until = offsets[row + 1] if last else offsets[row] + start[span]
            out[filled : filled + until - copied] = data[copied:until]
            filled += until - copied
            if not last:
                copied = offsets[row] + stop[span]
        places[row + 1] = filled
    return out[:filled], places
