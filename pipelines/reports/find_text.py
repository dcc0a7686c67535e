"""Where a passage comes from: an index of a dataset's texts, and the look-up.

The index holds fingerprints of the texts (winnowed 5-grams of lower-case words), sorted by hash in
`BUCKETS` files: about 24 bytes for every 5 words. Any passage of 12 words or more that is in a
text is found, whatever its case and white space: a text that holds it has all of its fingerprints,
with the same words around them (eight bytes of a fingerprint are bits of these), so only such texts
are read. Of shorter ones most are found. What is found by hash is compared word by word before it
is shown: the index keeps the texts, each compressed separately, since reading one out of a shard
takes as long as reading thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import get_ident
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard
from pydantic import Field

from pipelines import kernels
from pipelines.errors import DataError, UsageError
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import format_of
from pipelines.records import Frozen, digest
from pipelines.schema import ROW, STRING, TEXT, URL, number_of, row_of, shard_of
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.open import open_store
from pipelines.storage.part_files import read_parts, write_by

NGRAM, WINDOW = 5, 8
MIN_WORDS = NGRAM + WINDOW - 1  # of a passage that is always found
BUCKETS = 64  # files of an index: a search reads the buckets of its fingerprints
INDEX = "find.json"
POSTINGS = pa.schema([("hash", pa.uint64()), ("row", pa.int64()), ("near", pa.uint64())])
MOST_CANDIDATES = 1000  # documents that a short passage is compared with, .03 ms each
SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
FIRST_ROWS = 4096  # of the rarest fingerprint, looked for among those of the others
MOST_NEAR = 20  # documents that are read to find the nearest one
LEVEL = 1  # of zstd: 0.4 of the text, at the speed that fingerprints are made
CONTEXT = 60  # characters shown around a passage


class IndexFile(Frozen):
    """What an index is of."""

    pool: str
    pool_id: str
    shards: tuple[str, ...]
    fingerprints: int
    texts: tuple[tuple[str, str], ...] = ()  # per shard the texts, and where each is; old: none


class IndexTask(Frozen):
    """The fingerprints of one shard, or one bucket of all shards."""

    uri: str
    key: str
    pool: str
    shard: str
    number: int
    files: tuple[str, ...] = ()
    step: int = 0


class Fingerprints(NamedTuple):
    """Of some texts, (fingerprints,): row of the text, hash, and bits of the words around it.

    `mask` has the bits of `near` that a word of the text gave.
    """

    row: npt.NDArray[np.int64]
    hash: npt.NDArray[np.uint64]
    near: npt.NDArray[np.uint64]
    mask: npt.NDArray[np.uint64]

    def take(self, indices: npt.NDArray[np.int64]) -> Fingerprints:
        """Some of them."""
        at = indices
        return Fingerprints(self.row[at], self.hash[at], self.near[at], self.mask[at])


class Posting(NamedTuple):
    """The documents of one fingerprint, mapped: sorted, a document as often as it has it.

    `near` is None in an index without it, and where the words around do not matter.
    """

    row: npt.NDArray[np.int64]
    near: npt.NDArray[np.uint64] | None
    bits: np.uint64
    mask: np.uint64

    def rows(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.int64]:
        """The different rows of a part in which the same words are around the fingerprint."""
        row = np.asarray(self.row[begin:end])
        if self.near is not None:
            row = row[(np.asarray(self.near[begin:end]) ^ self.bits) & self.mask == 0]
        return row[np.flatnonzero(np.diff(row, prepend=-1))]


class Match(Frozen):
    """A document that holds the passage."""

    row: int
    shard: int
    number: int
    url: str | None
    passage: str


class Near(Match):
    """The document that is nearest to a passage, with the part that is."""

    share: float = Field(description="of the passage's different 5-grams, those it has")


def build(pool_uri: str, *, out: str, map_tasks: MapTasks) -> IndexFile:
    """Index a pool or dataset into a folder. Done before: nothing.

    UsageError for other work, and for a pool in which no text has the words of a fingerprint.
    """
    pool, store = open_pool(pool_uri), open_store(out)
    if store.local_path(INDEX) is None:
        raise UsageError(f"--out {out}: an index is a local folder, since look-ups map its files")
    if store.exists(INDEX):
        known = IndexFile.model_validate_json(store.read_bytes(INDEX))
        if known.pool_id != pool.record.id:
            raise UsageError(f"{out} is an index of another pool ({known.pool}); choose another")
        return known
    state = digest([pool.record.id, NGRAM, WINDOW, BUCKETS, kernels.winnow.SIDE])[:16]
    tasks = [
        IndexTask(
            uri=store.uri, key=f"i0-{n:06d}-{state}", pool=pool.uri, shard=shard.name, number=n
        )
        for n, shard in enumerate(pool.shards)
    ]
    with progress_step("fingerprints", total=len(tasks), unit="shards") as bar:
        done = map_tasks(run_shard, tasks, on_result=lambda *_: bar.advance())
    files = tuple(result.files[0].name for result in done)
    texts = tuple((result.files[1].name, result.files[2].name) for result in done)
    buckets = [
        IndexTask(
            uri=store.uri, key=f"i1-{n:06d}-{state}", pool="", shard="", number=n, files=files
        )
        for n in range(BUCKETS)
    ]
    with progress_step("sort", total=BUCKETS, unit="buckets") as bar:
        sorted_ = map_tasks(run_bucket, buckets, on_result=lambda *_: bar.advance())
    number = sum(result.counts["fingerprints"] for result in sorted_)
    if not number:
        raise UsageError(
            f"no text of {pool_uri} has {NGRAM} words, so there is nothing to index; if its texts "
            "are in another field than `text`, index a run that begins with rename_field"
        )
    for result in sorted_:
        for file in result.files:
            name = file.name.partition("/")[2]
            store.move(file.name, f"{name.split('.')[0]}.npy")
    made = IndexFile(
        pool=pool.uri,
        pool_id=pool.record.id,
        shards=tuple(shard.name for shard in pool.shards),
        fingerprints=number,
        texts=texts,
    )
    write_bytes(store, INDEX, made.model_dump_json(indent=2).encode())
    for folder in ("work/", "done/"):
        for entry in list(store.list(folder)):
            store.remove(entry.name)
    return made


@once
def run_shard(task: IndexTask, store: Store) -> Done:
    """The fingerprints of one shard, by the upper bits of their hashes, and its texts."""
    hashes: list[Any] = [np.zeros(0, np.uint64)]
    rows: list[Any] = [np.zeros(0, np.int64)]
    near: list[Any] = [np.zeros(0, np.uint64)]
    numbers: list[int] = []
    ends = [0]
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    with store.create(attempt_name(f"texts/{task.number:06d}", ".zst")) as kept:
        for chunk in read_shard(open_store(task.pool), task.shard, shard=task.number):
            table = chunk.table
            if TEXT not in table.column_names or not table.num_rows:
                continue
            texts = table.column(TEXT).combine_chunks().fill_null("")
            prints = fingerprints(texts, window=WINDOW)
            hashes.append(prints.hash)
            near.append(prints.near)
            own = table.column(ROW).to_numpy()
            rows.append(own[prints.row])
            urls = table.column(URL).to_pylist() if URL in table.column_names else [None] * len(own)
            for number, url, text in zip(own.tolist(), urls, texts.to_pylist(), strict=True):
                kept.write(compressor.compress(orjson.dumps([url, text])))
                numbers.append(number_of(number))
                ends.append(kept.tell())
    name = attempt_name(f"texts/{task.number:06d}", ".npy")
    with store.create(name) as out:
        order = np.argsort(numbers, kind="stable") if numbers else np.zeros(0, np.int64)
        places = [np.array(numbers, np.int64), np.array(ends[:-1]), np.array(ends[1:])]
        np.save(out, np.stack([values[order] for values in places]))  # type: ignore[arg-type]
    columns = [np.concatenate(values) for values in (hashes, rows, near)]
    postings = attempt_name(f"work/{task.key}", ".parts")
    file = write_by(store, postings, POSTINGS, bucket_of(columns[0]), columns)
    return Done(key=task.key, files=(file, kept.file(), out.file()))


@once
def run_bucket(task: IndexTask, store: Store) -> Done:
    """The fingerprints of one bucket over all shards, sorted by hash, then row."""
    hash_, row, near = read_parts(store, task.files, task.number, POSTINGS)
    order = np.lexsort((near, row, hash_))
    files = []
    for name, values in (("hash", hash_), ("row", row), ("near", near)):
        with store.create(attempt_name(f"work/{name}-{task.number:03d}", ".npy")) as out:
            np.save(out, values[order], allow_pickle=False)  # type: ignore[arg-type]
        files.append(out.file())
    return Done(key=task.key, files=tuple(files), counts={"fingerprints": len(order)})


def fingerprints(texts: pa.Array, *, window: int) -> Fingerprints:
    """The fingerprints of texts, in order; words are lower-cased."""
    words = kernels.words.whitespace(pc.utf8_lower(texts))
    row, hash_, first = kernels.winnow.fingerprints(
        words.hash, words.begin, words.end, ngram=NGRAM, window=window
    )
    near, mask = kernels.winnow.neighbourhoods(
        words.hash, words.begin, words.end, rows=row, first=first, ngram=NGRAM
    )
    return Fingerprints(row, hash_, near, mask)


def bucket_of(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The file that a hash is in."""
    return (hashes >> np.uint64(58)).astype(np.int64)


