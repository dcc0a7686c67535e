"""Simple properties of a dataset of documents, which might predict its score without any training.

Length of documents, how far they compress, whether word order matters, and how many bits
a word of the suite's questions costs under the dataset's word frequencies (as arXiv 2602.10657
predicts rankings). All on a sample of documents chosen by hash, of bounded size.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from leaderboard.submissions.bundle import Profile
from pipelines.records import Frozen

SAMPLE_BYTES = 32 << 20  # over all shards
FEWEST_BYTES = 64 << 10  # of a shard
LONGEST = 1 << 16  # bytes of one document: one book does not fill a shard's sample
LEVEL = 6  # of zlib

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


class Part(Frozen):
    """What one shard adds to the profile."""

    documents: int = 0  # in the sample
    words: int = 0
    sample: int = 0  # bytes
    compressed: int = 0
    shuffled: int = 0
    keys: bytes = b""  # hashes of words, uint64
    counts: bytes = b""  # how often each is in the sample, int64


class ShardSample:
    """Documents of a shard with the least hashes: the same ones in any order of the rows."""

    def __init__(self, *, num_shards: int) -> None:
        self._room = max(FEWEST_BYTES, SAMPLE_BYTES // max(num_shards, 1))
        self._chosen: list[tuple[int, str]] = []

    def add(self, texts: pa.Array) -> None:
        """Look at more documents of the shard."""
        given = [text for text in texts.to_pylist() if text]
        self._chosen += [(_hash_of(text), text[:LONGEST]) for text in given]
        self._chosen = _within(self._chosen, self._room)

    def part(self) -> Part:
        """What the chosen documents add."""
        kept = [text for _, text in self._chosen]
        if not kept:
            return Part()
        from pipelines.text.contamination import word_hashes

        hashes, _ = word_hashes(pa.array(kept, pa.large_string()))
        keys, counts = np.unique(hashes, return_counts=True)
        data = "\n".join(kept).encode("utf-8", "surrogatepass")
        return Part(
            documents=len(kept),
            words=len(hashes),
            sample=len(data),
            compressed=len(zlib.compress(data, LEVEL)),
            shuffled=len(zlib.compress(_shuffled(kept), LEVEL)),
            keys=keys.astype(np.uint64).tobytes(),
            counts=counts.astype(np.int64).tobytes(),
        )


def _hash_of(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _within(chosen: list[tuple[int, str]], room: int) -> list[tuple[int, str]]:
    chosen.sort()
    size = 0
    for number, (_, text) in enumerate(chosen):
        size += len(text)
        if size >= room:
            return chosen[: number + 1]
    return chosen


def _shuffled(texts: Sequence[str]) -> bytes:
    """The same texts with the words of each in another order; the same one every time."""
    rng = random.Random(0)
    mixed = []
    for text in texts:
        words = text.split(" ")
        rng.shuffle(words)
        mixed.append(" ".join(words))
    return "\n".join(mixed).encode("utf-8", "surrogatepass")


def profile(parts: Sequence[Part], *, items: pa.Array | None) -> Profile | None:
    """The profile of all shards; None for a dataset without a word.

    `items` are the texts of a suite's questions; without them what the suite costs is left out.
    """
    sample = sum(part.sample for part in parts)
    words = sum(part.words for part in parts)
    if not words:
        return None
    keys = np.concatenate([np.frombuffer(part.keys, np.uint64) for part in parts])
    counts = np.concatenate([np.frombuffer(part.counts, np.int64) for part in parts])
    known, position = np.unique(keys, return_inverse=True)
    total = np.bincount(position, weights=counts).astype(np.int64)
    return Profile(
        document_words=words / sum(part.documents for part in parts),
        compressed=sum(part.compressed for part in parts) / sample,
        order=sum(part.compressed for part in parts) / sum(part.shuffled for part in parts),
        suite_bits=None if items is None else suite_bits(known, total, items),
    )


def suite_bits(known: Hashes, counts: Counts, items: pa.Array) -> float | None:
    """Bits of a word of the items under the frequencies of words, one added to each.

    A word that the dataset does not have costs as much as one more new word. None without words.
    """
    from pipelines.text.contamination import word_hashes

    hashes, _ = word_hashes(items.cast(pa.large_string()))
    if not len(hashes):
        return None
    position = np.searchsorted(known, hashes)
    position = np.minimum(position, len(known) - 1)
    often = np.where(known[position] == hashes, counts[position], 0) + 1.0
    return float(-np.log2(often / (counts.sum() + len(known) + 1.0)).mean())


def suite_texts(suite: str, data: str) -> pa.Array:
    """The questions of a suite with their right answers."""
    from evals.decontamination import items_table
    from evals.suite import load_suite

    return items_table(load_suite(suite), Path(data), secret=True)["text"].combine_chunks()
