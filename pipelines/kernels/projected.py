"""fastText classifiers by projection: the input table times the output table, once at load.

fastText's score is softmax(B . mean_i A[i]) over the features i of a text, and B is linear, so
softmax(mean_i (A B^T)[i]) is the same (Joulin et al. 2016, equation 1, reordered). A B^T has a few
columns where A has a hundred: a table of 817 MB becomes one of 16 MB, which a cache can hold, and a
feature costs two additions. Several classifiers share one reading of the text: their columns are
side by side.

A classifier of two labels has one column, the difference of its two scores. After all scores comes
one column for each classifier, which counts features: a word may be known to one and not to
another. Every n-gram is known where nothing was pruned; then the table of n-grams has scores alone.
Probabilities are the library's up to 1e-6: `predict` adds 1e-5 inside its logarithm, and so do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.kernels.buffers import Bytes, Offsets, buffers_of, empty
from pipelines.kernels.characters import BLOCKS, INDEX, Hashes, Ints, _flags_at, _width
from pipelines.kernels.fasttext import SEPARATORS, Model
from pipelines.kernels.fasttext_labels import _BASIS, _PRIME, HIERARCHICAL, ONE_VS_ALL, Floats, _fnv
from pipelines.kernels.unicode_table import SPACE

MAX_LABELS = 16
"""With more labels a row of the product is no shorter than a row of the table."""

SMOOTHING = 1e-5  # the library's std_log(x) is log(x + 1e-5)
CHUNK_ROWS = 1 << 16  # rows of a table that are multiplied at a time: 26 MB of 100 floats

PLAIN, PARTS, LOOK = 0, 1, 2
"""What a byte does to a word: it belongs to it, it ends it, or the whole character decides."""

END_OF_TEXT = b"</s>"  # fastText puts it where a line ends, and stops reading where it is written


def can_project(model: Model) -> bool:
    """Whether a model is one whose product is smaller than it: few labels, words and word n-grams.

    Hierarchical softmax and character n-grams go the ordinary way.
    """
    _, _, loss, _, _, maxn, _, num_labels = model.options
    return bool(loss != HIERARCHICAL and maxn == 0 and num_labels <= MAX_LABELS)


def same_features(first: Model, second: Model) -> bool:
    """Whether two models cut a text into the same n-grams, so that one table can hold both."""
    return bool((first.options[[1, 3]] == second.options[[1, 3]]).all())


@dataclass(frozen=True)
class Projected:
    """Classifiers over one set of words and buckets: scores, then counts, of each of them."""

    models: tuple[tuple[tuple[str, ...], bool], ...]  # labels, and whether they are one-vs-all
    first_column: tuple[int, ...]
    words: Floats
    grams: Floats
    word_data: Bytes
    word_start: Ints
    slots: Hashes  # pairs: a word's last eight bytes, its hash and number (0: nothing here)
    end_row: int  # of </s>, or -1
    ngrams: int
    bucket: int

    def top(
        self, texts: pa.Array, *, separators: str = "spaces"
    ) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]]:
        """For each classifier: of each text the number of its best label and its probability.

        A text without any known feature has label -1 and probability 0.
        """
        data, offsets = buffers_of(texts)
        kinds = _kinds(separators)
        longest = int(np.diff(offsets).max(initial=0))
        # A word takes a byte and a separator at least; </s> comes after the last.
        room = longest // 2 + 2
        sums = _sums(
            *(data, offsets, kinds, SEPARATORS[separators], INDEX, BLOCKS),
            *(self.words, self.grams, self.word_data, self.word_start, self.slots),
            *(self.end_row, self.ngrams, self.bucket),
            *(empty(room, np.uint32), empty(room, np.int32), empty(room * 2, np.int64)),
            *(empty(room, np.uint64), empty(longest, np.uint8)),
        )
        num_scores = sums.shape[1] - len(self.models)
        answers = []
        for number, (labels, one_vs_all) in enumerate(self.models):
            scores = sums[:, self.first_column[number] :][:, : _width_of(len(labels), one_vs_all)]
            answers.append(_best(scores, sums[:, num_scores + number], len(labels), one_vs_all))
        return answers


def project(models: Sequence[Model]) -> Projected:
    """The product of each model's tables, side by side. ValueError where `can_project` says no."""
    for model in models:
        if not can_project(model):
            raise ValueError("this fastText model cannot be projected; use Model.top")
        if not same_features(models[0], model):
            raise ValueError(
                "these fastText models have other word n-grams or buckets; they cannot share a "
                "table, so load each on its own"
            )
    _, ngrams, _, bucket, *_ = (int(number) for number in models[0].options)
    # In the order of the models: their frequent words come first, and share pages and caches.
    row_of: dict[bytes, int] = {}
    for model in models:
        for word in _words(model):
            row_of.setdefault(word, len(row_of))
    words = list(row_of)
    first = np.cumsum([0, *(_num_scores(model) for model in models)])
    num_scores = int(first[-1])
    table = np.zeros((len(words), num_scores + len(models)), dtype=np.float32)
    all_known = all(bool((model.pruned[:bucket] >= 0).all()) for model in models)
    grams = np.zeros((bucket, num_scores + (0 if all_known else len(models))), dtype=np.float32)
    for number, model in enumerate(models):
        rows = np.array([row_of[word] for word in _words(model)], dtype=np.int64)
        columns = slice(int(first[number]), int(first[number + 1]))
        table[rows, columns] = _product(model, model.table[: len(rows)])
        table[rows, num_scores + number] = 1
        known = np.flatnonzero(model.pruned[:bucket] >= 0)
        for start in range(0, len(known), CHUNK_ROWS):
            some = known[start : start + CHUNK_ROWS]
            grams[some, columns] = _product(model, model.table[len(rows) + model.pruned[some]])
        if not all_known:
            grams[known, num_scores + number] = 1
    lengths = [len(word) for word in words]
    start_of = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(lengths, out=start_of[1:])
    data = np.frombuffer(b"".join(words) or b"\0", dtype=np.uint8)
    return Projected(
        models=tuple((model.labels, int(model.options[2]) == ONE_VS_ALL) for model in models),
        first_column=tuple(int(column) for column in first[:-1]),
        words=table,
        grams=grams,
        word_data=data,
        word_start=start_of,
        slots=_slots(data, start_of),
        end_row=row_of.get(END_OF_TEXT, -1),
        ngrams=ngrams,
        bucket=bucket,
    )


