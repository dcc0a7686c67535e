"""Rules on whole documents, from Gopher (Rae et al. 2021, appendix A1.1) and DCLM's RefinedWeb.

Words are runs of characters between Unicode whitespace (Python's `str.split`) unless a rule says
otherwise; lines are what lies between newlines, stripped, empty ones left out.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Filter, because, choose

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("\u25cf", "\u2022", "*", "-")
ELLIPSES = ("...", ". . .", "\u2026")


def words(texts: pa.Array) -> list[list[str]]:
    """The whitespace words of each document."""
    return [text.split() for text in texts.to_pylist()]


def lines(texts: pa.Array) -> list[list[str]]:
    """The stripped, non-empty lines of each document."""
    return [
        [line for raw in text.split("\n") if (line := raw.strip())] for text in texts.to_pylist()
    ]


class WordCount(Filter, name="word_count"):
    """Reject documents with too few or too many words. (Rae et al. 2021, A1.1: 50 to 100,000)"""

    min_words: int = Field(50, ge=0, description="fewest words a kept document has")
    max_words: int = Field(100_000, ge=1, description="most words a kept document has")
    reasons: ClassVar[tuple[str, ...]] = ("too_few_words", "too_many_words")
    reference: ClassVar[str | None] = "page_length_filter"

    def reject(self, batch: Batch) -> pa.Array:
        count = np.array([len(found) for found in batch_words(batch)], dtype=np.int64)
        return choose(
            [
                (count < self.min_words, "too_few_words"),
                (count > self.max_words, "too_many_words"),
            ]
        )


class MeanWordLength(Filter, name="mean_word_length"):
    """Reject documents whose words are unusually short or long. (Rae et al. 2021, A1.1: 3 to 10)

    The mean is over code points of whitespace words, punctuation included; no words: rejected.
    """

    min_length: float = Field(3.0, ge=0, description="smallest mean length kept")
    max_length: float | None = Field(10.0, ge=0, description="largest mean length kept")
    reasons: ClassVar[tuple[str, ...]] = ("words_too_short", "words_too_long")
    reference: ClassVar[str | None] = "word_length_filter"

    def reject(self, batch: Batch) -> pa.Array:
        mean = np.array(
            [sum(map(len, found)) / len(found) if found else -1.0 for found in batch_words(batch)]
        )
        most = np.inf if self.max_length is None else self.max_length
        return choose(
            [
                ((mean < self.min_length) | (mean < 0), "words_too_short"),
                (mean > most, "words_too_long"),
            ]
        )


class SymbolRatio(Filter, name="symbol_ratio"):
    """Reject documents with too many '#' or ellipses per word. (Rae et al. 2021, A1.1)

    Counted are '#', '...', '. . .' and U+2026; a document without words is rejected.
    """

    max_ratio: float = Field(0.1, ge=0, description="symbols per word above which one goes")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_symbols",)
    reference: ClassVar[str | None] = "symbol_ratio_filter"

    def reject(self, batch: Batch) -> pa.Array:
        ratio = [
            sum(text.count(symbol) for symbol in ("#", *ELLIPSES)) / len(found) if found else np.inf
            for text, found in zip(batch.text.to_pylist(), batch_words(batch), strict=True)
        ]
        return because(np.array(ratio, dtype=np.float64) > self.max_ratio, "too_many_symbols")


class BulletLines(Filter, name="bullet_lines"):
    """Reject documents that are lists: too many lines start with a bullet. (Rae et al. 2021, A1.1)

    Bullets are U+25CF, U+2022, '*' and '-'; a document without lines stays.
    """

    max_fraction: float = Field(0.9, ge=0, le=1, description="bullet lines of all lines, at most")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_bullet_lines",)
    reference: ClassVar[str | None] = "bullet_count_filter"

    def reject(self, batch: Batch) -> pa.Array:
        gone = [
            sum(line.startswith(BULLETS) for line in found) > self.max_fraction * len(found)
            for found in batch_lines(batch)
        ]
        return because(np.array(gone, dtype=bool), "too_many_bullet_lines")


class EllipsisLines(Filter, name="ellipsis_lines"):
    """Reject documents in which too many lines end with an ellipsis. (Rae et al. 2021, A1.1)"""

    max_fraction: float = Field(0.3, ge=0, le=1, description="ellipsis lines of all lines, at most")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_ellipsis_lines",)
    reference: ClassVar[str | None] = "ellipsis_count_filter"

    def reject(self, batch: Batch) -> pa.Array:
        gone = [
            sum(line.endswith(ELLIPSES) for line in found) > self.max_fraction * len(found)
            for found in batch_lines(batch)
        ]
        return because(np.array(gone, dtype=bool), "too_many_ellipsis_lines")


class AlphabeticWords(Filter, name="alphabetic_words"):
    """Reject documents with too many words that hold no letter. (Rae et al. 2021, A1.1: 0.2)"""

    max_other_fraction: float = Field(
        0.2, ge=0, le=1, description="words without a letter of all words, at most"
    )
    reasons: ClassVar[tuple[str, ...]] = ("too_few_alphabetic_words",)
    reference: ClassVar[str | None] = "alphabetic_word_ratio_filter"

    def reject(self, batch: Batch) -> pa.Array:
        fraction = [
            sum(not any(map(str.isalpha, word)) for word in found) / len(found) if found else 1.0
            for found in batch_words(batch)
        ]
        gone = np.array(fraction, dtype=np.float64) > self.max_other_fraction
        empty = np.array([not found for found in batch_words(batch)], dtype=bool)
        return because(gone | empty, "too_few_alphabetic_words")


class StopWords(Filter, name="stop_words"):
    """Reject documents without enough English stop words. (Rae et al. 2021, A1.1: at least 2)

    Counted are the words the, be, to, of, and, that, have, with, lower-cased, standing alone.
    """

    min_stop_words: int = Field(2, ge=0, description="fewest stop words a kept document has")
    distinct: bool = Field(False, description="count each stop word once")
    reasons: ClassVar[tuple[str, ...]] = ("too_few_stop_words",)
    reference: ClassVar[str | None] = "stop_word_filter"

    def reject(self, batch: Batch) -> pa.Array:
        counts = []
        for found in batch_words(batch):
            stops = [word for word in map(str.lower, found) if word in STOP_WORDS]
            counts.append(len(set(stops)) if self.distinct else len(stops))
        return because(np.array(counts, dtype=np.int64) < self.min_stop_words, "too_few_stop_words")


class RepeatedLines(Filter, name="repeated_lines"):
    """Reject documents made of repeated lines. (Rae et al. 2021, table A1: 0.30 and 0.20)

    Only surplus copies count, as published: of n equal lines, n - 1 are repeated.
    """

    max_line_fraction: float = Field(0.3, ge=0, le=1, description="repeated lines, at most")
    max_character_fraction: float = Field(
        0.2, ge=0, le=1, description="characters in repeated lines, at most"
    )
    reasons: ClassVar[tuple[str, ...]] = ("repeated_lines", "repeated_line_characters")

    def reject(self, batch: Batch) -> pa.Array:
        by_lines, by_characters = [], []
        for found in batch_lines(batch):
            surplus = {line: n - 1 for line, n in Counter(found).items() if n > 1}
            size = sum(map(len, found))
            repeated = sum(len(line) * n for line, n in surplus.items())
            by_lines.append(sum(surplus.values()) / len(found) if found else 0.0)
            by_characters.append(repeated / size if size else 0.0)
        return choose(
            [
                (np.array(by_lines) > self.max_line_fraction, "repeated_lines"),
                (np.array(by_characters) > self.max_character_fraction, "repeated_line_characters"),
            ]
        )


class _Lists:
    """Python lists of a row each, as a view."""

    def __init__(self, values: list[list[str]]) -> None:
        self.values = values

    def take(self, indices: np.ndarray) -> _Lists:
        return _Lists([self.values[index] for index in indices.tolist()])


def _word_lists(texts: pa.Array) -> _Lists:
    return _Lists(words(texts))


def _line_lists(texts: pa.Array) -> _Lists:
    return _Lists(lines(texts))


def batch_words(batch: Batch) -> list[list[str]]:
    """The whitespace words of each row of a batch, computed once."""
    return batch.view(_word_lists).values


def batch_lines(batch: Batch) -> list[list[str]]:
    """The lines of each row of a batch, computed once."""
    return batch.view(_line_lists).values
