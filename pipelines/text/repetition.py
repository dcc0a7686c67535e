"""Documents that repeat themselves: lines, paragraphs and word n-grams. (Rae et al. 2021, table A1)

Two readings of the paper are offered by name. `every_copy: false` counts surplus copies only, as
published: of n equal units n - 1 are repeated. `every_copy: true` counts all n, the first too: what
DCLM does and its baselines need.

The functions here are the plain statement; the operators run `pipelines.kernels.repetition`, which
is equal to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import Case, Filter, each
from pipelines.schema import STRING
from pipelines.text.heuristics import most_repeated
from pipelines.text.units import split_units, split_words

RuleWords = Literal["uax29", "whitespace"]
WORD_VIEWS: dict[RuleWords, Callable[[], Any]] = {
    "uax29": lambda: kernels.words.uax29,
    "whitespace": lambda: kernels.words.whitespace,
}
"""The compiled word definitions; of UAX #29 the words that begin with a letter or digit."""

Covered = Literal["most_common", "all"]

TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def unit_fraction(units: Sequence[str], *, characters: bool, every_copy: bool) -> float:
    """The share of repeated units, or of the characters in them. 0 for a single unit."""
    if len(units) <= 1:
        return 0.0
    weights = Counter(units)
    copies = {unit: n if every_copy else n - 1 for unit, n in weights.items() if n > 1}
    if not characters:
        return sum(copies.values()) / len(units)
    total = sum(map(len, units))
    return sum(len(unit) * n for unit, n in copies.items()) / total if total else 0.0


def ngram_fraction(words: Sequence[str], size: int, covered: Covered, *, every_copy: bool) -> float:
    """The share of characters of words that are in repeated n-grams.

    `most_common`: those of the n-gram that occurs most often (the longest of several), times its
    count, overlaps counted again; so it may exceed 1. `all`: those of words that any n-gram which
    occurs more than once covers. With surplus copies only, an n-gram's first place does not count.
    """
    total = sum(map(len, words))
    grams = [tuple(words[k : k + size]) for k in range(len(words) - size + 1)]
    counts = Counter(grams)
    top = max(counts.values(), default=0)
    if top <= 1 or not total:
        return 0.0
    if covered == "most_common":
        longest = max(sum(map(len, gram)) for gram, n in counts.items() if n == top)
        return longest * (top if every_copy else top - 1) / total
    seen: set[tuple[str, ...]] = set()
    marked = np.zeros(len(words), dtype=bool)
    for position, gram in enumerate(grams):
        if counts[gram] > 1 and (every_copy or gram in seen):
            marked[position : position + size] = True
        seen.add(gram)
    return sum(len(word) for word, mark in zip(words, marked, strict=True) if mark) / total


def _grams(text: str, kind: RuleWords, size: int) -> list[str]:
    words = split_words(text, kind, skip_punctuation=kind == "uax29")
    return [
        " ".join(words[position : position + size]) for position in range(len(words) - size + 1)
    ]


class Repetition(Filter, name="repetition"):
    """Reject documents with too many repeated lines, paragraphs or word n-grams.

    One unit alone is not a repetition. A document without lines (or paragraphs) is rejected.
    """

    unit: Literal["line", "paragraph"] | int = Field(
        "line", description="`line`, `paragraph`, or the number of words of an n-gram"
    )
    max_fraction: float = Field(0.3, ge=0, description="repeated units of all, at most")
    characters: bool = Field(True, description="measure characters instead of units")
    covered: Covered | None = Field(
        None, description="n-grams that count: by default most_common for 2 to 4, all for 5 to 10"
    )
    ignore_case: bool = Field(False, description="compare in lower case")
    every_copy: bool = Field(False, description="count first copies too, as DCLM does")
    words: RuleWords = Field("uax29", description="definition of a word")
    reasons: ClassVar[tuple[str, ...]] = ("no_units", "repeated")
    reference: ClassVar[str | None] = "repetition_filter"

    def model_post_init(self, context: object) -> None:
        size = self.unit
        if isinstance(size, int):
            if size < 1:
                raise ValueError(f"an n-gram has at least 1 word, got {size}")
            if self.covered is None and not 2 <= size <= 10:
                raise ValueError(f"say which {size}-grams count: covered: most_common or all")

    def cases(self, batch: Batch) -> Sequence[Case]:
        texts = batch.text
        if self.ignore_case:
            texts = each(texts, str.lower, type=STRING)
        if isinstance(self.unit, int):
            empty = np.array([not text for text in texts.to_pylist()], dtype=bool)
            words = WORD_VIEWS[self.words]()(texts)
            covered = self.covered or ("most_common" if self.unit <= 4 else "all")
            limit = {self.unit: self.max_fraction}
            limits = (limit, {}) if covered == "most_common" else ({}, limit)
            codes = kernels.repetition.first_ngram_failure(
                words, *limits, every_copy=self.every_copy
            )
            repeated, share = codes == 0, None
        else:
            kernel = kernels.repetition
            units = (kernel.lines if self.unit == "line" else kernel.paragraphs)(texts)
            empty = units.count == 0
            share = units.fraction(characters=self.characters, every_copy=self.every_copy)
            repeated = share > self.max_fraction
        return [
            Case(empty, "no_units"),
            Case(repeated, "repeated", share, self.max_fraction),
        ]

    def passage(self, batch: Batch, reason: str) -> str | None:
        text = batch.text[0].as_py()
        text = text.lower() if self.ignore_case else text
        if isinstance(self.unit, int):
            return most_repeated(_grams(text, self.words, self.unit))
        return most_repeated(split_units(text, "\n" if self.unit == "line" else "\n\n"))


