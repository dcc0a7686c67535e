"""How much of an evaluation item a stretch of a document holds, light paraphrases included.

An item is the set of its 5-grams of words. Each weighs log(1 + items / items that have it), so what
many questions share ("which of the following is the") counts little, an n-gram of more than
`TOO_COMMON` items nothing, and fewer than `MIN_STRETCH` words nothing. The score of an item in a
document is the part of its weight that is within one stretch of twice its length: 1 for a copy,
about a half where every tenth word is another one, a half where only the first half was copied.
(The weights by rarity: AllenAI's decon, which samples n-grams and scores the question and its
answer apart.)
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.text.contamination import MIN_WORDS, ItemGrams, word_hashes

NGRAM = 5  # words: a copy with every tenth word changed still shares half of them
TOO_COMMON = 100  # items that have a 5-gram: it says nothing of any
MIN_SCORE = 0.35
"""Least score at which an item counts as leaked: of lightly paraphrased items nine in ten reach it,
and of unrelated documents fewer than one in ten thousand (docs/evaluation.md has the figures)."""
MIN_STRETCH = 7
"""Words from the first to the last that a document and an item share, for any score: six are
English ("the following is an example of"), and of a short question they are half of its weight."""
REACH = 2  # stretches that are searched, in lengths of the item: a paraphrase may be longer

Ints = npt.NDArray[np.int64]
WORD = re.compile(r"[^\W_]+")


class Matches(NamedTuple):
    """Items in documents, in order of document and item. `first` .. `last` are words."""

    row: Ints
    item: Ints
    score: npt.NDArray[np.float64]
    first: Ints
    last: Ints

    def at_least(self, score: float) -> Matches:
        """Those with a score or a higher one."""
        return self.take(np.flatnonzero(self.score >= score))

    def take(self, places: Ints) -> Matches:
        """Some of them."""
        row, item, score, first, last = self
        return Matches(row[places], item[places], score[places], first[places], last[places])


class SimilarItems:
    """The weighted 5-grams of a table of items (columns task and text)."""

    def __init__(self, items: pa.Table) -> None:
        self._grams = ItemGrams(items, ngram=NGRAM, min_words=MIN_WORDS)
        number, item = self._grams.number, self._grams.item
        num_items = len(self._grams.size)
        having = np.bincount(number, minlength=len(self._grams.known.gram))
        weights = np.where(having > TOO_COMMON, 0.0, np.log1p(num_items / np.maximum(having, 1)))
        rare = having[number] <= TOO_COMMON
        self._number, self._item = number[rare], item[rare]
        self._weight = weights[self._number]
        self._total = np.bincount(self._item, weights=self._weight, minlength=num_items)
        # the place of each n-gram among those of its item
        order = np.argsort(self._item, kind="stable")
        begins = np.searchsorted(self._item[order], np.arange(num_items))
        self._local = np.empty(len(order), np.int64)
        self._local[order] = np.arange(len(order)) - begins[self._item[order]]
        lengths = np.diff(word_hashes(items["text"].combine_chunks())[1])
        self._reach = np.maximum(REACH * lengths, NGRAM)
        self.task = self._grams.tasks

    @property
    def too_short(self) -> npt.NDArray[np.bool_]:
        """Items of too few words, or of none that fewer than `TOO_COMMON` others share."""
        return np.asarray(self._total <= 0)

    def matches(self, texts: pa.Array) -> Matches:
        """Every item that shares an n-gram with a text, with its score there."""
        row, number, word = kernels.ngrams.occurrences(self._grams.known, *word_hashes(texts))
        begin = np.searchsorted(self._number, number)
        count = np.searchsorted(self._number, number, side="right") - begin
        which = np.repeat(begin - np.cumsum(count) + count, count) + np.arange(count.sum())
        row, word = np.repeat(row, count), np.repeat(word, count)
        item = self._item[which]
        order = np.lexsort((word, item, row))
        row, word, item, which = row[order], word[order], item[order], which[order]
        fresh = np.ones(len(row), bool)
        fresh[1:] = (np.diff(row) != 0) | (np.diff(item) != 0)
        heads = np.flatnonzero(fresh)
        best, first, last = kernels.item_windows.best_windows(
            np.cumsum(fresh) - 1,
            word,
            self._local[which],
            self._weight[which],
            self._reach[item[heads]],
        )
        last = last + NGRAM - 1
        scores = np.where(last - first + 1 < MIN_STRETCH, 0.0, best / self._total[item[heads]])
        return Matches(row[heads], item[heads], scores, first, last)


def passage(text: str, first: int, last: int) -> str:
    """The words `first` .. `last` of a text, with what is between them."""
    text = unicodedata.normalize("NFC", text)
    begin = end = 0
    for number, match in enumerate(WORD.finditer(text)):
        if number == first:
            begin = match.start()
        if number == last:
            end = match.end()
            break
    return text[begin : end or len(text)]
