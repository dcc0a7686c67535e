"""Documents that hold questions of an evaluation suite: dropped, or marked with their tasks.

Words are runs of letters and digits, lower case, in Unicode's composed form (NFC). An item is found
by its word n-grams (13 words, as in Brown et al. 2020, appendix C); an item shorter than that is
looked for whole if it has at least `MIN_WORDS` words, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Counted, Filter, Modifier, Operator, because
from pipelines.schema import STRING

NGRAM = 13  # words, as GPT-3's filter (Brown et al. 2020, appendix C)
MIN_WORDS = 8  # shorter items occur everywhere by chance
ITEMS = ("task", "item", "text")


def word_hashes(texts: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The words of each text as hashes, and where each text's begin; null has none."""
    texts = pc.fill_null(texts.cast(STRING), "")
    return kernels.ngrams.words(texts)  # type: ignore[no-any-return]


class ItemGrams:
    """The n-grams of a table of items (columns task and text), and whose they are."""

    def __init__(
        self, items: pa.Table, *, ngram: int = NGRAM, min_words: int | None = None
    ) -> None:
        """Items shorter than `min_words` (the n-gram, or `MIN_WORDS` if that is less) have none."""
        self.tasks = items["task"].combine_chunks().dictionary_encode()
        hashes, borders = word_hashes(items["text"].combine_chunks())
        lengths = np.diff(borders)
        least = min(MIN_WORDS, ngram) if min_words is None else min_words
        self.size = np.where(lengths >= least, np.minimum(lengths, ngram), 0)
        by_size = {}
        item, gram = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        endings = [np.zeros(0, np.uint64)]
        sizes = np.unique(self.size[self.size > 0]).tolist()
        for size in sizes:
            here = np.flatnonzero(self.size == size)
            grams, starts = _grams_of(hashes, borders, here, size)
            by_size[size] = grams
            item.append(np.repeat(here, np.diff(starts)))
            gram.append(grams)
            ends, _ = _grams_of(hashes, borders, here, sizes[0], skip=size - sizes[0])
            endings.append(ends)
        self.known = kernels.ngrams.grams_of(by_size, np.concatenate(endings))
        # every gram's number next to its item, sorted by number
        numbers = self._numbers(np.concatenate(gram), np.concatenate(item))
        items_of = np.concatenate(item)
        order = np.lexsort((items_of, numbers))
        self.number, self.item = numbers[order], items_of[order]
        fresh = np.ones(len(order), bool)
        fresh[1:] = (np.diff(self.number) != 0) | (np.diff(self.item) != 0)
        self.number, self.item = self.number[fresh], self.item[fresh]

    def _numbers(
        self, gram: npt.NDArray[np.uint64], item: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        out = np.empty(len(gram), np.int64)
        for which, size in enumerate(self.known.size.tolist()):
            first, last = self.known.border[which], self.known.border[which + 1]
            here = self.size[item] == size
            out[here] = first + np.searchsorted(self.known.gram[first:last], gram[here])
        return out

    def occurrences(self, texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pairs of a text's place and an item that shares an n-gram with it, each once, sorted."""
        row, number, _ = kernels.ngrams.occurrences(self.known, *word_hashes(texts))
        begin = np.searchsorted(self.number, number)
        count = np.searchsorted(self.number, number, side="right") - begin
        rows = np.repeat(row, count)
        places = np.repeat(begin - np.cumsum(count) + count, count) + np.arange(count.sum())
        if not len(rows):
            return rows, rows
        pairs = np.unique(np.stack([rows, self.item[places]]), axis=1)
        return pairs[0], pairs[1]

    def found_tasks(self, texts: pa.Array) -> list[list[str]]:
        """For each text the tasks, in order of their names, that have an item in it."""
        rows, items = self.occurrences(texts)
        names = self.tasks.dictionary.to_pylist()
        codes = self.tasks.indices.to_numpy()
        out: list[set[str]] = [set() for _ in range(len(texts))]
        for row, item in zip(rows.tolist(), items.tolist(), strict=True):
            out[row].add(names[codes[item]])
        return [sorted(tasks) for tasks in out]


def _grams_of(hashes: Any, borders: Any, rows: Any, size: int, *, skip: int = 0) -> tuple[Any, Any]:
    """The n-grams of some rows without their first `skip` words, and where each row's begin."""
    words = [hashes[borders[row] + skip : borders[row + 1]] for row in rows.tolist()]
    starts = np.concatenate([[0], np.cumsum([len(some) for some in words])]).astype(np.int64)
    return kernels.ngrams.grams(np.concatenate(words), starts, size)  # type: ignore[no-any-return]


def read_items(path: Path) -> pa.Table:
    """A table that `evals items` wrote. ValueError names what is wrong with another file."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}; make it by evals items") from None
    missing = [name for name in ITEMS if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; make it by evals items")
    if table.num_rows == 0:
        raise ValueError(f"{path} has no items: nothing would be looked for")
    return table


class _WithItems(Operator):
    """The parameters that say what is looked for."""

    items: str = Field(description="asset: a table that `evals items SUITE --out FILE` wrote")
    ngram: int = Field(NGRAM, ge=1, description="words of an n-gram")
    _made: Any = PrivateAttr(None)

    def assets(self) -> tuple[str, ...]:
        return (self.items,)

    def load(self, assets: AssetFolder) -> None:
        self._made = ItemGrams(read_items(assets.path(self.items)), ngram=self.ngram)

    def hits(self, batch: Batch) -> tuple[list[list[str]], dict[str, int]]:
        """The tasks found in each document, and how many documents have each task."""
        tasks = self._made.found_tasks(batch.text)
        counts: dict[str, int] = {}
        for row_tasks in tasks:
            for task in row_tasks:
                counts[f"documents with {task}"] = counts.get(f"documents with {task}", 0) + 1
        return tasks, counts


class Decontaminate(_WithItems, Filter, name="decontaminate"):
    """Reject documents that share a word n-gram with an evaluation item. (Brown et al. 2020, C)

    Words are runs of letters and digits in lower case. An item shorter than an n-gram is looked for
    whole if it has at least 8 words. Documents are counted per task.
    """

    reasons: ClassVar[tuple[str, ...]] = ("holds_evaluation_item",)

    def reject(self, batch: Batch) -> Counted:
        tasks, counts = self.hits(batch)
        rejected = np.array([bool(row_tasks) for row_tasks in tasks], dtype=bool)
        return Counted(because(rejected, self.reasons[0]), counts)

    def passage(self, batch: Batch, reason: str) -> str | None:
        return f"tasks: {', '.join(self._made.found_tasks(batch.text)[0])}"


class MarkContamination(_WithItems, Modifier, name="mark_contamination"):
    """Add the tasks whose evaluation items share a word n-gram with the document; null for none.

    As `decontaminate`, but documents stay. Several tasks are separated by commas.
    """

    column: str = Field("contamination", min_length=1, description="column to write")

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: STRING}

    def modify(self, batch: Batch) -> Counted:
        tasks, counts = self.hits(batch)
        values = [",".join(row_tasks) if row_tasks else None for row_tasks in tasks]
        return Counted({self.column: pa.array(values, type=STRING)}, counts)
