"""A suite's items as a table of texts, and how much of them occurs in a dataset.

Texts are compared as words: Unicode letters and digits, lower case. An item is found by its word
n-grams (13 words, as in Brown et al. 2020, Appendix C); an item shorter than that is searched
for whole if it has at least `MIN_WORDS` words, and is otherwise too short to decide. The overlap
of an item is the fraction of its n-grams that occur anywhere in the dataset. An item is also found
when one document contains a light paraphrase of it (`pipelines.text.similar_items`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.kinds import read_data
from evals.overlap_report import Items, TaskOverlap, task_overlaps
from evals.reports import Run
from evals.suite import Suite, load_suite
from evals.tasks import is_secret
from pipelines import kernels
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.readers import read_whole
from pipelines.formats.texts import shards_with_text
from pipelines.records import Frozen
from pipelines.storage.open import open_store
from pipelines.text.contamination import NGRAM, ItemGrams, word_hashes
from pipelines.text.similar_items import MIN_SCORE, SimilarItems, passage

ITEMS = pa.schema([("task", pa.string()), ("item", pa.int64()), ("text", pa.string())])
MAX_MATCHES = 1000
"""Matches per shard kept with their passages, those with the highest scores: a dataset with a whole
suite a thousand times must not fill memory."""


class Match(Frozen):
    """An item in a document: the fraction of it in one passage, and that passage."""

    task: str
    item: int
    score: float
    shard: str
    document: int  # counted in the shard, from 0
    url: str | None
    passage: str


def items_table(suite: Suite, data: Path, *, secret: bool = False) -> pa.Table:
    """Columns task, item (row of the task's file) and text, in the order of the suite.

    A text is the question with its right answer. Tasks whose texts must not be written anywhere
    are left out unless `secret`; never write a table with them to a file.
    """
    rows = [
        {"task": task.name, "item": item.row, "text": item.text()}
        for task in suite.load_tasks()
        if secret or not is_secret(task)
        for item in read_data(task, data).items
        if not item.ids  # sequences of ids have no text of their own
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


class Overlap:
    """Counts which items of a table occur in the texts added to it."""

    def __init__(self, items: pa.Table, *, ngram: int = NGRAM) -> None:
        self.items = items
        self._grams = ItemGrams(items, ngram=ngram)
        self._seen = np.zeros(len(self._grams.known.gram), dtype=bool)
        self.best = np.zeros(items.num_rows)
        self.matches: list[Match] = []

    def add(self, texts: Iterable[str | None]) -> None:
        """Search more texts."""
        self.mark(self.numbers(texts))

    def numbers(self, texts: Iterable[str | None] | pa.Array) -> npt.NDArray[np.int64]:
        """The numbers of the items' n-grams that occur in texts, ascending and distinct."""
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        _, numbers, _ = kernels.ngrams.occurrences(self._grams.known, *word_hashes(array))
        return np.unique(numbers)

    def mark(self, numbers: npt.NDArray[np.int64]) -> None:
        """Mark n-grams as seen, by their numbers; these may come from another process."""
        self._seen[numbers] = True

    def raise_to(self, scores: npt.NDArray[np.float64]) -> None:
        """Raise the best score of each item to `scores`, (items,), from a shard."""
        self.best = np.maximum(self.best, scores)

    def fractions(self) -> npt.NDArray[np.float64]:
        """Per item the fraction of its distinct n-grams that were seen; NaN if too short."""
        grams = self._grams
        count = np.bincount(grams.item, minlength=self.items.num_rows)
        seen = np.bincount(
            grams.item, weights=self._seen[grams.number], minlength=self.items.num_rows
        )
        return np.where(count > 0, seen / np.maximum(count, 1), np.nan)

    def report(self, run: Run | None = None) -> list[TaskOverlap]:
        """The overlap of each task; with a run also its score over the items not found."""
        fractions = self.fractions()
        tasks = np.array(self.items["task"].to_pylist())
        rows = self.items["item"].to_numpy()
        of_task = {name: tasks == name for name in dict.fromkeys(tasks.tolist())}
        similar = self.best >= MIN_SCORE
        items = (
            Items(name, rows[own], fractions[own], similar[own]) for name, own in of_task.items()
        )
        return list(task_overlaps(items, run))


class _Shard(Frozen):
    """One shard of a dataset, to be searched for the items of a suite."""

    dataset: str
    name: str
    number: int
    suite: str
    data: str
    ngram: int


class Seen(NamedTuple):
    """Result of a shard: n-grams by number, the best score of each item, the best matches."""

    numbers: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    matches: list[Match]


def text_overlap(
    dataset: str,
    suite: str | Path,
    data: str | Path,
    *,
    ngram: int = NGRAM,
    map_tasks: MapTasks = map_here,
) -> Overlap:
    """Search every document of a dataset for the items of a suite, shards in parallel.

    `suite` is a name or a file, `data` the folder of its evaluation data. ShardError names a shard
    that cannot be read.
    """
    shards = [
        _Shard(
            dataset=dataset,
            name=name,
            number=number,
            suite=str(suite),
            data=str(data),
            ngram=ngram,
        )
        for number, name in enumerate(shards_with_text(open_store(dataset)))
    ]
    whole = _of_suite(str(suite), str(data), ngram)
    for seen in map_tasks(_look_through, shards):
        whole.mark(seen.numbers)
        scores = np.zeros(whole.items.num_rows)
        scores[seen.items] = seen.scores
        whole.raise_to(scores)
        whole.matches += seen.matches
    whole.matches.sort(key=lambda match: (-match.score, match.task, match.item, match.shard))
    return whole


@lru_cache(maxsize=1)
def _items(suite: str, data: str) -> pa.Table:
    """Cached for the shards of one process: the items are small, but reading them is slow."""
    return items_table(load_suite(suite), Path(data), secret=True)


def _of_suite(suite: str, data: str, ngram: int) -> Overlap:
    return Overlap(_items(suite, data), ngram=ngram)


@lru_cache(maxsize=1)
def _shared(suite: str, data: str, ngram: int) -> Overlap:
    return _of_suite(suite, data, ngram)


@lru_cache(maxsize=1)
def _similar(suite: str, data: str) -> SimilarItems:
    return SimilarItems(_items(suite, data))


def _look_through(shard: _Shard) -> Seen:
    overlap = _shared(shard.suite, shard.data, shard.ngram)
    similar = _similar(shard.suite, shard.data)
    names = _items(shard.suite, shard.data)
    tables = read_whole(open_store(shard.dataset), shard.name, shard=shard.number)
    numbers = [np.zeros(0, np.int64)]
    best = np.zeros(names.num_rows)
    matches: list[Match] = []
    secret = {task.name for task in load_suite(shard.suite).load_tasks() if is_secret(task)}
    first = 0
    for table in tables:
        texts = table["text"].combine_chunks()
        numbers.append(overlap.numbers(texts))
        scored = similar.matches(texts).at_least(MIN_SCORE)
        np.maximum.at(best, scored.item, scored.score)
        urls = table["url"].to_pylist() if "url" in table.column_names else None
        for row, item, score, begin, end in zip(*(v.tolist() for v in scored), strict=True):
            task = names["task"][item].as_py()
            match = Match(
                task=task,
                item=names["item"][item].as_py(),
                score=round(score, 4),
                shard=shard.name,
                document=first + row,
                url=None if urls is None else urls[row],
                passage="" if task in secret else passage(texts[row].as_py(), begin, end),
            )
            matches.append(match)
        first += table.num_rows
        matches = sorted(matches, key=lambda match: -match.score)[:MAX_MATCHES]
    items = np.flatnonzero(best)
    return Seen(np.unique(np.concatenate(numbers)), items, best[items], matches)
