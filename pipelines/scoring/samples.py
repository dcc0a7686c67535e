"""Documents of one label for a classifier: sources, qualifying steps, and a sample by hash.

A sample is a pipeline run (the qualifying steps, then `hash_sample`), so it works at any size, on
any number of workers and on a cluster, resumes, and is the same on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import xxhash

from pipelines.engine.run import run
from pipelines.errors import UsageError
from pipelines.execution.executors import MapTasks
from pipelines.formats.pool import Pool, open_file, open_pool
from pipelines.formats.shards import format_of
from pipelines.pipeline import Pipeline, Step
from pipelines.records import JSON
from pipelines.schema import TEXT
from pipelines.selection import HashSample
from pipelines.storage.open import open_store

NAMED = re.compile(r"([\w.-]+)=(.+)")  # NAME=URI


@dataclass(frozen=True)
class Source:
    """A pool, a dataset or a file of documents, and its name in tables."""

    name: str
    pool: Pool


@dataclass(frozen=True)
class Documents:
    """The documents of one label. `take` of them by hash, or all in the order of the pool."""

    sources: tuple[Source, ...]
    take: int | None = None
    qualify: Pipeline = field(default_factory=lambda: Pipeline("all", ()))

    def described(self) -> dict[str, JSON]:
        """The entry of a record about these documents, in addition to the sources' ids."""
        return {"documents": self.take, "steps": self.qualify.spec()["steps"]}


@dataclass(frozen=True)
class Sample:
    """Texts in the order in which they are used; `source` counts the sources of `Documents`."""

    texts: list[str]
    source: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    def only(self, mask: npt.NDArray[np.bool_]) -> Sample:
        """The documents where `mask` is true."""
        texts = [self.texts[n] for n in np.flatnonzero(mask).tolist()]
        return Sample(texts, self.source[mask], self.hashes[mask])


def open_source(given: str) -> Source:
    """The source named by `URI` or `NAME=URI`: a folder, a prefix, or one file of documents."""
    match = NAMED.fullmatch(given)
    name, uri = match.groups() if match else (None, given)
    leaf = uri.rstrip("/").rpartition("/")[2]
    single = format_of(leaf) is not None and not open_store(uri).exists("record.json")
    pool = open_file(uri) if single else open_pool(uri)
    return Source(name or leaf, pool)


def open_sources(given: Sequence[str], *, what: str) -> tuple[Source, ...]:
    """All sources. UsageError when two have the same name; `what` is the label they are for."""
    sources = tuple(open_source(uri) for uri in given)
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sources of {what} are called {name!r}: write NAME=URI for each")
    return sources


def sample(
    documents: Documents, *, label: str, seed: int | None, work: str, map_tasks: MapTasks
) -> Sample:
    """The texts of the documents; each source is sampled by a run below `work`.

    With `take`, those with the highest seeded hashes over all sources, in that order; with `seed`
    None, those with the lowest hashes of the text itself, lowest first.
    """
    texts: list[str] = []
    numbers: list[int] = []
    for number, source in enumerate(documents.sources):
        steps = list(documents.qualify.steps)
        if documents.take is not None:
            sampler = HashSample(total=documents.take, seed=seed or 0, plain=seed is None)
            steps.append(Step(len(steps), "hash_sample", sampler))
        pipeline = Pipeline(
            f"{label} of {source.name}",
            tuple(steps),
            documents.qualify.modules,
            assets=documents.qualify.assets,
        )
        out = f"{work}/{label}-{number}"
        result = run(pipeline, source.pool, out=out, map_tasks=map_tasks)
        store = open_store(out)
        for file in result.record.outputs:
            with store.open(file.name) as opened:
                table = pq.read_table(opened, columns=[TEXT])
            texts += table.column(TEXT).to_pylist()
            numbers += [number] * table.num_rows
    prefix = b"" if seed is None else f"{seed}:".encode()
    hashes = np.array([xxhash.xxh3_64_intdigest(prefix + t.encode()) for t in texts], np.uint64)
    made = Sample(texts, np.array(numbers, np.int64), hashes)
    if documents.take is None:
        return made
    order = np.lexsort((made.source, hashes if seed is None else ~hashes))[: documents.take]
    return Sample([texts[n] for n in order.tolist()], made.source[order], hashes[order])


def held_out(sampled: Sample, *, seed: int | None, fraction: float) -> npt.NDArray[np.bool_]:
    """Which documents are held out, (documents,): by hash of the text, so copies stay together.

    `fraction` in [0, 1] is the expected share.
    """
    prefix = f"held-out:{seed}:".encode()
    limit = int(fraction * (1 << 64))
    return np.array(
        [xxhash.xxh3_64_intdigest(prefix + text.encode()) < limit for text in sampled.texts],
        dtype=bool,
    )
