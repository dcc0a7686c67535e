"""The walk of Punkt (Kiss & Strunk 2006) over a text, without its decisions on words.

Punkt looks at each mark (`.`, `?`, `!`) that punctuation or another word follows, takes the words
around it as a context and asks of the tokens in it whether one ends a sentence. These loops find
the contexts, divide them into tokens and answer what the marks alone decide; pairs of a token with
a full stop and the token after it are left to `pipelines.text.punkt`. Each character is read a few
times, whatever the text.

Texts are arrays of code points, `classes` has the bits below of each code point. The names of the
steps are those of `PunktSentenceTokenizer` of NLTK, whose answers these are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, padded
from pipelines.kernels.vectors import PADDING, WIDTH, below, equal, lowest

Codes = npt.NDArray[np.uint32]
Classes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SPACE = 1  # white space to expressions
STRIPPED = 2  # white space to `str.strip`
BLANK = 4  # ASCII white space, at which the word before a mark begins
MARK = 8  # may end a sentence
NON_WORD = 16  # ends a word
NOT_START = 32  # begins no word
CLOSER = 64  # belongs to the sentence before it
HASH_BITS = 16  # of the table of words: some thousand leave nine of ten slots free
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that every letter counts
_FACTOR, _SHIFT = np.uint64(_MULTIPLIER), np.uint64(64 - HASH_BITS)
DOT, DASH, COMMA, NEWLINE = ord("."), ord("-"), ord(","), ord("\n")


def hashed_words(words: Iterable[str]) -> Flags:
    """Words of ASCII letters in lower case as the table that `sure_breaks` takes."""
    table = np.zeros(1 << HASH_BITS, np.bool_)
    for word in words:
        if word.isascii() and word.isalpha():
            state = 0
            for letter in word.encode():
                state = (state ^ letter) * _MULTIPLIER % (1 << 64)
            table[state >> (64 - HASH_BITS)] = True
    return table


def sure_breaks(texts: pa.Array, unsure: Flags, *, enough: int) -> Rows:
    """At least how many times, up to `enough`, each text breaks whatever is around.

    Counted are marks after a word of two ASCII letters or more, that a blank or nothing is
    before, and before blanks and an ASCII letter or digit; full stops only after words that are
    not in `unsure`.
    """
    data, offsets = buffers_of(texts)
    counts = np.zeros(len(offsets) - 1, np.int64)
    for part, part_offsets, rows in padded(data, offsets, PADDING):
        _sure_breaks(part, part_offsets, unsure, enough, counts[rows])
    return counts


@nb.njit(nogil=True, cache=True)
def _sure_breaks(data: Bytes, offsets: Offsets, unsure: Flags, enough: int, counts: Rows) -> None:
    none = np.uint8(0)
    for row in range(len(counts)):
        begin, end = offsets[row], offsets[row + 1]
        at = begin
        while at < end and counts[row] < enough:
            bits = equal(data, at, none, np.uint8(46)) | equal(data, at, none, np.uint8(33))
            bits |= equal(data, at, none, np.uint8(63))
            blank = equal(data, at + 1, none, np.uint8(32))
            bits &= (blank | equal(data, at + 1, none, np.uint8(10))) & below(end - at)
            while bits and counts[row] < enough:
                mark = at + lowest(bits)
                bits &= bits - np.uint64(1)
                counts[row] += _breaks_surely(data, mark, begin, end, unsure)
            at += WIDTH


@nb.njit(nogil=True, cache=True, inline="always")
def _breaks_surely(data: Bytes, mark: int, begin: int, end: int, unsure: Flags) -> bool:
    after = mark + 1
    while after < end and (data[after] == 32 or data[after] == NEWLINE):
        after += 1
    first = mark
    while first > begin and 97 <= (data[first - 1] | 0x20) <= 122:
        first -= 1
    if after == end or mark - first < 2:
        return False
    if first > begin and data[first - 1] != 32 and data[first - 1] != NEWLINE:
        return False
    if not (97 <= (data[after] | 0x20) <= 122 or 48 <= data[after] <= 57):
        return False
    if data[mark] != DOT:
        return True
    state = np.uint64(0)
    for k in range(first, mark):
        state = (state ^ np.uint64(data[k] | 0x20)) * _FACTOR
    return not unsure[state >> _SHIFT]


@nb.njit(nogil=True, cache=True)
def contexts(codes: Codes, classes: Classes) -> Rows:
    """A row (start, mark, stop, next) for each context: `codes[start:stop]`, where the mark is, and
    where the next word starts (-1 when punctuation follows the mark).

    Of marks in one word only the last has a context.
    """
    rows = np.empty((16, 4), np.int64)
    count, size = 0, len(codes)
    start, mark, stop, following = 0, -1, 0, -1  # of the mark before
    for at in range(size - 1):
        if not classes[codes[at]] & MARK:
            continue
        after, new_following = at + 1, -1
        if classes[codes[after]] & NON_WORD:
            after += 1
        elif classes[codes[after]] & SPACE:
            while after < size and classes[codes[after]] & SPACE:
                after += 1
            if after == size:
                continue
            new_following = after
            while after < size and not classes[codes[after]] & SPACE:
                after += 1
        else:
            continue
        low = max(mark, 0)
        blank = at - 1
        while blank > low and not classes[codes[blank]] & BLANK:
            blank -= 1
        new_start = blank + 1 if blank > low else start
        if mark >= 0 and mark <= new_start:
            rows = _room(rows, count)
            rows[count] = start, mark, stop, following
            count += 1
        start, mark, stop, following = new_start, at, after, new_following
    if mark >= 0:
        rows = _room(rows, count)
        rows[count] = start, mark, stop, following
        count += 1
    return rows[:count]


@nb.njit(nogil=True, cache=True)
def _room(rows: Rows, count: int) -> Rows:
    if count < len(rows):
        return rows
    larger = np.empty((2 * len(rows), rows.shape[1]), np.int64)
    larger[:count] = rows
    return larger


@nb.njit(nogil=True, cache=True)
def decide(codes: Codes, classes: Classes, candidates: Rows) -> tuple[Flags, Rows]:
    """Which contexts end a sentence whatever their words are, and the pairs to ask about.

    A pair is (context, start, stop, start of the next token, its stop): a token that ends in a full
    stop and the one after it.
    """
    breaks = np.zeros(len(candidates), np.bool_)
    pairs = np.empty((16, 5), np.int64)
    count = 0
    for k in range(len(candidates)):
        first, last = -1, -1  # the token before
        line, stop = candidates[k, 0], candidates[k, 2]
        while line < stop and not breaks[k]:
            end, blank = line, True
            while end < stop and codes[end] != NEWLINE:
                blank = blank and classes[codes[end]] & STRIPPED != 0
                end += 1
            at = end if blank else line
            while at < end:
                if classes[codes[at]] & SPACE:
                    at += 1
                    continue
                token_end = _token_end(codes, classes, at, end)
                if first >= 0:
                    if last == first + 1 and classes[codes[first]] & MARK:
                        breaks[k] = True
                        break
                    if codes[last - 1] == DOT:
                        pairs = _room(pairs, count)
                        pairs[count] = k, first, last, at, token_end
                        count += 1
                first, last, at = at, token_end, token_end
            line = end + 1
    return breaks, pairs[:count]


@nb.njit(nogil=True, cache=True)
def _token_end(codes: Codes, classes: Classes, at: int, stop: int) -> int:
    """Where the token ends that begins at a character which is no white space."""
    several = _several_marks(codes, classes, at, stop)
    if several:
        return at + several
    end = at + 1
    if classes[codes[at]] & NOT_START:
        return end
    while not _ends_word(codes, classes, end, stop):
        if codes[end] == COMMA and _ends_word(codes, classes, end + 1, stop):
            break
        end += 1
    return end


@nb.njit(nogil=True, cache=True)
def _ends_word(codes: Codes, classes: Classes, at: int, stop: int) -> bool:
    if at >= stop or classes[codes[at]] & (SPACE | NON_WORD):
        return True
    return _several_marks(codes, classes, at, stop) > 0


@nb.njit(nogil=True, cache=True)
def _several_marks(codes: Codes, classes: Classes, at: int, stop: int) -> int:
    """The length of dashes, full stops, or full stops with white space between (three at least)."""
    code, end = codes[at], at + 1
    if code != DASH and code != DOT:
        return 0
    while end < stop and codes[end] == code:
        end += 1
    if end - at > 1:
        return end - at
    if code == DASH:
        return 0
    stops, end = 0, at
    while end + 1 < stop and codes[end] == DOT and classes[codes[end + 1]] & SPACE:
        stops, end = stops + 1, end + 2
    if stops >= 2 and end < stop and codes[end] == DOT:
        return end - at + 1
    return 2 * stops - 1 if stops >= 3 else 0


@nb.njit(nogil=True, cache=True)
def sentences(codes: Codes, classes: Classes, candidates: Rows, breaks: Flags) -> Rows:
    """A row (start, stop) for each sentence, with the quotes and brackets that close it."""
    size = len(codes)
    while size and classes[codes[size - 1]] & STRIPPED:
        size -= 1
    rows = np.empty((np.sum(breaks) + 1, 2), np.int64)
    count, start, stop, moved = 0, 0, -1, 0  # `stop` is -1 before the first sentence
    begin = 0
    for k in range(len(candidates) + 1):
        if k < len(candidates) and not breaks[k]:
            continue
        next_start = begin
        next_stop = candidates[k, 1] + 1 if k < len(candidates) else size
        if k < len(candidates):
            begin = candidates[k, 3] if candidates[k, 3] >= 0 else next_stop
        if stop >= 0:
            closers, length = _closers(codes, classes, next_start, next_stop)
            if closers:
                rows[count] = start + moved, next_start + closers
                count += 1
            elif start + moved < stop:
                rows[count] = start + moved, stop
                count += 1
            moved = length
        start, stop = next_start, next_stop
    if start + moved < stop:
        rows[count] = start + moved, stop
        count += 1
    return rows[:count]


@nb.njit(nogil=True, cache=True)
def _closers(codes: Codes, classes: Classes, start: int, stop: int) -> tuple[int, int]:
    """Closing signs at the head of a sentence, and their length with the white space after them."""
    end = start
    while end < stop and classes[codes[end]] & CLOSER:
        end += 1
        if end >= stop:
            return end - start, end - start
        if classes[codes[end]] & STRIPPED:
            closers = end - start
            while end < stop and classes[codes[end]] & STRIPPED:
                end += 1
            return closers, end - start
        if end + 1 < stop and codes[end] == DASH and codes[end + 1] == DASH:
            return end - start, end - start
    return 0, 0
