"""How long a document is in characters, words, sentences, lines or paragraphs: rules and counters.

The units are those of `pipelines.text.units`. DCLM counts fastText's words by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.kernels.columns import FASTTEXT_WORDS, WORDS
from pipelines.operators import Case, Filter, Modifier, Operator
from pipelines.text import fields, punkt
from pipelines.text.heuristics import figures
from pipelines.text.patterns import Pattern
from pipelines.text.units import (
    SEPARATORS,
    SentenceKind,
    UnitKind,
    WordKind,
    count_sentences,
    sentence_splitter,
    split_units,
    split_words,
)

Counts = npt.NDArray[np.int64]


class _CountsWords(Operator):
    """The parameters that say what a word is."""

    words: WordKind = Field("fasttext", description="definition of a word")
    skip_punctuation: bool = Field(
        True, description="words that begin with no letter or digit do not count"
    )
    skip_whitespace: bool = Field(True, description="blank words do not count (uax29 has some)")

    def num_words(self, batch: Batch) -> Counts:
        """The words of each document."""
        if self.skip_punctuation and self.words == "fasttext":
            return figures(batch)[FASTTEXT_WORDS]
        if self.words == "uax29":
            if self.skip_punctuation and self.skip_whitespace:
                return batch.view(kernels.words.uax29).counts  # type: ignore[no-any-return]
            if self.skip_whitespace:
                return batch.view(kernels.words.uax29_tokens).counts  # type: ignore[no-any-return]
        if self.words == "whitespace" and not self.skip_punctuation:
            return figures(batch)[WORDS]
        return count(
            batch,
            lambda text: split_words(
                text,
                self.words,
                skip_punctuation=self.skip_punctuation,
                skip_whitespace=self.skip_whitespace,
            ),
        )


def count(batch: Batch, split: Callable[[str], list[str]]) -> Counts:
    """The number of units of each document."""
    return np.array([len(split(text)) for text in batch.text.to_pylist()], dtype=np.int64)


class Length(_CountsWords, Filter, name="length"):
    """Reject documents that are too short or too long, counted in a unit of your choice."""

    unit: UnitKind = Field("word", description="what is counted")
    min_units: int = Field(1, ge=0, description="fewest units a kept document has")
    max_units: int | None = Field(None, ge=0, description="most units a kept document has")
    skip_punctuation: bool = Field(
        False, description="words that begin with no letter or digit do not count"
    )
    skip_empty: bool = Field(True, description="empty lines and paragraphs do not count")
    sentences: SentenceKind = Field("blingfire", description="what splits sentences")
    language: str = Field("english", description="the language whose Punkt model splits")
    reasons: ClassVar[tuple[str, ...]] = ("too_short", "too_long")
    reference: ClassVar[str | None] = "page_length_filter"

    def load(self, assets: object) -> None:
        if self.unit == "sentence":
            sentence_splitter(self.sentences, self.language)  # fail before the run, not in it

    def cases(self, batch: Batch) -> Sequence[Case]:
        size = self._sizes(batch)
        cases = [Case(size < self.min_units, "too_short", size, self.min_units)]
        if self.max_units is not None:
            cases.append(Case(size > self.max_units, "too_long", size, self.max_units))
        return cases

    def _sizes(self, batch: Batch) -> Counts:
        if self.unit == "character":
            return pc.utf8_length(batch.text).to_numpy(zero_copy_only=False).astype(np.int64)
        if self.unit == "word":
            return self.num_words(batch)
        if self.unit == "sentence":
            enough = self.min_units if self.max_units is None else None
            return self._sentences(batch.text, enough)
        separator = SEPARATORS[self.unit]
        return count(batch, lambda text: split_units(text, separator, skip_empty=self.skip_empty))

    def _sentences(self, texts: pa.Array, enough: int | None) -> Counts:
        """The sentences of each text; of `enough` or more, so many."""
        sizes = np.zeros(len(texts), dtype=np.int64)
        if enough is not None and enough > 1 and self.sentences == "punkt":
            sizes[punkt.break_surely(texts, self.language, enough - 1)] = enough
        unsure = np.flatnonzero(sizes == 0)
        for row, text in zip(
            unsure.tolist(), texts.take(pa.array(unsure)).to_pylist(), strict=True
        ):
            sizes[row] = count_sentences(
                text, self.sentences, language=self.language, enough=enough
            )
        return sizes


class CountWords(_CountsWords, Modifier, name="count_words"):
    """Add the number of words of each document."""

    column: str = Field("word_count", min_length=1, description="column to write")
    overwrite: bool = Field(False, description="replace a field of this name; else it is an error")
    reference: ClassVar[str | None] = "word_counter_enricher"

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.int64()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.column, overwrite=self.overwrite)
        return {self.column: pa.array(self.num_words(batch))}


class CountLines(Modifier, name="count_lines"):
    """Add the number of lines of each document, or of what another separator separates."""

    column: str = Field("num_lines", min_length=1, description="column to write")
    separator: str = Field(
        "\n", min_length=1, description="a regular expression; two newlines count paragraphs"
    )
    skip_empty: bool = Field(True, description="empty lines do not count")
    overwrite: bool = Field(False, description="replace a field of this name; else it is an error")
    reference: ClassVar[str | None] = "line_counter_enricher"

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.int64()}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.column, overwrite=self.overwrite)
        pattern = Pattern((self.separator,))

        def split(text: str) -> list[str]:
            parts = pattern.split(text)
            return [part for part in parts if part.strip()] if self.skip_empty else parts

        return {self.column: pa.array(count(batch, split))}


class WordsRemoved(_CountsWords, Filter, name="words_removed"):
    """Reject documents that lost too many words since they were counted. (Penedo et al. 2023, G.2)

    The share is (before - now) / before; a document that grew stays, one that had no word goes.
    """

    before: str = Field(min_length=1, description="field with the number of words before")
    now: str | None = Field(
        None, description="field with the number of words now; counted where there is none"
    )
    max_fraction: float = Field(0.05, ge=0, description="words lost of words before, at most")
    reasons: ClassVar[tuple[str, ...]] = ("had_no_words", "too_many_words_removed")
    reference: ClassVar[str | None] = "word_removal_ratio_filter"

    def optional_reads(self) -> tuple[str, ...]:
        return (self.before,) if self.now is None else (self.before, self.now)

    def cases(self, batch: Batch) -> Sequence[Case]:
        before = np.array(fields.needed(batch, self.before, why=self.name), dtype=np.float64)
        now = self.num_words(batch).astype(np.float64)
        if self.now is not None:
            known = fields.values_of(batch, self.now)
            now = np.array(
                [n if k is fields.MISSING else k for n, k in zip(now, known, strict=True)],
                dtype=np.float64,
            )
        none = before == 0
        lost = (before - now) / np.where(none, 1.0, before)
        rejected = lost > self.max_fraction
        return [
            Case(none, "had_no_words"),
            Case(rejected, "too_many_words_removed", lost, self.max_fraction),
        ]


class LineCharacters(Filter, name="line_characters"):
    """Reject documents whose lines are too long: the longest, or all of them in the mean.

    Lines end at every line break Unicode knows (`str.splitlines`); code points are counted. An
    empty document is rejected. (Li et al. 2023, StarCoder, for code)
    """

    measure: str = Field("longest", pattern="^(longest|mean)$", description="longest or mean")
    max_characters: float = Field(1000, ge=0, description="longest or mean line kept")
    reasons: ClassVar[tuple[str, ...]] = ("empty", "lines_too_long")
    reference: ClassVar[str | None] = "line_length_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        sizes = [[len(line) for line in text.splitlines()] for text in batch.text.to_pylist()]
        empty = np.array([not lines for lines in sizes], dtype=bool)
        if self.measure == "longest":
            measured = [float(max(lines, default=0)) for lines in sizes]
        else:
            measured = [sum(lines) / len(lines) if lines else 0.0 for lines in sizes]
        value = np.array(measured, dtype=np.float64)
        most = self.max_characters
        return [Case(empty, "empty"), Case(value > most, "lines_too_long", value, most)]


class AlphanumericCharacters(Filter, name="alphanumeric_characters"):
    """Reject documents with too few letters and digits among their characters.

    White space is among the characters; an empty document is rejected. (Li et al. 2023, StarCoder)
    """

    min_fraction: float = Field(0.25, ge=0, le=1, description="letters and digits of all, at least")
    reasons: ClassVar[tuple[str, ...]] = ("empty", "too_few_alphanumeric_characters")
    reference: ClassVar[str | None] = "alphanumeric_char_ratio_filter"

    def cases(self, batch: Batch) -> Sequence[Case]:
        texts = batch.text.to_pylist()
        empty = np.array([not text for text in texts], dtype=bool)
        share = np.array(
            [sum(map(str.isalnum, text)) / max(len(text), 1) for text in texts], dtype=np.float64
        )
        few, least = share < self.min_fraction, self.min_fraction
        return [Case(empty, "empty"), Case(few, "too_few_alphanumeric_characters", share, least)]


class LettersPerToken(Filter, name="letters_per_token"):
    """Reject documents that a tokenizer cuts into too many pieces for their letters.

    Of code points that are letters, per token; an empty document is rejected. (Li et al. 2023,
    StarCoder)
    """

    tokenizer: str = Field(description="asset: a tokenizer.json")
    min_ratio: float = Field(1.5, ge=0, description="letters per token, at least")
    reasons: ClassVar[tuple[str, ...]] = ("empty", "too_few_letters_per_token")
    reference: ClassVar[str | None] = "alphabetic_characters_to_tokens_filter"
    _tokenizer: object = None

    @model_validator(mode="after")
    def _is_a_file(self) -> LettersPerToken:
        if "/" in self.tokenizer or "\\" in self.tokenizer:
            raise ValueError("tokenizer is an asset's name, not a path: put the file in --assets")
        return self

    def assets(self) -> tuple[str, ...]:
        return (self.tokenizer,)

    def load(self, assets: object) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(assets.path(self.tokenizer)))  # type: ignore[attr-defined]

    def cases(self, batch: Batch) -> Sequence[Case]:
        texts = batch.text.to_pylist()
        encoded = self._tokenizer.encode_batch_fast(texts)  # type: ignore[attr-defined]
        empty = np.array([not text for text in texts], dtype=bool)
        letters = np.array([sum(map(str.isalpha, text)) for text in texts], dtype=np.int64)
        tokens = np.array([len(encoding.ids) for encoding in encoded], dtype=np.int64)
        few, ratio = letters < self.min_ratio * tokens, letters / np.maximum(tokens, 1)
        return [
            Case(empty, "empty"),
            Case(few, "too_few_letters_per_token", ratio, self.min_ratio),
        ]
