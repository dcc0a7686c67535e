"""fastText inference (Joulin et al. 2016): the most likely label of each text and its probability.

Reads .bin and .ftz files (format 11 and 12) of supervised models: softmax, one-vs-all or
hierarchical softmax, character and word n-grams, pruned and quantised inputs. A quantised table is
expanded when it is read. Labels and probabilities are the library's up to the order of float32
sums.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of
from pipelines.kernels.unicode_table import ALNUM, SPACE
from pipelines.kernels.words import BLOCKS, HASH_SEED, INDEX, Ints, _flags_at, _width, mix

Floats = npt.NDArray[np.float32]

MAGIC = 793712314  # the first word of the library's model files
HIERARCHICAL, ONE_VS_ALL = 1, 4
SEPARATORS = {"spaces": 0, "delete_newlines": 1, "lines": 2, "unicode": 3}
"""What parts words: fastText's white space with newlines among it; the same but newlines are
deleted, so that words glue together; line breaks of Unicode as well; all Unicode white space."""

NGRAM_FACTOR = np.uint64(116049371)  # of the library's hash of word n-grams
CACHE_BITS = 13  # 8,192 words: with 16 dimensions half a megabyte, which a core's L2 holds
_PRIME, _BASIS = np.uint32(16777619), np.uint32(2166136261)  # FNV-1a of 32 bits, as the library


@dataclass(frozen=True)
class Model:
    """A model as arrays. Rows of `table`: words, then buckets of n-grams."""

    labels: tuple[str, ...]
    table: Floats
    output: Floats
    word_data: Bytes
    word_start: Ints
    slots: npt.NDArray[np.int32]
    pruned: npt.NDArray[np.int32]
    present: npt.NDArray[np.uint8]
    options: npt.NDArray[np.int64]
    tree: npt.NDArray[np.int32]

    def top(
        self, texts: pa.Array, *, separators: str = "spaces"
    ) -> tuple[npt.NDArray[np.int32], Floats, npt.NDArray[np.bool_]]:
        """For each text the number of its best label, its probability, and whether any character
        is a letter or digit. A text without any known feature has label -1 and probability 0."""
        data, offsets = buffers_of(texts)
        return _top(
            *(data, offsets, INDEX, BLOCKS, SEPARATORS[separators], self.table, self.output),
            *(self.word_data, self.word_start, self.slots, self.pruned, self.present),
            *(self.options, self.tree),
        )


class _Reader:
    def __init__(self, where: Path) -> None:
        self.offset, self.where = 0, where
        with where.open("rb") as file:
            # Mapped, not read: workers of one machine share the pages of a table of 800 MB.
            empty = where.stat().st_size == 0
            self.data: Any = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, dtype: str, count: int) -> npt.NDArray[np.generic]:
        size = np.dtype(dtype).itemsize * count
        if count < 0 or self.offset + size > len(self.data):
            raise ValueError(f"{self.where} is cut short or no fastText model")
        values = np.frombuffer(self.data, dtype=dtype, count=count, offset=self.offset)
        self.offset += size
        return values

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])

    def word(self) -> bytes:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise ValueError(f"{self.where} is cut short or no fastText model")
        word = self.data[self.offset : end]
        self.offset = end + 1
        return word

    def codebook(self) -> tuple[int, int, int, int, Floats]:
        dim, parts, size, last = (self.number("<i4") for _ in range(4))
        return dim, parts, size, last, self.array("<f4", dim * 256)  # type: ignore[return-value]

    def matrix(self, quantised: bool) -> Floats:
        if not quantised:
            rows, columns = self.number("<i8"), self.number("<i8")
            return self.array("<f4", rows * columns).reshape(rows, columns)  # type: ignore[return-value]
        with_norms = bool(self.number("<u1"))
        rows, columns = self.number("<i8"), self.number("<i8")
        codes = self.array("<u1", self.number("<i4")).reshape(rows, -1)
        _, parts, size, last, centroids = self.codebook()
        table = np.empty((rows, columns), dtype=np.float32)
        for part in range(parts):
            width = last if part == parts - 1 else size
            # The last part's centroids are narrower; those before it fill 256 * size each.
            start = part * 256 * size
            book = centroids[start : start + 256 * width].reshape(256, width)
            table[:, part * size : part * size + width] = book[codes[:, part]]
        if with_norms:
            norm_codes = self.array("<u1", rows)
            norms = self.codebook()[4]
            table *= norms[norm_codes][:, None]
        return table


def read(path: Path) -> Model:
    """A model from its file. ValueError for a file that is not a supervised fastText model."""
    reader = _Reader(path)
    if len(reader.data) < 8 or reader.number("<i4") != MAGIC:
        raise ValueError(f"{path} is not a fastText model (other first bytes)")
    version = reader.number("<i4")
    names = ("dim", "ws", "epoch", "min_count", "neg", "word_ngrams", "loss", "model", "bucket")
    args = {name: reader.number("<i4") for name in (*names, "minn", "maxn", "lr_update")}
    reader.array("<f8", 1)
    if version not in (11, 12) or args["model"] != 3:
        raise ValueError(f"{path}: expected a supervised model of format 11 or 12")
    if version == 11:
        args["maxn"] = 0
    size, num_words, num_labels = (reader.number("<i4") for _ in range(3))
    reader.number("<i8")
    num_pruned = reader.number("<i8")
    entries, counts = [], []
    for _ in range(size):
        entries.append(reader.word())
        counts.append(reader.number("<i8"))
        reader.number("<i1")
    bucket = args["bucket"]
    pruned = np.full(max(bucket, 1), -1, dtype=np.int32)
    if num_pruned > 0:
        pairs = reader.array("<i4", 2 * num_pruned).reshape(-1, 2)
        pruned[pairs[:, 0]] = pairs[:, 1]
    elif num_pruned < 0:
        pruned = np.arange(max(bucket, 1), dtype=np.int32)
    quantised = bool(reader.number("<u1"))
    table = reader.matrix(quantised)
    output = reader.matrix(bool(reader.number("<u1")) and quantised)
    labels = tuple(entry.decode("utf-8") for entry in entries[num_words:])
    lengths = [len(entry) for entry in entries[:num_words]]
    start = np.zeros(num_words + 1, dtype=np.int64)
    np.cumsum(lengths, out=start[1:])
    data = np.frombuffer(b"".join(entries[:num_words]) or b"\0", dtype=np.uint8)
    slots = _slots(data, start)
    tree = _huffman(counts[num_words:]) if args["loss"] == HIERARCHICAL else _NO_TREE
    keys = ("dim", "word_ngrams", "loss", "bucket", "minn", "maxn")
    options = np.array([args[key] for key in keys] + [num_words, num_labels], dtype=np.int64)
    present = np.packbits(pruned >= 0, bitorder="little")
    return Model(labels, table, output, data, start, slots, pruned, present, options, tree)


_NO_TREE = np.zeros((0, 2), dtype=np.int32)


def _huffman(counts: list[int]) -> npt.NDArray[np.int32]:
    """The children (left, right) of the inner nodes; leaves are labels, the root comes last.

    As fastText builds it: of leaves (from the rarest on, they are sorted by count) and nodes made
    so far the two with the smallest counts are joined; of equal ones the node comes first.
    """
    total = len(counts)
    leaf, node = total - 1, total
    weight = [*counts, *[10**15] * (total - 1)]
    children = np.zeros((total - 1, 2), dtype=np.int32)
    for new in range(total, 2 * total - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        children[new - total] = pair
        weight[new] = weight[pair[0]] + weight[pair[1]]
    return children


@nb.njit(cache=True, inline="always")
def _fnv(state: np.uint32, byte: np.uint8) -> np.uint32:
    """FNV-1a as fastText has it: bytes are signed."""
    signed = np.uint32(byte) | np.uint32(0xFFFFFF00) if byte >= 128 else np.uint32(byte)
    return np.uint32((state ^ signed) * _PRIME)


@nb.njit(cache=True)
def _slots(data: Bytes, start: Ints) -> npt.NDArray[np.int32]:
    """An open hash table of the words."""
    size = 16
    while size < 3 * len(start):
        size *= 2
    slots = np.full(size, -1, np.int32)
    for word in range(len(start) - 1):
        state = _BASIS
        for k in range(start[word], start[word + 1]):
            state = _fnv(state, data[k])
        slot = np.int64(state) & (size - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = word
    return slots


@nb.njit(cache=True)
def _word_id(
    word: Bytes,
    first: int,
    last: int,
    state: np.uint32,
    data: Bytes,
    start: Ints,
    slots: npt.NDArray[np.int32],
) -> int:
    mask = len(slots) - 1
    slot = np.int64(state) & mask
    while slots[slot] >= 0:
        word_id = np.int64(slots[slot])
        if start[word_id + 1] - start[word_id] == last - first:
            equal = True
            for k in range(last - first):
                if data[start[word_id] + k] != word[first + k]:
                    equal = False
                    break
            if equal:
                return word_id
        slot = (slot + 1) & mask
    return np.int64(-1)


@nb.njit(cache=True, inline="always")
def _add(total: Floats, table: Floats, row: int) -> None:
    for k in range(len(total)):  # an index, not table[row]: a view would count references
        total[k] += table[row, k]


@nb.njit(cache=True, inline="always")
def _modulo(value: np.uint32, divisor: int, inverse: float) -> int:
    """value % divisor by a multiplication: division takes several times as long."""
    left = np.int64(value) - np.int64(np.float64(value) * inverse) * divisor
    if left < 0:
        left += divisor
    elif left >= divisor:
        left -= divisor
    return left


@nb.njit(cache=True)
def _add_subwords(
    total: Floats,
    word: Bytes,
    size: int,
    minn: int,
    maxn: int,
    bucket: int,
    num_words: int,
    pruned: npt.NDArray[np.int32],
    present: npt.NDArray[np.uint8],
    table: Floats,
) -> int:
    """Add the rows of the character n-grams of a word; how many there were.

    The word is at word[1 : size - 1], with < before and > behind.
    """
    count = 0
    inverse = 1.0 / bucket
    for i in range(size):
        if word[i] & 0xC0 == 0x80:
            continue
        state = _BASIS
        j = i
        n = 1
        while j < size and n <= maxn:
            state = _fnv(state, word[j])
            j += 1
            while j < size and word[j] & 0xC0 == 0x80:
                state = _fnv(state, word[j])
                j += 1
            if n >= minn and not (n == 1 and (i == 0 or j == size)):
                row = _modulo(state, bucket, inverse)
                # Most n-grams of a pruned model are gone: a bit says so without a cache miss.
                if present[row >> 3] >> np.uint8(row & 7) & 1:
                    _add(total, table, num_words + pruned[row])
                    count += 1
            n += 1
    return count


@nb.njit(cache=True, inline="always")
def _add_ngrams(
    hidden: Floats,
    table: Floats,
    recent: npt.NDArray[np.int32],
    state: int,
    seen: int,
    ngrams: int,
    bucket: int,
    num_words: int,
    pruned: npt.NDArray[np.int32],
) -> int:
    """Add the n-grams that end with this word; `recent` holds the words before it."""
    count = np.int64(0)
    for back in range(1, min(seen, ngrams - 1) + 1):
        gram = np.uint64(np.int64(recent[(seen - back) % ngrams]))
        for k in range(back - 1, -1, -1):
            this = np.int32(state) if k == 0 else recent[(seen - k) % ngrams]
            gram = gram * NGRAM_FACTOR + np.uint64(np.int64(this))
        gram_row = pruned[np.int64(gram % np.uint64(bucket))]
        if gram_row >= 0:
            _add(hidden, table, num_words + gram_row)
            count += 1
    return count


# Whole on purpose: one pass over the bytes, whose state (position, word, two hashes, the row's
# flags) would have to go into and out of a function for every word.
@nb.njit(cache=True, nogil=True)
def _top(
    data: Bytes,
    offsets: Offsets,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    separators: int,
    table: Floats,
    output: Floats,
    word_data: Bytes,
    word_start: Ints,
    slots: npt.NDArray[np.int32],
    pruned: npt.NDArray[np.int32],
    present: npt.NDArray[np.uint8],
    options: Ints,
    tree: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], Floats, npt.NDArray[np.bool_]]:
    dim, ngrams, loss, bucket = options[0], options[1], options[2], options[3]
    minn, maxn, num_words, num_labels = options[4], options[5], options[6], options[7]
    rows = len(offsets) - 1
    best = np.full(rows, -1, np.int32)
    probability = np.zeros(rows, np.float32)
    alnum = np.zeros(rows, np.bool_)
    hidden = np.zeros(dim, np.float32)
    part = np.zeros(dim, np.float32)
    # Sums of the rows of words seen before, found again by hash: words repeat.
    slots_mask = np.uint64((1 << CACHE_BITS) - 1)
    cache_key = np.zeros(1 << CACHE_BITS, np.uint64)
    cache_size = np.full(1 << CACHE_BITS, -1, np.int32)
    cache_sum = np.zeros((1 << CACHE_BITS, dim), np.float32)
    longest = np.int64(0)
    for row in range(rows):
        longest = max(longest, offsets[row + 1] - offsets[row])
    word = np.empty(longest + 8, np.uint8)
    word[0] = 60
    recent = np.zeros(max(ngrams, 1), np.int32)  # hashes of the last words
    end_of_line = np.array([60, 47, 115, 62], np.uint8)  # </s>
    scores = np.empty(num_labels, np.float32)
    for row in range(rows):
        position, end = offsets[row], offsets[row + 1]
        for k in range(dim):
            hidden[k] = 0
        features = np.int64(0)
        seen = np.int64(0)
        while position <= end:
            # The next word goes to word[1:]; at the end of the text it is </s>.
            size = np.int64(0)
            state = _BASIS
            key = HASH_SEED
            while position < end:
                byte = data[position]
                width = np.int64(1)
                if byte < 0x80:
                    if byte == 10 and separators == 1:
                        position += 1
                        continue
                    parts = byte == 32 or (9 <= byte <= 13) or byte == 0
                    if separators == 2:
                        parts = parts or (28 <= byte <= 30)
                    elif separators == 3:
                        parts = parts or (28 <= byte <= 31)
                    if not alnum[row] and not parts:
                        flags = np.int64(blocks[np.int64(index[0]) << 7 | np.int64(byte)])
                        alnum[row] = (flags & ALNUM) != 0
                else:
                    width = _width(byte)
                    parts = False
                    if separators >= 2 or not alnum[row]:
                        flags = _flags_at(data, position, width, index, blocks)
                        alnum[row] = alnum[row] or (flags & ALNUM) != 0
                        if separators == 3:
                            parts = (flags & SPACE) != 0
                        elif separators == 2:  # U+0085, U+2028, U+2029
                            parts = (byte == 0xC2 and data[position + 1] == 0x85) or (
                                byte == 0xE2
                                and data[position + 1] == 0x80
                                and (data[position + 2] == 0xA8 or data[position + 2] == 0xA9)
                            )
                if parts:
                    if size > 0:
                        break
                    position += width
                    continue
                for k in range(position, position + width):
                    size += 1
                    word[size] = data[k]
                    state = _fnv(state, data[k])
                    key = mix(key, data[k])
                position += width
            last = size == 0
            if last:
                for k in range(4):
                    word[k + 1] = end_of_line[k]
                    state = _fnv(state, end_of_line[k])
                size = np.int64(4)
                key = np.uint64(1)
            slot = np.int64((key ^ key >> np.uint64(32)) & slots_mask)
            if cache_size[slot] >= 0 and cache_key[slot] == key:
                _add(hidden, cache_sum, slot)
                features += cache_size[slot]
                counts_as_word = True
            else:
                known = _word_id(word, 1, size + 1, state, word_data, word_start, slots)
                counts_as_word = known >= 0 or not _is_label(word, size)
                for k in range(dim):
                    part[k] = 0
                num_vectors = np.int64(0)
                if counts_as_word:
                    if known >= 0:
                        _add(part, table, known)
                        num_vectors += 1
                    if maxn > 0 and not last and not _is_end(word, size, end_of_line):
                        word[size + 1] = 62
                        num_vectors += _add_subwords(
                            *(part, word, size + 2, minn, maxn, bucket, num_words),
                            *(pruned, present, table),
                        )
                    cache_key[slot], cache_size[slot] = key, num_vectors
                    for k in range(dim):
                        cache_sum[slot, k] = part[k]
                        hidden[k] += part[k]
                    features += num_vectors
            if counts_as_word and ngrams > 1:
                features += _add_ngrams(
                    hidden, table, recent, state, seen, ngrams, bucket, num_words, pruned
                )
                recent[seen % ngrams] = np.int32(state)
                seen += 1
            if last or (size == 4 and _is_end(word, size, end_of_line)):
                break
        if features == 0:
            continue
        for k in range(dim):
            hidden[k] /= np.float32(features)
        if loss == HIERARCHICAL:
            best[row], probability[row] = _best_leaf(hidden, output, tree, num_labels)
            continue
        best[row], probability[row] = _best_label(hidden, output, scores, loss)
    return best, probability, alnum


@nb.njit(cache=True)
def _best_label(hidden: Floats, output: Floats, scores: Floats, loss: int) -> tuple[int, float]:
    """The label with the highest score, and its probability; `scores` is room for all scores."""
    num_labels = len(scores)
    for label in range(num_labels):
        score = np.float32(0)
        for k in range(len(hidden)):
            score += output[label, k] * hidden[k]
        scores[label] = _sigmoid(score) if loss == ONE_VS_ALL else score
    top = 0
    for label in range(1, num_labels):
        if scores[label] >= scores[top]:  # of equal ones the last, as in the library
            top = label
    if loss == ONE_VS_ALL:
        return top, np.float64(scores[top])
    total = 0.0
    for label in range(num_labels):
        total += np.exp(scores[label] - scores[top])
    return top, 1.0 / total


@nb.njit(cache=True)
def _sigmoid(value: float) -> float:
    """The library's sigmoid: 512 steps from -8 to 8, 0 and 1 beyond."""
    if value < -8.0:
        return 0.0
    if value > 8.0:
        return 1.0
    step = np.int64((value + np.float32(8)) * np.float32(32))
    return 1.0 / (1.0 + np.exp(8.0 - step / 32.0))