def _words(model: Model) -> list[bytes]:
    data, start = model.word_data.tobytes(), model.word_start.tolist()
    return [data[start[i] : start[i + 1]] for i in range(len(start) - 1)]


def _num_scores(model: Model) -> int:
    return _width_of(len(model.labels), int(model.options[2]) == ONE_VS_ALL)


def _width_of(num_labels: int, one_vs_all: bool) -> int:
    return 1 if num_labels == 2 and not one_vs_all else num_labels


def _product(model: Model, rows: Floats) -> npt.NDArray[np.float64]:
    """Scores of rows of the table, summed in float64."""
    output = model.output.astype(np.float64)
    if _num_scores(model) < len(model.labels):
        output = (output[1] - output[0])[None]
    return rows.astype(np.float64) @ output.T


def _kinds(separators: str) -> Bytes:
    """What each byte does to a word."""
    kinds = np.zeros(256, dtype=np.uint8)
    kinds[[32, 9, 10, 11, 12, 13, 0]] = PARTS
    if separators == "lines":
        kinds[28:31] = PARTS
        kinds[[0xC2, 0xE2]] = LOOK
    elif separators == "unicode":
        kinds[28:32] = PARTS
        # Lead bytes of the white space of Unicode: U+0085, U+00A0, U+1680, U+2000 to U+3000.
        kinds[[0xC2, 0xE1, 0xE2, 0xE3]] = LOOK
    return kinds