def find(passage: str, index: str, *, most: int = 10) -> list[Match]:
    """The first `most` documents, in pool order, that hold the passage.

    UsageError for a passage of fewer than 5 words; DataError where the dataset no longer exists.
    """
    known, store = read_index(index), open_store(index)
    matches: list[Match] = []
    words = passage.lower().split()
    folder = Path(store.uri)
    if len(words) >= MIN_WORDS:
        # Whoever holds the passage has kept all that its own full windows keep.
        candidates = _holders(_postings(folder, _asked(passage, window=WINDOW)))
    else:
        shared = _postings(folder, _asked(passage, window=1))
        candidates = islice(_candidates(shared), MOST_CANDIDATES)
    for row in candidates:
        if len(matches) == most:
            break
        url, text = _document(known, store, row)
        shown = _passage(text, words)
        if shown is not None:
            shard, position = shard_of(row), number_of(row)
            matches.append(Match(row=row, shard=shard, number=position, url=url, passage=shown))
    return sorted(matches, key=lambda match: match.row)


def nearest(passage: str, index: str) -> Near | None:
    """The document that shares most of the passage's words in fives; None where none shares one.

    Of equal ones the first in pool order. The documents that share most fingerprints are read, so
    one that shares fewer than 12 words in a row may be missed.
    UsageError for a passage of fewer than 5 words; DataError where the dataset no longer exists.
    """
    known, store = read_index(index), open_store(index)
    words = passage.lower().split()
    asked = _grams(words)
    shared = _postings(Path(store.uri), _asked(passage, window=1), around=False)
    best: Near | None = None
    for row in islice(_candidates(shared), MOST_NEAR):
        url, text = _document(known, store, row)
        original = text.split()
        there = [gram in asked for gram in _windows([word.lower() for word in original])]
        share = len(asked & _grams([word.lower() for word in original])) / len(asked)
        if not share or (best is not None and (-share, row) > (-best.share, best.row)):
            continue
        begin = _densest(there, len(words))
        shown = " ".join(original[begin : begin + len(words)])
        best = Near(
            row=row,
            shard=shard_of(row),
            number=number_of(row),
            url=url,
            passage=shown,
            share=share,
        )
    return best


