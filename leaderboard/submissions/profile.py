"""What is simple about a dataset of documents, and might predict its score without any training.

Length of documents, how far they compress, whether their words are in an order, and how many bits
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
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.readers import read_whole
from pipelines.formats.texts import shards_with_text
from pipelines.records import Frozen
from pipelines.schema import TEXT
from pipelines.storage.open import open_store

SAMPLE_BYTES = 32 << 20  # over all shards
FEWEST_BYTES = 64 << 10  # of a shard
LONGEST = 1 << 16  # bytes of one document: one book does not fill a shard's sample
LEVEL = 6  # of zlib

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


class _Task(Frozen):
    uri: str
    name: str
    number: int
    room: int


class _Part(Frozen):
    documents: int = 0  # in the sample
    words: int = 0
    sample: int = 0  # bytes
    compressed: int = 0
    shuffled: int = 0
    keys: bytes = b""  # hashes of words, uint64
    counts: bytes = b""  # how often each is in the sample, int64


def profile(uri: str, *, items: pa.Array | None, map_tasks: MapTasks = map_here) -> Profile | None:
    """The profile of the documents below a folder or prefix, shards side by side.

    `items` are the texts of a suite's questions; without them what the suite costs is left out.
    None for a dataset without a word. ShardError names a shard that cannot be read.
    """
    names = shards_with_text(open_store(uri))
    room = max(FEWEST_BYTES, SAMPLE_BYTES // max(len(names), 1))
    tasks = [_Task(uri=uri, name=name, number=n, room=room) for n, name in enumerate(names)]
    return _joined(map_tasks(_describe, tasks), items)


def _describe(task: _Task) -> _Part:
    """Documents of least hash until the room is full: the same ones in any order of the rows."""
    chosen: list[tuple[int, str]] = []
    for table in read_whole(open_store(task.uri), task.name, shard=task.number):
        texts = [text for text in table[TEXT].to_pylist() if text]
        chosen += [(_hash_of(text), text[:LONGEST]) for text in texts]
        chosen = _within(chosen, task.room)
    kept = [text for _, text in chosen]
    if not kept:
        return _Part()
    from pipelines.text.contamination import word_hashes

    hashes, _ = word_hashes(pa.array(kept, pa.large_string()))
    keys, counts = np.unique(hashes, return_counts=True)
    data = "\n".join(kept).encode("utf-8", "surrogatepass")
    return _Part(
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


def _joined(parts: Sequence[_Part], items: pa.Array | None) -> Profile | None:
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