def _best(
    sums: npt.NDArray[np.float64],
    count: npt.NDArray[np.float64],
    num_labels: int,
    one_vs_all: bool,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """The best label of each text (of equal ones the last, as in the library) and its probability,
    at most 1."""
    scores = sums / np.maximum(count, 1)[:, None]
    if scores.shape[1] < num_labels:
        label = (scores[:, 0] >= 0).astype(np.int32)
        probability = 1 / (1 + np.exp(-np.abs(scores[:, 0])))
    else:
        if one_vs_all:
            scores = _sigmoids(scores)
        label = (num_labels - 1 - scores[:, ::-1].argmax(axis=1)).astype(np.int32)
        best = scores.max(axis=1)
        probability = best if one_vs_all else 1 / np.exp(scores - best[:, None]).sum(axis=1)
    known = count > 0
    probability = np.minimum(probability + SMOOTHING, 1.0)
    return np.where(known, label, np.int32(-1)), np.where(known, probability, 0.0)


@nb.njit(cache=True)
def _slots(data: Bytes, start: Ints) -> Hashes:
    """An open hash table of the words. No word holds a byte 0, so that eight bytes, filled up with
    zeros, say a short word whole."""
    size = 16
    while size < 2 * len(start):
        size *= 2
    slots = np.zeros((size, 2), np.uint64)
    for word in range(len(start) - 1):
        state, tail = _BASIS, np.uint64(0)
        for k in range(start[word], start[word + 1]):
            state = _fnv(state, data[k])
            tail = tail << np.uint64(8) | np.uint64(data[k])
        slot = np.int64(state) & (size - 1)
        while slots[slot, 1] != 0:
            slot = (slot + 1) & (size - 1)
        slots[slot, 0] = tail
        slots[slot, 1] = np.uint64(state) << np.uint64(32) | np.uint64(word + 1)
    return slots


@nb.njit(cache=True, inline="always")
def _is_separator(
    data: Bytes,
    position: int,
    separators: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
) -> bool:
    """Whether the character of several bytes at `position` parts words."""
    if separators == 3:
        width = _width(data[position])
        return (_flags_at(data, position, width, index, blocks) & SPACE) != 0
    if data[position] == 0xC2:
        return data[position + 1] == 0x85
    return data[position + 1] == 0x80 and (data[position + 2] == 0xA8 or data[position + 2] == 0xA9)


@nb.njit(cache=True)
def _scan(
    data: Bytes,
    position: int,
    end: int,
    kinds: Bytes,
    separators: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    hashes: npt.NDArray[np.uint32],
    starts: Ints,
    tails: Hashes,
) -> int:
    """Hashes of the words of a text, pairs of their first byte and the one that follows, their last
    eight bytes; and their number."""
    number = np.int64(0)
    while position < end:
        state, tail = _BASIS, np.uint64(0)
        first = position
        while position < end:
            byte = data[position]
            kind = kinds[byte]
            if kind != 0:
                if kind == 1 or _is_separator(data, position, separators, index, blocks):
                    break
            state = _fnv(state, byte)
            tail = tail << np.uint64(8) | np.uint64(byte)
            position += 1
        if position > first:
            hashes[number], tails[number] = state, tail
            starts[2 * number], starts[2 * number + 1] = first, position
            number += 1
        if position < end:
            position += 1 if data[position] < 0x80 else _width(data[position])
    return number


@nb.njit(cache=True)
def _without_newlines(data: Bytes, begin: int, end: int, made: Bytes) -> int:
    size = np.int64(0)
    for k in range(begin, end):
        if data[k] != 10:
            made[size] = data[k]
            size += 1
    return size


@nb.njit(cache=True, inline="always")
def _starts_with_label(data: Bytes, first: int, last: int) -> bool:
    """Whether a word begins with __label__; such a word is not a feature."""
    if last - first < 9 or data[first] != 95 or data[first + 1] != 95:
        return False
    for k, byte in enumerate((108, 97, 98, 101, 108, 95, 95)):
        if data[first + 2 + k] != byte:
            return False
    return True


@nb.njit(cache=True)
def _look_up(
    data: Bytes,
    number: int,
    hashes: npt.NDArray[np.uint32],
    starts: Ints,
    tails: Hashes,
    word_data: Bytes,
    word_start: Ints,
    slots: Hashes,
    rows: npt.NDArray[np.int32],
) -> int:
    """The rows of the words (-1: unknown) before the first </s>; words that are labels leave."""
    mask = len(slots) - 1
    low = np.uint64(0xFFFFFFFF)
    kept = np.int64(0)
    for this in range(number):
        state, tail = hashes[this], tails[this]
        if tail == END_TAIL:
            break
        slot = np.int64(state) & mask
        row = np.int64(-1)
        while slots[slot, 1] != 0:
            entry = slots[slot, 1]
            if slots[slot, 0] == tail and entry >> np.uint64(32) == np.uint64(state):
                known = np.int64(entry & low) - 1
                if tail >> np.uint64(56) == 0 or _is_word(
                    data, starts[2 * this], starts[2 * this + 1], word_data, word_start, known
                ):
                    row = known
                    break
            slot = (slot + 1) & mask
        if row < 0 and _starts_with_label(data, starts[2 * this], starts[2 * this + 1]):
            continue
        hashes[kept], rows[kept] = state, row
        kept += 1
    return kept


@nb.njit(cache=True, inline="always")
def _is_word(
    data: Bytes, first: int, last: int, word_data: Bytes, word_start: Ints, known: int
) -> bool:
    begin = word_start[known]
    equal = word_start[known + 1] - begin == last - first
    k = np.int64(0)
    while equal and k < last - first:
        equal = word_data[begin + k] == data[first + k]
        k += 1
    return equal


@nb.njit(cache=True, nogil=True)
def _sums(
    data: Bytes,
    offsets: Offsets,
    kinds: Bytes,
    separators: int,
    index: npt.NDArray[np.uint16],
    blocks: npt.NDArray[np.uint16],
    words: Floats,
    grams: Floats,
    word_data: Bytes,
    word_start: Ints,
    slots: Hashes,
    end_row: int,
    ngrams: int,
    bucket: int,
    hashes: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.int32],
    starts: Ints,
    tails: Hashes,
    glued: Bytes,
) -> npt.NDArray[np.float64]:
    """The sum of the rows of each text's features. Words are found first and added after, so that
    the processor waits for many rows of the table at once."""
    sums = np.zeros((len(offsets) - 1, words.shape[1]), np.float64)
    for text in range(len(offsets) - 1):
        source, begin, end = data, offsets[text], offsets[text + 1]
        if separators == 1:
            end = _without_newlines(data, begin, end, glued)
            source, begin = glued, np.int64(0)
        number = _scan(
            *(source, begin, end, kinds, separators, index, blocks, hashes, starts, tails),
        )
        number = _look_up(
            *(source, number, hashes, starts, tails, word_data, word_start, slots, rows),
        )
        hashes[number], rows[number] = END_HASH, end_row
        number += 1
        if ngrams == 2 and grams.shape[1] == 1:
            _add_pairs(sums, text, hashes, rows, number, words, grams, bucket)
        else:
            _add_grams(sums, text, hashes, rows, number, words, grams, bucket, ngrams)
    return sums


