"""Rules on whole documents, from Gopher (Rae et al. 2021, appendix A1.1) and DCLM's RefinedWeb.

Words are runs of characters between Unicode whitespace (Python's `str.split`) unless a rule says
otherwise; lines are the texts between newlines, stripped, empty ones left out. All figures of a
text are measured in one pass (`pipelines.kernels.stats`), by whichever rule asks first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.kernels.columns import (
    BULLETS,
    DISTINCT_STOPS,
    DOTS,
    ELLIPSES,
    ELLIPSIS_ENDS,
    HASHES,
    LINES,
    SPACED_DOTS,
    STOPS,
    WORD_CHARACTERS,
    WORDS,
    WORDS_WITH_LETTER,
)
from pipelines.operators import Case, Filter

if TYPE_CHECKING:
    from pipelines.kernels.repetition import Units
    from pipelines.kernels.stats import Stats


class WordCount(Filter, name="word_count"):
    """Reject documents with too few or too many words. (Rae et al. 2021, A1.1: 50 to 100,000)"""

    min_words: int = Field(50, ge=0, description="fewest words a kept document has")
    max_words: int = Field(100_000, ge=1, description="most words a kept document has")
    reasons: ClassVar[tuple[str, ...]] = ("too_few_words", "too_many_words")
    reference: ClassVar[str | None] = "page_length_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        count = figures(batch)[WORDS]
        return [
            Case(count < self.min_words, "too_few_words", count, self.min_words),
            Case(count > self.max_words, "too_many_words", count, self.max_words),
        ]


class MeanWordLength(Filter, name="mean_word_length"):
    """Reject documents whose words are unusually short or long. (Rae et al. 2021, A1.1: 3 to 10)

    The mean is over code points of whitespace words, punctuation included; no words: rejected.
    """

    min_length: float = Field(3.0, ge=0, description="smallest mean length kept")
    max_length: float | None = Field(10.0, ge=0, description="largest mean length kept")
    reasons: ClassVar[tuple[str, ...]] = ("words_too_short", "words_too_long")
    reference: ClassVar[str | None] = "word_length_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        measured = figures(batch)
        words = measured[WORDS]
        mean = np.where(words > 0, measured[WORD_CHARACTERS] / np.maximum(words, 1), -1.0)
        most = np.inf if self.max_length is None else self.max_length
        short = (mean < self.min_length) | (mean < 0)
        return [
            Case(short, "words_too_short", mean, self.min_length),
            Case(mean > most, "words_too_long", mean, self.max_length),
        ]


class SymbolRatio(Filter, name="symbol_ratio"):
    """Reject documents with too many '#' or ellipses per word. (Rae et al. 2021, A1.1)

    Counted are '#', '...', '. . .' and U+2026; a document without words is rejected.
    """

    max_ratio: float = Field(0.1, ge=0, description="symbols per word above which one goes")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_symbols",)
    reference: ClassVar[str | None] = "symbol_ratio_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        measured = figures(batch)
        symbols = sum(measured[column] for column in (HASHES, DOTS, SPACED_DOTS, ELLIPSES))
        words = measured[WORDS]
        ratio = np.where(words > 0, symbols / np.maximum(words, 1), np.inf)
        return [Case(ratio > self.max_ratio, "too_many_symbols", ratio, self.max_ratio)]


class BulletLines(Filter, name="bullet_lines"):
    """Reject documents that are lists: too many lines start with a bullet. (Rae et al. 2021, A1.1)

    Bullets are U+25CF, U+2022, '*' and '-'; a document without lines stays.
    """

    max_fraction: float = Field(0.9, ge=0, le=1, description="bullet lines of all lines, at most")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_bullet_lines",)
    reference: ClassVar[str | None] = "bullet_count_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        bullets, lines = (figures(batch)[column] for column in (BULLETS, LINES))
        rejected, share = bullets > self.max_fraction * lines, bullets / np.maximum(lines, 1)
        return [Case(rejected, "too_many_bullet_lines", share, self.max_fraction)]


class EllipsisLines(Filter, name="ellipsis_lines"):
    """Reject documents in which too many lines end with an ellipsis. (Rae et al. 2021, A1.1)"""

    max_fraction: float = Field(0.3, ge=0, le=1, description="ellipsis lines of all lines, at most")
    reasons: ClassVar[tuple[str, ...]] = ("too_many_ellipsis_lines",)
    reference: ClassVar[str | None] = "ellipsis_count_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        ends, lines = (figures(batch)[column] for column in (ELLIPSIS_ENDS, LINES))
        rejected, share = ends > self.max_fraction * lines, ends / np.maximum(lines, 1)
        return [Case(rejected, "too_many_ellipsis_lines", share, self.max_fraction)]


class AlphabeticWords(Filter, name="alphabetic_words"):
    """Reject documents with too many words that hold no letter. (Rae et al. 2021, A1.1: 0.2)"""

    max_other_fraction: float = Field(
        0.2, ge=0, le=1, description="words without a letter of all words, at most"
    )
    reasons: ClassVar[tuple[str, ...]] = ("too_few_alphabetic_words",)
    reference: ClassVar[str | None] = "alphabetic_word_ratio_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        measured = figures(batch)
        words = measured[WORDS]
        other = np.full(len(words), np.nan)  # of no words there is no share
        np.divide(words - measured[WORDS_WITH_LETTER], words, out=other, where=words > 0)
        rejected = (other > self.max_other_fraction) | (words == 0)
        return [Case(rejected, "too_few_alphabetic_words", other, self.max_other_fraction)]


class StopWords(Filter, name="stop_words"):
    """Reject documents without enough English stop words. (Rae et al. 2021, A1.1: at least 2)

    Counted are the words the, be, to, of, and, that, have, with, lower-cased, standing alone.
    """

    min_stop_words: int = Field(2, ge=0, description="fewest stop words a kept document has")
    distinct: bool = Field(False, description="count each stop word once")
    reasons: ClassVar[tuple[str, ...]] = ("too_few_stop_words",)
    reference: ClassVar[str | None] = "stop_word_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        counts = figures(batch)[DISTINCT_STOPS if self.distinct else STOPS]
        few = counts < self.min_stop_words
        return [Case(few, "too_few_stop_words", counts, self.min_stop_words)]


class RepeatedLines(Filter, name="repeated_lines"):
    """Reject documents made of repeated lines. (Rae et al. 2021, table A1: 0.30 and 0.20)

    Only surplus copies count, as published: of n equal lines, n - 1 are repeated.
    """

    max_line_fraction: float = Field(0.3, ge=0, le=1, description="repeated lines, at most")
    max_character_fraction: float = Field(
        0.2, ge=0, le=1, description="characters in repeated lines, at most"
    )
    reasons: ClassVar[tuple[str, ...]] = ("repeated_lines", "repeated_line_characters")

    def cases(self, batch: Batch) -> Sequence[Case]:
        units = line_repetition(batch)
        by_lines = units.fraction(characters=False, every_copy=False)
        by_characters = units.fraction(characters=True, every_copy=False)
        lines, characters = self.max_line_fraction, self.max_character_fraction
        return [
            Case(by_lines > lines, "repeated_lines", by_lines, lines),
            Case(by_characters > characters, "repeated_line_characters", by_characters, characters),
        ]

    def passage(self, batch: Batch, reason: str) -> str | None:
        return most_repeated(line.strip() for line in batch.text[0].as_py().split("\n"))


def most_repeated(units: Iterable[str]) -> str | None:
    """The unit that takes most characters by its copies, and how often it occurs; for people."""
    counts = Counter(unit for unit in units if unit)
    repeated = [(len(unit) * (n - 1), unit, n) for unit, n in counts.items() if n > 1]
    if not repeated:
        return None
    _, unit, number = max(repeated)
    return f"{number} times: {unit}"


def figures(batch: Batch) -> Stats:
    """What the rules measure of each document, in one pass, once for a text."""
    return batch.view(kernels.stats.documents)


def line_repetition(batch: Batch) -> Units:
    """The lines of each document and how many are repeated, once for a text."""
    return batch.view(kernels.repetition.lines)
