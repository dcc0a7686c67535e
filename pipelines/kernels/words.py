"""Words of UTF-8 text with their places, lengths and hashes, in one pass.

The word definitions of the platform are here, in one list:

| name | what a word is | who uses it |
| --- | --- | --- |
| `whitespace` | a run of characters that str.isspace says are none | most rules; str.split |
| `uax29` | a UAX #29 segment whose first character is alphanumeric | DCLM's repetition rules |
| `uax29_tokens` | a UAX #29 segment that is not all white space, punctuation too | BFF |
| `uax29_segments` | every UAX #29 segment | word counts that keep white space |
| `fasttext` | a run of bytes other than space, \\n \\r \\t \\v \\f \\0 | DCLM's word counts |

UTF-8 was validated by the reader. UAX #29 is in `segments`; the classes come from the pinned table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty, padded
from pipelines.kernels.characters import BLOCKS as BLOCKS
from pipelines.kernels.characters import INDEX as INDEX
from pipelines.kernels.characters import Hashes as Hashes
from pipelines.kernels.characters import Ints as Ints
from pipelines.kernels.hashes import GROUP, HASH_SEED, measure, mix
from pipelines.kernels.segments import KEEP_ALL, KEEP_ALNUM, KEEP_NOT_SPACE, segment
from pipelines.kernels.vectors import PADDING, WIDTH, lowest, white_space

_1, _63 = np.uint64(1), np.uint64(63)


@dataclass(frozen=True)
class Words:
    """The words of each row: row i has the words begin[i] .. end[i] of the flat arrays.

    start, stop: byte places in the data; length: code points; hash: of the UTF-8 bytes.
    """

    start: Ints
    stop: Ints
    length: npt.NDArray[np.int32]
    hash: Hashes
    begin: Ints
    end: Ints
    data: Bytes

    def take(self, indices: npt.NDArray[np.int64]) -> Words:
        """The words of some rows."""
        begin, end = self.begin[indices], self.end[indices]
        return Words(self.start, self.stop, self.length, self.hash, begin, end, self.data)

    @property
    def counts(self) -> Ints:
        """Words per row."""
        return self.end - self.begin

    def strings(self, row: int) -> list[str]:
        """The words of one row, as text."""
        begin, end = int(self.begin[row]), int(self.end[row])
        if begin == end:
            return []
        first = int(self.start[begin])
        data = self.data[first : int(self.stop[end - 1])].tobytes()
        starts, stops = (self.start[begin:end] - first).tolist(), self.stop[begin:end] - first
        places = zip(starts, stops.tolist(), strict=True)
        if data.isascii():
            text = data.decode()
            return [text[start:stop] for start, stop in places]
        return [data[start:stop].decode() for start, stop in places]


def whitespace(texts: pa.Array) -> Words:
    """Words as Python's str.split finds them."""
    data, offsets = buffers_of(texts)
    return _words(_split_unicode, data, offsets)


def fasttext(texts: pa.Array) -> Words:
    """Words as fastText splits a line: at ASCII white space and NUL only."""
    data, offsets = buffers_of(texts)
    return _words(_split_bytes, data, offsets)


def uax29(texts: pa.Array) -> Words:
    """UAX #29 words whose first character is alphanumeric."""
    data, offsets = buffers_of(texts)
    return _words(segment, data, offsets, INDEX, BLOCKS, KEEP_ALNUM)


def uax29_tokens(texts: pa.Array) -> Words:
    """UAX #29 segments other than white space, punctuation included."""
    data, offsets = buffers_of(texts)
    return _words(segment, data, offsets, INDEX, BLOCKS, KEEP_NOT_SPACE)


def uax29_segments(texts: pa.Array) -> Words:
    """All UAX #29 segments, white space too: together they are the text."""
    data, offsets = buffers_of(texts)
    return _words(segment, data, offsets, INDEX, BLOCKS, KEEP_ALL)


def _words(kernel: Callable[..., int], data: Bytes, offsets: Offsets, *options: object) -> Words:
    """Run a kernel over outputs large enough.

    It gets rows, how far their data has been moved, and how many words are there already; it
    answers how many there are then, or -1 when there is no room.
    """
    size = int(offsets[-1] - offsets[0])
    capacity = size // 4 + WIDTH  # a block holds at most half as many words
    while True:
        start, stop = empty(capacity, np.int64), empty(capacity, np.int64)
        length, hashes = empty(capacity, np.int32), empty(capacity, np.uint64)
        borders = np.zeros(len(offsets), np.int64)
        count = 0
        for part, part_offsets, rows in padded(data, offsets, PADDING):
            moved = int(offsets[rows.start] - part_offsets[0])
            ends = borders[rows.start : rows.stop + 1]
            places = (moved, count, start, stop, length, hashes, ends)
            count = kernel(part, part_offsets, *options, *places)
            if count < 0:
                break
        if count >= 0:
            break
        capacity = min(2 * capacity, size + WIDTH)
    return Words(
        start[:count], stop[:count], length[:count], hashes[:count], borders[:-1], borders[1:], data
    )


@nb.njit(cache=True, nogil=True)
def _split_bytes(
    data: Bytes,
    offsets: Offsets,
    moved: int,
    count: int,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    capacity = len(start)
    for row in range(len(offsets) - 1):
        position, end = offsets[row], offsets[row + 1]
        while position < end:
            byte = data[position]
            if byte == 32 or (9 <= byte <= 13) or byte == 0:
                position += 1
                continue
            first = position
            state = HASH_SEED
            chars = 0
            while position < end:
                byte = data[position]
                if byte == 32 or (9 <= byte <= 13) or byte == 0:
                    break
                state = mix(state, byte)
                chars += (byte & 0xC0) != 0x80
                position += 1
            if count == capacity:
                return -1
            start[count], stop[count] = first + moved, position + moved
            length[count], hashes[count] = chars, state
            count += 1
        borders[row + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _split_unicode(
    data: Bytes,
    offsets: Offsets,
    moved: int,
    count: int,
    start: Ints,
    stop: Ints,
    length: npt.NDArray[np.int32],
    hashes: Hashes,
    borders: Ints,
) -> int:
    capacity = len(start)
    scratch, measured = np.empty((4, GROUP), np.uint64), count
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        outside = np.uint64(1)  # whether the byte before is white space
        spread = np.uint64(0)  # white space that began in the block before
        num_starts = count
        while at < end:
            blank, spread = white_space(data, at, end, spread)
            if count + WIDTH // 2 + 1 > capacity:
                return -1
            begins = ~blank & (blank << _1 | outside)
            ends = blank & ~(blank << _1 | outside)
            outside = blank >> _63
            while begins:
                start[num_starts] = at + lowest(begins) + moved
                num_starts += 1
                begins &= begins - _1
            while ends:
                stop[count] = at + lowest(ends) + moved
                count += 1
                ends &= ends - _1
            at += WIDTH
        if num_starts > count:  # a word ends with the row, and with a block
            stop[count] = end + moved
            count += 1
        borders[row + 1] = count
        if count - measured >= GROUP:  # while their places are in the cache
            measure(data, moved, start, stop, length, hashes, measured, count, scratch)
            measured = count
    measure(data, moved, start, stop, length, hashes, measured, count, scratch)
    return count
