"""The best label of each text under a fastText model: features, hidden vector, output layer."""

from __future__ import annotations

import numba as nb
import numpy as np
import numpy.typing as npt

from pipelines.kernels.buffers import Bytes, Offsets
from pipelines.kernels.characters import Ints, _flags_at, _width
from pipelines.kernels.hashes import HASH_SEED, mix
from pipelines.kernels.unicode_table import ALNUM, SPACE

Floats = npt.NDArray[np.float32]
HIERARCHICAL, ONE_VS_ALL = 1, 4
_PRIME, _BASIS = np.uint32(16777619), np.uint32(2166136261)  # FNV-1a of 32 bits, as the library

NGRAM_FACTOR = np.uint64(116049371)  # of the library's hash of word n-grams
CACHE_BITS = 13  # 8,192 words: with 16 dimensions half a megabyte, which a core's L2 holds


@nb.njit(cache=True, inline="always")
def _fnv(state: np.uint32, byte: np.uint8) -> np.uint32:
    """FNV-1a as fastText has it: bytes are signed."""
    signed = np.uint32(byte) | np.uint32(0xFFFFFF00) if byte >= 128 else np.uint32(byte)
    return np.uint32((state ^ signed) * _PRIME)


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
                # Most n-grams of a pruned model were removed: a bit says so without a cache miss.
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
