"""A suite's items as a table of texts, and how much of them occurs in a dataset.

Texts are compared as words: Unicode letters and digits, lower case. An item is found by its word
n-grams (13 words, as in Brown et al. 2020, Appendix C); an item shorter than that is looked for
whole if it has at least `MIN_WORDS` words, and is otherwise too short to tell. The overlap of an
item is the fraction of its n-grams that occur anywhere in the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

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

ITEMS = pa.schema([("task", pa.string()), ("item", pa.int64()), ("text", pa.string())])


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
    """Counts which items of a table occur in texts that are shown to it."""

    def __init__(self, items: pa.Table, *, ngram: int = NGRAM) -> None:
        self.items = items
        self._grams = ItemGrams(items, ngram=ngram)
        self._seen = np.zeros(len(self._grams.known.gram), dtype=bool)

    def add(self, texts: Iterable[str | None]) -> None:
        """Look through more texts."""
        self.mark(self.numbers(texts))

    def numbers(self, texts: Iterable[str | None]) -> npt.NDArray[np.int64]:
        """The different n-grams of the items that occur in texts, by their numbers."""
        array = pa.array(texts, pa.large_string())
        _, numbers = kernels.ngrams.occurrences(self._grams.known, *word_hashes(array))
        return np.unique(numbers)

    def mark(self, numbers: npt.NDArray[np.int64]) -> None:
        """Count n-grams as seen; another process may have found them."""
        self._seen[numbers] = True

    def fractions(self) -> npt.NDArray[np.float64]:
        """Per item the fraction of its different n-grams that were seen; NaN: too short to tell."""
        grams = self._grams
        count = np.bincount(grams.item, minlength=self.items.num_rows)
        seen = np.bincount(
            grams.item, weights=self._seen[grams.number], minlength=self.items.num_rows
        )
        return np.where(count > 0, seen / np.maximum(count, 1), np.nan)

    def report(self, run: Run | None = None) -> list[TaskOverlap]:
        """Per task what was found, and with a run the score over the items that were not."""
        fractions = self.fractions()
        tasks = np.array(self.items["task"].to_pylist())
        rows = self.items["item"].to_numpy()
        of_task = {name: tasks == name for name in dict.fromkeys(tasks.tolist())}
        items = (Items(name, rows[own], fractions[own]) for name, own in of_task.items())
        return list(task_overlaps(items, run))


class _Shard(Frozen):
    """One shard of a dataset, to be looked through for the items of a suite."""

    dataset: str
    name: str
    number: int
    suite: str
    data: str
    ngram: int


def text_overlap(
    dataset: str,
    suite: str | Path,
    data: str | Path,
    *,
    ngram: int = NGRAM,
    map_tasks: MapTasks = map_here,
) -> Overlap:
    """Look through every document of a dataset for the items of a suite, shards side by side.

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
    for numbers in map_tasks(_look_through, shards):
        whole.mark(numbers)
    return whole


@lru_cache(maxsize=1)
def _items(suite: str, data: str) -> pa.Table:
    """Kept for the shards of one process: the items are small, reading them is not."""
    return items_table(load_suite(suite), Path(data), secret=True)


def _of_suite(suite: str, data: str, ngram: int) -> Overlap:
    return Overlap(_items(suite, data), ngram=ngram)


@lru_cache(maxsize=1)
def _shared(suite: str, data: str, ngram: int) -> Overlap:
    return _of_suite(suite, data, ngram)


def _look_through(shard: _Shard) -> npt.NDArray[np.int64]:
    overlap = _shared(shard.suite, shard.data, shard.ngram)
    tables = read_whole(open_store(shard.dataset), shard.name, shard=shard.number)
    numbers = [overlap.numbers(table["text"].to_pylist()) for table in tables]
    return np.unique(np.concatenate(numbers)) if numbers else np.zeros(0, np.int64)