def read_index(index: str) -> IndexFile:
    """What an index is of. UsageError where there is none."""
    store = open_store(index)
    if not store.exists(INDEX):
        raise UsageError(f"{index} is no index; make one with: pipelines index DATASET --out DIR")
    return IndexFile.model_validate_json(store.read_bytes(INDEX))


def _windows(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)]


def _grams(words: list[str]) -> set[tuple[str, ...]]:
    return set(_windows(words))


def _densest(there: list[bool], length: int) -> int:
    """Where `length` words begin that hold most of the shared fives; the first of equal ones."""
    sums = np.concatenate([[0], np.cumsum(there)])
    width = max(1, length - NGRAM + 1)
    ends = np.minimum(np.arange(len(there)) + width, len(there))
    return int(np.argmax(np.where(there, sums[ends] - sums[: len(there)], 0)))


def _asked(passage: str, *, window: int) -> Fingerprints:
    """The different fingerprints of a passage. UsageError for one of fewer than 5 words.

    Equal words in fives with others around them are different: a text may have kept either.
    """
    prints = fingerprints(pa.array([passage], STRING), window=window)
    if not len(prints.hash):
        raise UsageError(f"a passage needs at least {NGRAM} words, this one has fewer")
    _, first = np.unique(np.stack(prints[1:]), axis=1, return_index=True)
    return prints.take(first)


def _postings(folder: Path, asked: Fingerprints, *, around: bool = True) -> list[Posting]:
    """The rows of each fingerprint, those of the rarest first; mapped, not read."""
    postings = []
    if not around:
        _, first = np.unique(asked.hash, return_index=True)
        asked = asked.take(first)
    buckets = bucket_of(asked.hash)
    for bucket in np.unique(buckets).tolist():
        keys, rows = (_mapped(folder / f"{name}-{bucket:03d}.npy") for name in ("hash", "row"))
        around_file = folder / f"near-{bucket:03d}.npy"
        near = _mapped(around_file) if around and around_file.exists() else None
        here = np.flatnonzero(buckets == bucket)
        first, last = (np.searchsorted(keys, asked.hash[here], side=side) for side in SIDES)
        for n, a, b in zip(here.tolist(), first.tolist(), last.tolist(), strict=True):
            bits = None if near is None else near[a:b]
            postings.append(Posting(rows[a:b], bits, asked.near[n], asked.mask[n]))
    return sorted(postings, key=lambda posting: len(posting.row))


