"""Documents that repeat themselves: lines, paragraphs and word n-grams. (Rae et al. 2021, table A1)

Two readings of the paper are offered by name. `every_copy: false` counts surplus copies only, as
published: of n equal units n - 1 are repeated. `every_copy: true` counts all n, the first too: what
DCLM does and its baselines need.

This module is the plain statement; `pipelines.kernels.repetition` is the compiled one, equal to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Filter, choose
from pipelines.text.units import SEPARATORS, WordKind, split_units, split_words

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
    """The share of characters of words that lie in repeated n-grams.

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
    for place, gram in enumerate(grams):
        if counts[gram] > 1 and (every_copy or gram in seen):
            marked[place : place + size] = True
        seen.add(gram)
    return sum(len(word) for word, mark in zip(words, marked, strict=True) if mark) / total


class Repetition(Filter, name="repetition"):
    """Reject documents with too many repeated lines, paragraphs or word n-grams.

    One unit alone is no repetition. A document without lines (or paragraphs) is rejected.
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
    words: WordKind = Field("uax29", description="definition of a word")
    reasons: ClassVar[tuple[str, ...]] = ("no_units", "repeated")
    reference: ClassVar[str | None] = "repetition_filter"

    def model_post_init(self, context: object) -> None:
        size = self.unit
        if isinstance(size, int):
            if size < 1:
                raise ValueError(f"an n-gram has at least 1 word, got {size}")
            if self.covered is None and not 2 <= size <= 10:
                raise ValueError(f"say which {size}-grams count: covered: most_common or all")

    def reject(self, batch: Batch) -> pa.Array:
        empty, repeated = [], []
        for text in batch.text.to_pylist():
            if self.ignore_case:
                text = text.lower()
            if isinstance(self.unit, int):
                words = split_words(text, self.words, skip_punctuation=True)
                covered = self.covered or ("most_common" if self.unit <= 4 else "all")
                share = ngram_fraction(words, self.unit, covered, every_copy=self.every_copy)
                empty.append(not text)
            else:
                units = split_units(text, SEPARATORS[self.unit])
                share = unit_fraction(units, characters=self.characters, every_copy=self.every_copy)
                empty.append(not units)
            repeated.append(share > self.max_fraction)
        return choose(
            [
                (np.array(empty, dtype=bool), "no_units"),
                (np.array(repeated, dtype=bool), "repeated"),
            ]
        )


class GopherRepetition(Filter, name="gopher_repetition"):
    """Reject documents that repeat themselves, by all rules of Gopher. (Rae et al. 2021, table A1)

    Duplicate lines and paragraphs (0.30 of them, 0.20 of their characters), the most common 2- to
    4-gram (0.20, 0.18, 0.16 of the characters), all repeated 5- to 10-grams (0.15 to 0.10). The
    reason names the first rule that failed, in DCLM's order. An empty document is rejected.
    """

    paragraphs: bool = Field(True, description="apply the rules on paragraphs")
    every_copy: bool = Field(False, description="count first copies too, as DCLM does")
    words: WordKind = Field("uax29", description="definition of a word")
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

    def reject(self, batch: Batch) -> pa.Array:
        found = [self._first_failure(text) for text in batch.text.to_pylist()]
        codes = np.array([-1 if f is None else self.reasons.index(f) for f in found], dtype=np.int8)
        return choose([(codes == n, reason) for n, reason in enumerate(self.reasons)])

    def _first_failure(self, text: str) -> str | None:
        """The reason of the first rule that the document breaks."""
        units = {"line": split_units(text, "\n")}
        if self.paragraphs:
            units["paragraph"] = split_units(text, "\n\n")
        if not units["line"]:
            return "no_units"
        for characters, limit in ((False, 0.30), (True, 0.20)):
            for name, found in units.items():
                share = unit_fraction(found, characters=characters, every_copy=self.every_copy)
                if share > limit:
                    return f"repeated_{name}_characters" if characters else f"repeated_{name}s"
        words = split_words(text, self.words, skip_punctuation=True)
        for size, limit in TOP_NGRAMS.items():
            if ngram_fraction(words, size, "most_common", every_copy=self.every_copy) > limit:
                return f"top_{size}gram"
        for size, limit in DUPLICATE_NGRAMS.items():
            if ngram_fraction(words, size, "all", every_copy=self.every_copy) > limit:
                return f"repeated_{size}grams"
        return None