class GopherRepetition(Filter, name="gopher_repetition"):
    """Reject documents that repeat themselves, by all rules of Gopher. (Rae et al. 2021, table A1)

    Duplicate lines and paragraphs (0.30 of them, 0.20 of their characters), the most common 2- to
    4-gram (0.20, 0.18, 0.16 of the characters), all repeated 5- to 10-grams (0.15 to 0.10). The
    reason names the first rule that failed, in DCLM's order. An empty document is rejected.
    """

    paragraphs: bool = Field(True, description="apply the rules on paragraphs")
    every_copy: bool = Field(False, description="count first copies too, as DCLM does")
    words: RuleWords = Field("uax29", description="definition of a word")
    reasons: ClassVar[tuple[str, ...]] = (
        "no_units",
        "repeated_lines",
        "repeated_paragraphs",
        "repeated_line_characters",
        "repeated_paragraph_characters",
        *(f"top_{n}gram" for n in TOP_NGRAMS),
        *(f"repeated_{n}grams" for n in DUPLICATE_NGRAMS),
    )
    reference: ClassVar[str | None] = "massive_web_repetition_filters"

    def cases(self, batch: Batch) -> Sequence[Case]:
        lines = batch.view(kernels.repetition.lines)
        units = {"line": lines}
        if self.paragraphs:
            units["paragraph"] = batch.view(kernels.repetition.paragraphs)
        cases = [Case(lines.count == 0, "no_units")]
        for characters, limit in ((False, 0.30), (True, 0.20)):
            for name, unit in units.items():
                reason = f"repeated_{name}_characters" if characters else f"repeated_{name}s"
                share = unit.fraction(characters=characters, every_copy=self.every_copy)
                cases.append(Case(share > limit, reason, share, limit))
        rejected = np.logical_or.reduce([case.rejected for case in cases])
        codes = np.full(batch.num_rows, -1, dtype=np.int8)
        if not rejected.all():  # words are looked at only where lines were well
            words = batch.view(WORD_VIEWS[self.words]()).take(np.flatnonzero(~rejected))
            codes[~rejected] = kernels.repetition.first_ngram_failure(
                words, TOP_NGRAMS, DUPLICATE_NGRAMS, every_copy=self.every_copy
            )
        named = [(f"top_{n}gram", limit) for n, limit in TOP_NGRAMS.items()]
        named += [(f"repeated_{n}grams", limit) for n, limit in DUPLICATE_NGRAMS.items()]
        for code, (reason, limit) in enumerate(named):
            cases.append(Case(codes == code, reason, None, limit))
        return cases

    def measured(self, batch: Batch, reason: str) -> float | None:
        digits = "".join(filter(str.isdigit, reason))
        if not digits:
            return None
        covered: Covered = "most_common" if reason.startswith("top") else "all"
        words = self._words(batch.text[0].as_py())
        return ngram_fraction(words, int(digits), covered, every_copy=self.every_copy)

    def _words(self, text: str) -> list[str]:
        return split_words(text, self.words, skip_punctuation=self.words == "uax29")

    def passage(self, batch: Batch, reason: str) -> str | None:
        text = batch.text[0].as_py()
        if "line" in reason:
            return most_repeated(split_units(text, "\n"))
        if "paragraph" in reason:
            return most_repeated(split_units(text, "\n\n"))
        digits = "".join(filter(str.isdigit, reason))
        return most_repeated(_grams(text, self.words, int(digits))) if digits else None

    def first_failure(self, text: str) -> str | None:
        """The plain statement: the reason of the first rule that a text breaks."""
        units = {"line": split_units(text, "\n")}
        if self.paragraphs:
            units["paragraph"] = split_units(text, "\n\n")
        if not units["line"]:
            return "no_units"
        for characters, limit in ((False, 0.30), (True, 0.20)):
            for name, unit in units.items():
                share = unit_fraction(unit, characters=characters, every_copy=self.every_copy)
                if share > limit:
                    return f"repeated_{name}_characters" if characters else f"repeated_{name}s"
        words = self._words(text)
        for size, limit in TOP_NGRAMS.items():
            if ngram_fraction(words, size, "most_common", every_copy=self.every_copy) > limit:
                return f"top_{size}gram"
        for size, limit in DUPLICATE_NGRAMS.items():
            if ngram_fraction(words, size, "all", every_copy=self.every_copy) > limit:
                return f"repeated_{size}grams"
        return None