def _mapped(file: Path) -> npt.NDArray[Any]:
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def _holders(postings: list[Posting]) -> Iterator[int]:
    """Rows that are in all of these, in pool order.

    The rarest fingerprint's rows are looked for among those of the others, some at a time: of
    what half a dataset holds, no more is looked at than was asked for.
    """
    rarest, *others = postings
    begin, size, last_row = 0, FIRST_ROWS, -1
    while begin < len(rarest.row):
        rows = rarest.rows(begin, begin + size)
        rows = rows[rows > last_row]  # a row that is on both sides of the border comes once
        last_row = int(rows[-1]) if len(rows) else last_row
        for other in others:
            if not len(rows):
                break
            first = int(np.searchsorted(other.row, rows[0]))
            last = int(np.searchsorted(other.row, rows[-1], side="right"))
            near = other.rows(first, last)
            if not len(near):
                rows = rows[:0]
                break
            at = np.minimum(np.searchsorted(near, rows), len(near) - 1)
            rows = rows[near[at] == rows]
        yield from rows.tolist()
        begin, size = begin + size, 4 * size


def _candidates(postings: list[Posting]) -> Iterator[int]:
    """Rows that share fingerprints, those that share most first, of equal ones in pool order."""
    rows = np.sort(np.concatenate([posting.rows() for posting in postings]), kind="stable")
    begins = np.flatnonzero(np.diff(rows, prepend=-1))  # the stable sort merges what is sorted
    counts = np.diff(begins, append=len(rows))
    order = np.argsort(-np.minimum(counts, 1 << 14).astype(np.int16), kind="stable")
    yield from rows[begins[order]].tolist()


@lru_cache(maxsize=4096)
def _places(folder: str, name: str) -> npt.NDArray[np.int64]:
    """Numbers, first and last bytes of a shard's texts; files of one index never change."""
    return np.asarray(np.load(Path(folder) / name, mmap_mode="r"))


@lru_cache(maxsize=4096)
def _texts(folder: str, name: str) -> npt.NDArray[np.uint8]:
    """The compressed texts of a shard, mapped: they are read where a document is asked for."""
    return np.asarray(np.memmap(Path(folder) / name, np.uint8, mode="r"))


@lru_cache(maxsize=1)
def _decompressor(thread: int) -> zstandard.ZstdDecompressor:
    """One of this thread: making it takes longer than to decompress a page."""
    return zstandard.ZstdDecompressor()


def _inflate(stored: npt.NDArray[np.uint8]) -> bytes:
    return _decompressor(get_ident()).decompress(stored)  # type: ignore[arg-type]


def _document(known: IndexFile, store: Store, row: int) -> tuple[str | None, str]:
    """URL and text of a row; of an index that keeps no texts out of the dataset's shard."""
    if known.texts:
        texts, where = known.texts[shard_of(row)]
        places = _places(store.uri, where)
        at = int(places[0].searchsorted(number_of(row)))
        stored = _texts(store.uri, texts)[places[1, at] : places[2, at]]
        url, text = orjson.loads(_inflate(stored))
        return url, text
    source, name = open_store(known.pool), known.shards[shard_of(row)]
    if not source.exists(name):
        raise DataError(
            f"{known.pool}/{name} no longer exists: put it back, or index it where it is now"
        )
    number = number_of(row)
    if format_of(name) == "parquet":
        with source.open(name) as file:
            parquet = pq.ParquetFile(file)
            group = 0
            while number >= parquet.metadata.row_group(group).num_rows:
                number -= parquet.metadata.row_group(group).num_rows
                group += 1
            names = [n for n in (URL, TEXT) if n in parquet.schema_arrow.names]
            record = parquet.read_row_group(group, columns=names).slice(number, 1).to_pylist()[0]
            return record.get(URL), record.get(TEXT) or ""
    for chunk in read_shard(source, name, shard=shard_of(row)):
        match = chunk.table.filter(pc.equal(chunk.table[ROW], row_of(shard_of(row), number)))
        if match.num_rows:
            record = match.to_pylist()[0]
            return record.get(URL), record.get(TEXT) or ""
    raise DataError(f"{known.pool}/{name} has no row {number}: it is not what was indexed")


def _passage(text: str, words: list[str]) -> str | None:
    """The passage with what is around it, as the text has it; None if it is not there."""
    lowered = text.lower()
    if not all(word in lowered for word in sorted(words, key=len, reverse=True)):
        return None  # most texts lack the longest word: a tenth of the time of what follows
    joined, searched = (f" {' '.join(some)} " for some in (lowered.split(), words))
    at = joined.find(searched)
    if at < 0:
        return None
    # Lower case may have another length (as of U+0130), so the place is counted in words.
    number = joined.count(" ", 0, at)
    places = [match.span() for match in re.finditer(r"\S+", text)]
    first, last = places[number][0], places[number + len(words) - 1][1]
    begin, end = max(0, first - CONTEXT), min(len(text), last + CONTEXT)
    return " ".join(text[begin:end].split())