def _hash_of(word: bytes) -> np.uint32:
    """FNV-1a of a word of ASCII."""
    state = int(_BASIS)
    for byte in word:
        state = (state ^ byte) * int(_PRIME) & 0xFFFFFFFF
    return np.uint32(state)


END_HASH = _hash_of(END_OF_TEXT)
END_TAIL = np.uint64(int.from_bytes(END_OF_TEXT, "big"))


def _sigmoids(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The library's sigmoid: 512 steps from -8 to 8, 0 and 1 beyond."""
    steps = ((np.clip(values, -8, 8) + 8) * 32).astype(np.int64)
    sigmoids = 1 / (1 + np.exp(8 - steps / 32))
    return np.where(values < -8, 0.0, np.where(values > 8, 1.0, sigmoids))


@nb.njit(cache=True, inline="always")
def _mixed(gram: np.uint64, state: np.uint32) -> np.uint64:
    return gram * np.uint64(116049371) + np.uint64(np.int64(np.int32(state)))


@nb.njit(cache=True)
def _add_pairs(
    sums: npt.NDArray[np.float64],
    text: int,
    hashes: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.int32],
    number: int,
    words: Floats,
    grams: Floats,
    bucket: int,
) -> None:
    """Words and bigrams of one classifier of two labels: DCLM's, without inner loops."""
    size = np.uint64(bucket)
    score = 0.0
    count = np.float64(number - 1)
    for this in range(number):
        row = np.int64(rows[this])
        if row >= 0:
            score += words[row, 0]
            count += 1
    for this in range(1, number):
        gram = _mixed(np.uint64(np.int64(np.int32(hashes[this - 1]))), hashes[this])
        score += grams[np.int64(gram % size), 0]
    sums[text, 0] = score
    sums[text, 1] = count


@nb.njit(cache=True)
def _add_grams(
    sums: npt.NDArray[np.float64],
    text: int,
    hashes: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.int32],
    number: int,
    words: Floats,
    grams: Floats,
    bucket: int,
    ngrams: int,
) -> None:
    size = np.uint64(bucket)
    width = grams.shape[1]
    num_grams = np.int64(0)
    for first in range(number):
        row = np.int64(rows[first])
        if row >= 0:
            for k in range(words.shape[1]):
                sums[text, k] += words[row, k]
        gram = np.uint64(np.int64(np.int32(hashes[first])))
        for last in range(first + 1, min(first + ngrams, number)):
            gram = _mixed(gram, hashes[last])
            gram_row = np.int64(gram % size)
            num_grams += 1
            for k in range(width):
                sums[text, k] += grams[gram_row, k]
    for k in range(width, words.shape[1]):  # counts, where every n-gram is known
        sums[text, k] += num_grams
