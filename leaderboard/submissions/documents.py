"""A dataset of documents that is too large to send: how many it has, and a sketch to compare it by.

A document's key is the least hash of its word 5-grams (MinHash with one function; Broder 1997), so
two versions of a document have one key with the probability that their 5-grams agree: one changed
word in a hundred leaves 0.9. The sketch holds the smallest hashes of the keys (Cohen 1997). Words
are those of the overlap with a suite: letters and digits, lower case; blanks and punctuation are
nothing. A document of fewer than five words has no key.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leaderboard.submissions.bundle import DocumentList, Profile
from leaderboard.submissions.profile import Part, ShardSample, profile
from leaderboard.submissions.uids import SKETCH
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.readers import read_whole
from pipelines.formats.texts import shards_with_text
from pipelines.records import Frozen
from pipelines.schema import TEXT
from pipelines.storage.open import open_store

WORDS = 5  # of an n-gram of the sketch

Hashes = npt.NDArray[np.uint64]


class _Shard(Frozen):
    uri: str
    name: str
    number: int
    num_shards: int


class _Described(Frozen):
    documents: DocumentList
    part: Part


def describe(
    uri: str, *, items: pa.Array | None = None, map_tasks: MapTasks = map_here
) -> tuple[DocumentList, Profile | None]:
    """The list of the documents below a folder or prefix, and their profile, read once.

    Shards are read side by side. `items` are the texts of a suite's questions, for the profile.
    ShardError names a shard that cannot be read.
    """
    names = shards_with_text(open_store(uri))
    shards = [
        _Shard(uri=uri, name=name, number=number, num_shards=len(names))
        for number, name in enumerate(names)
    ]
    described = map_tasks(_describe_shard, shards)
    return (
        merged(shard.documents for shard in described),
        profile([shard.part for shard in described], items=items),
    )


def _describe_shard(shard: _Shard) -> _Described:
    lists = []
    sample = ShardSample(num_shards=shard.num_shards)
    for table in read_whole(open_store(shard.uri), shard.name, shard=shard.number):
        texts = table[TEXT].combine_chunks()
        lists.append(of_texts(texts))
        sample.add(texts)
    return _Described(documents=merged(lists), part=sample.part())


def of_texts(texts: pa.Array) -> DocumentList:
    """The list of some documents."""
    keys = keys_of(texts)
    return DocumentList(count=len(keys), sketch=_smallest(_mixed(keys)))


def merged(parts: Iterable[DocumentList]) -> DocumentList:
    """The list of all documents of several lists."""
    count, kept = 0, np.empty(0, np.uint64)
    for part in parts:
        count += part.count
        kept = np.concatenate([kept, np.array(part.sketch, np.uint64)])
    return DocumentList(count=count, sketch=_smallest(kept))


def keys_of(texts: pa.Array) -> Hashes:
    """The key of each document that has one, in order."""
    from pipelines import kernels  # compiled loops, which a service does not need
    from pipelines.text.contamination import word_hashes

    hashes, borders = word_hashes(texts)
    grams, begin = kernels.ngrams.grams(hashes, borders, WORDS)
    there = np.flatnonzero(np.diff(begin))
    if not len(there):
        return np.empty(0, np.uint64)
    result: Hashes = np.minimum.reduceat(_mixed(grams), begin[there])
    return result


def _smallest(hashes: Hashes) -> tuple[int, ...]:
    return tuple(int(value) for value in np.unique(hashes)[:SKETCH])


def _mixed(value: Hashes) -> Hashes:
    """The finaliser of splitmix64: keys are least values, their hashes are uniform again."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = value ^ (value >> np.uint64(31))
    return result
