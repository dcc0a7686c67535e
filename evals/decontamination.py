"""A suite's items as a table of texts, and how much of them stands in a data set.

Texts are compared as words: Unicode letters and digits, lower case. An item is found by its word
n-grams (13 words, as in Brown et al. 2020, Appendix C); an item shorter than that is looked for
whole if it has at least `MIN_WORDS` words, and is otherwise too short to tell. The overlap of an
item is the fraction of its n-grams that occur anywhere in the data set.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from evals.metrics import score_of
from evals.reports import Run
from evals.suite import Suite
from evals.tasks import kind_of, load_task, read_data
from pipelines.records import Frozen

NGRAM = 13
MIN_WORDS = 8
FOUND_FRACTION = 0.5

ITEMS = pa.schema([("task", pa.string()), ("item", pa.int64()), ("text", pa.string())])

_WORD = re.compile(r"[^\W_]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def items_table(suite: Suite, data: Path, *, secret: bool = False) -> pa.Table:
    """Columns task, item (row of the task's file) and text, in the order of the suite.

    A text is the question with its right answer. Tasks whose texts must not be written anywhere
    are left out unless `secret`; never write a table with them to a file.
    """
    rows = [
        {"task": task.name, "item": item.row, "text": item.text()}
        for task in suite.load_tasks()
        if secret or not task.secret
        for item in read_data(task, data).items
        if not item.ids  # sequences of ids have no text of their own
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


class TaskOverlap(Frozen):
    """How much of one task stands in a data set."""

    task: str
    num_items: int
    num_too_short: int
    num_found: int
    mean_overlap: float
    found: tuple[int, ...]
    score: float | None = None
    score_without: float | None = None


class Overlap:
    """Counts which items of a table occur in texts that are shown to it one by one."""

    def __init__(self, items: pa.Table, *, ngram: int = NGRAM) -> None:
        self.items = items
        self.ngram = ngram
        self._by_length: dict[int, np.ndarray] = {}
        self._grams: list[tuple[int, np.ndarray]] = []
        sizes: dict[int, list[np.ndarray]] = {}
        for text in items["text"].to_pylist():
            hashes = word_hashes(text)
            size = min(ngram, len(hashes))
            grams = _ngrams(hashes, size) if size >= min(MIN_WORDS, ngram) else _ngrams(hashes, 0)
            self._grams.append((size, grams))
            sizes.setdefault(size, []).append(grams)
        for size, arrays in sizes.items():
            wanted = np.unique(np.concatenate(arrays))
            if len(wanted):
                self._by_length[size] = wanted
        self._seen = {size: np.zeros(len(w), dtype=bool) for size, w in self._by_length.items()}

    def add(self, texts: Iterable[str | None]) -> None:
        """Look through more texts."""
        for text in texts:
            if not text:
                continue
            hashes = word_hashes(text)
            for size, wanted in self._by_length.items():
                grams = _ngrams(hashes, size)
                places = np.searchsorted(wanted, grams)
                places[places == len(wanted)] = 0
                self._seen[size][places[wanted[places] == grams]] = True

    def fractions(self) -> np.ndarray:
        """Per item the fraction of its n-grams that were seen; NaN where it is too short."""
        found = np.full(len(self._grams), np.nan)
        for index, (size, grams) in enumerate(self._grams):
            if len(grams):
                places = np.searchsorted(self._by_length[size], grams)
                found[index] = self._seen[size][places].mean()
        return found

    def report(self, run: Run | None = None) -> list[TaskOverlap]:
        """Per task what was found, and with a run the score over the items that were not."""
        fractions = self.fractions()
        tasks = np.array(self.items["task"].to_pylist())
        rows = self.items["item"].to_numpy()
        reports = []
        for name in dict.fromkeys(tasks.tolist()):
            own = tasks == name
            known = own & ~np.isnan(fractions)
            found = known & (fractions >= FOUND_FRACTION)
            scores = _scores(run, name, set(rows[found].tolist())) if run else (None, None)
            reports.append(
                TaskOverlap(
                    task=name,
                    num_items=int(own.sum()),
                    num_too_short=int((own & np.isnan(fractions)).sum()),
                    num_found=int(found.sum()),
                    mean_overlap=float(fractions[known].mean()) if known.any() else 0.0,
                    found=tuple(int(row) for row in rows[found]),
                    score=scores[0],
                    score_without=scores[1],
                )
            )
        return reports


def _scores(run: Run, name: str, found: set[int]) -> tuple[float, float | None]:
    task = load_task(name)
    log = run.log(name)
    kind = kind_of(task.kind)
    keep = np.array([row not in found for row in log["row"].to_pylist()])
    whole = score_of(kind.tally(task, log))
    if not keep.any():
        return whole, None
    return whole, score_of(kind.tally(task, log.filter(pa.array(keep))))


def word_hashes(text: str) -> np.ndarray:
    """A 64-bit number for every word, (words,) uint64; equal words have equal numbers."""
    words: Sequence[str] = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return np.fromiter((_word_hash(word) for word in words), dtype=np.uint64, count=len(words))


_KNOWN: dict[str, int] = {}


def _word_hash(word: str) -> int:
    known = _KNOWN.get(word)
    if known is None:
        if len(_KNOWN) > 1_000_000:
            _KNOWN.clear()
        # FNV-1a over the UTF-8 bytes (Fowler, Noll, Vo); hash() differs between processes
        known = 0xCBF29CE484222325
        for byte in word.encode():
            known = ((known ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        _KNOWN[word] = known
    return known


def _ngrams(hashes: np.ndarray, size: int) -> np.ndarray:
    """One number for every `size` neighbouring words; empty when there are too few."""
    count = len(hashes) - size + 1
    if size == 0 or count < 1:
        return np.empty(0, dtype=np.uint64)
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        mixed = (mixed ^ hashes[place : place + count]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return mixed