@nb.njit(cache=True)
def _is_end(word: Bytes, size: int, end_of_line: Bytes) -> bool:
    """Whether the word is </s>: fastText stops reading there."""
    if size != 4:
        return False
    for k in range(4):  # noqa: SIM110 - compiled
        if word[k + 1] != end_of_line[k]:
            return False
    return True


@nb.njit(cache=True)
def _is_label(word: Bytes, size: int) -> bool:
    """Whether the word begins with __label__: such words are not features."""
    if size < 9:
        return False
    for k, byte in enumerate((95, 95, 108, 97, 98, 101, 108, 95, 95)):
        if word[k + 1] != byte:
            return False
    return True


@nb.njit(cache=True)
def _best_leaf(
    hidden: Floats, output: Floats, tree: npt.NDArray[np.int32], num_labels: int
) -> tuple[int, float]:
    """The leaf with the greatest product of probabilities along its path from the root."""
    depth = 2 * num_labels
    nodes = np.empty(depth, np.int64)
    scores = np.empty(depth, np.float64)
    nodes[0], scores[0] = 2 * num_labels - 2, 0.0
    waiting = 1
    best, best_score = -1, -np.inf
    while waiting > 0:
        waiting -= 1
        node, score = nodes[waiting], scores[waiting]
        if score <= best_score:
            continue
        if node < num_labels:
            best, best_score = node, score
            continue
        dot = np.float32(0)
        for k in range(len(hidden)):
            dot += output[node - num_labels, k] * hidden[k]
        right = 1.0 / (1.0 + np.exp(-dot))
        left_score = score + np.log(1.0 - right + 1e-5)
        right_score = score + np.log(right + 1e-5)
        left, other = tree[node - num_labels, 0], tree[node - num_labels, 1]
        # The likelier child is looked at first, so that most others are never opened.
        if left_score > right_score:
            nodes[waiting], scores[waiting] = other, right_score
            nodes[waiting + 1], scores[waiting + 1] = left, left_score
        else:
            nodes[waiting], scores[waiting] = left, left_score
            nodes[waiting + 1], scores[waiting + 1] = other, right_score
        waiting += 2
    return best, np.exp(best_score)
