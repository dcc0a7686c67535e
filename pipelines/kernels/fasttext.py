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

from pipelines.kernels.buffers import Bytes, buffers_of
from pipelines.kernels.characters import BLOCKS, INDEX, Ints
from pipelines.kernels.fasttext_labels import _BASIS, HIERARCHICAL, Floats, _fnv, _top

MAGIC = 793712314  # the first word of the library's model files
SEPARATORS = {"spaces": 0, "delete_newlines": 1, "lines": 2, "unicode": 3}
"""What parts words: fastText's white space with newlines among it; the same but newlines are
deleted, so that words glue together; line breaks of Unicode as well; all Unicode white space."""


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
