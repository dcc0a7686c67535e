"""Modifiers that drop lines. A document that loses all of them goes, with the reason `emptied`.

A line is the text between newlines, as it is; empty lines stay. Parameters say whether the
result is stripped, and whether one of nothing but white space counts as emptied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.kernels.columns import CHARACTERS, DIGITS, UPPERCASE
from pipelines.kernels.columns import LINE_WORDS as WORDS
from pipelines.operators import Modifier
from pipelines.schema import STRING, TEXT
from pipelines.text.patterns import Pattern, lines_with
from pipelines.text.rewriting import nulled, rewritten
from pipelines.text.substrings import Location, PhraseList
from pipelines.text.units import WordKind, split_words

if TYPE_CHECKING:
    from pipelines.kernels.lines import Lines


class LineModifier(Modifier):
    """Keeps the lines for which `keeps` says so."""

    strip: bool = Field(False, description="strip white space around the resulting text")
    keep_blank: bool = Field(
        False, description="keep a document of which only white space is left, as DCLM does"
    )

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def keeps(self, line: str) -> bool:
        """Whether a line (between newlines, not stripped) stays."""
        raise NotImplementedError

    def rewrite(self, text: str) -> str:
        """The text without the lines that go."""
        return "\n".join(line for line in text.split("\n") if self.keeps(line))

    def finish(self, text: str) -> str | None:
        """The result, or None when nothing is left."""
        if self.strip:
            text = text.strip()
        return text if text and (self.keep_blank or text.strip()) else None

    def plain(self, text: str) -> str | None:
        """The whole rule on one text, said plainly; `modify` is equal to it."""
        return self.finish(self.rewrite(text))

    def mask(self, lines: Lines) -> npt.NDArray[np.bool_] | None:
        """Which of all lines stay, from their figures; None when the text has to be read."""
        return None

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        """Texts that `rewrite` may change; it is not called for others."""
        return np.ones(len(texts), dtype=bool)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        texts = batch.text
        lines = batch.view(kernels.lines.measured) if self.measures() else None
        keep = None if lines is None else self.mask(lines)
        if lines is None or keep is None:
            texts = rewritten(texts, self.candidates(texts), self.rewrite)
        else:
            texts = kernels.lines.without(texts, lines, keep)
        if self.strip:
            texts = kernels.lines.stripped(texts)
        if self.keep_blank:
            emptied = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
        else:
            emptied = kernels.lines.blank(texts)
        return {TEXT: nulled(texts, emptied)}

    def measures(self) -> bool:
        """Whether `mask` answers."""
        return type(self).mask is not LineModifier.mask


class LineWords(LineModifier, name="line_words"):
    """Drop lines with fewer words than this; empty lines stay. (Penedo et al. 2023, G.2)

    Words are separated by white space, so a line of spaces has none.
    """

    min_words: int = Field(2, ge=0, description="fewest words a kept line has")
    max_words: int | None = Field(None, ge=0, description="most words a kept line has")
    reference: ClassVar[str | None] = "line_length_modifier"

    def keeps(self, line: str) -> bool:
        if not line:
            return True
        words = len(line.split())
        return self.min_words <= words and (self.max_words is None or words <= self.max_words)

    def mask(self, lines: Lines) -> npt.NDArray[np.bool_]:
        words = lines[WORDS]
        keep = words >= self.min_words
        if self.max_words is not None:
            keep &= words <= self.max_words
        return keep | (lines[CHARACTERS] == 0)


class LongWordLines(LineModifier, name="long_word_lines"):
    """Drop lines that hold a word longer than this. (Raffel et al. 2020, 2.2: 1,000 characters)"""

    max_characters: int = Field(1000, ge=1, description="longest word of a kept line")
    words: WordKind = Field("whitespace", description="definition of a word")
    skip_punctuation: bool = Field(
        False, description="words that begin with no letter or digit do not count"
    )
    skip_whitespace: bool = Field(True, description="blank words do not count (uax29 has some)")
    reference: ClassVar[str | None] = "word_length_modifier"

    def keeps(self, line: str) -> bool:
        if len(line) <= self.max_characters:
            return True
        words = split_words(
            line,
            self.words,
            skip_punctuation=self.skip_punctuation,
            skip_whitespace=self.skip_whitespace,
        )
        return max(map(len, words), default=0) <= self.max_characters

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        if self.words != "whitespace":
            return super().candidates(texts)
        return kernels.candidates.have_long_runs(texts, most=self.max_characters)  # type: ignore[no-any-return]


class UppercaseLines(LineModifier, name="uppercase_lines"):
    """Drop lines that are mostly upper case; empty lines stay. (Penedo et al. 2023, G.2)"""

    max_fraction: float = Field(0.5, ge=0, le=1, description="upper-case characters, at most")
    reference: ClassVar[str | None] = "uppercase_ratio_line_modifier"

    def keeps(self, line: str) -> bool:
        return not line or sum(map(str.isupper, line)) <= self.max_fraction * len(line)

    def mask(self, lines: Lines) -> npt.NDArray[np.bool_]:
        return lines[UPPERCASE] <= self.max_fraction * lines[CHARACTERS].astype(np.float64)


class DigitLines(LineModifier, name="digit_lines"):
    """Drop lines of too many digits; empty lines stay. (Penedo et al. 2023, G.2)

    The default drops lines that are nothing but digits (`str.isdigit`, superscripts too).
    """

    max_fraction: float = Field(0.999999, ge=0, le=1, description="digits of characters, at most")
    reference: ClassVar[str | None] = "numeric_ratio_line_modifier"

    def keeps(self, line: str) -> bool:
        return not line or sum(map(str.isdigit, line)) <= self.max_fraction * len(line)

    def mask(self, lines: Lines) -> npt.NDArray[np.bool_]:
        return lines[DIGITS] <= self.max_fraction * lines[CHARACTERS].astype(np.float64)


COUNTED = (
    "likes",
    "shares",
    "comments",
    "retweets",
    "reposts",
    "quotes",
    "bookmarks",
    "upvotes",
    "downvotes",
    "downloads",
    "views",
    "followers",
)
_COUNTER = re.compile(rf"\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+(?:{'|'.join(COUNTED)})\W*")


@cache
def _counted() -> Any:
    return kernels.phrases.prepare(COUNTED, ignore_case=True, after_number=True)


@cache
def _prepared(phrases: tuple[str, ...]) -> Any:
    return kernels.phrases.prepare(phrases, ignore_case=True)


class CounterLines(LineModifier, name="counter_lines"):
    """Drop lines that only count reactions, as `3.4k likes`. (Penedo et al. 2023, G.2)"""

    reference: ClassVar[str | None] = "counter_line_modifier"

    def keeps(self, line: str) -> bool:
        return _COUNTER.fullmatch(line.lower()) is None

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        return kernels.phrases.candidates(texts, _counted())  # type: ignore[no-any-return]


class UnfinishedLines(LineModifier, name="unfinished_lines"):
    """Drop lines that do not end like a sentence; empty lines stay. (Raffel et al. 2020, 2.2)

    White space at the end of a line is overlooked; a line of nothing else goes.
    """

    endings: tuple[str, ...] = Field(
        (".", "!", "?", '"', "\u2026"), min_length=1, description="how a kept line ends"
    )
    drop_ellipses: bool = Field(False, description="lines that end in an ellipsis go too")
    reference: ClassVar[str | None] = "punctuation_line_modifier"

    def keeps(self, line: str) -> bool:
        if not line:
            return True
        end = line.rstrip()
        if self.drop_ellipses and end.endswith(("...", "\u2026")):
            return False
        return end.endswith(self.endings)

    def measures(self) -> bool:
        return self.endings == type(self).model_fields["endings"].default

    def mask(self, lines: Lines) -> npt.NDArray[np.bool_]:
        ends = kernels.lines.endings(lines)
        unfinished = ends == 1 if self.drop_ellipses else ends > 0
        return unfinished | (lines[CHARACTERS] == 0)  # type: ignore[no-any-return]


class RepeatedLinesWithin(LineModifier, name="drop_repeated_lines"):
    """Drop all but the first of equal lines (or paragraphs) of a document; empty ones stay."""

    unit: Literal["line", "paragraph"] = Field("line", description="what is compared")
    normalize: bool = Field(True, description="compare stripped and in lower case")
    reference: ClassVar[str | None] = "within_page_dedup"

    def rewrite(self, text: str) -> str:
        separator = "\n" if self.unit == "line" else "\n\n"
        seen: set[str] = set()
        kept = []
        for unit in text.split(separator):
            key = unit.strip().lower() if self.normalize else unit
            if not key or key not in seen:
                kept.append(unit)
                seen.add(key)
        return separator.join(kept)

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        newlines = 1 if self.unit == "line" else 2
        return kernels.candidates.may_repeat(  # type: ignore[no-any-return]
            texts, newlines=newlines, blank=not self.normalize
        )


class SubstringLines(PhraseList, LineModifier, name="substring_lines"):
    """Drop lines that contain a phrase, or take the phrase out of them. (Penedo et al. 2023, G.2)

    In any place or at the start a white space before the phrase is part of it, at the end of the
    line one behind `prefix`. Lines of more than `max_words` words are left alone.
    """

    regex: bool = Field(False, description="phrases are regular expressions, as in DCLM")
    location: Location = Field("any", description="where in the line the phrase must occur")
    case_sensitive: bool = Field(False, description="distinguish upper and lower case")
    max_words: int | None = Field(None, ge=0, description="longer lines are left alone")
    remove_only: bool = Field(
        False, description="take out the phrase; the line goes only when nothing is left"
    )
    drop_blank: bool = Field(
        False, description="with remove_only, lines of nothing but white space go too, as in DCLM"
    )
    strip: bool = Field(True, description="strip white space around the resulting text")
    reference: ClassVar[str | None] = "substring_line_modifier"

    def prepare(self, entries: tuple[str, ...]) -> Pattern:
        before, after = {
            "any": (r"\s?", ""),
            "prefix": ("^", r"\s?"),
            "suffix": (r"\s?", "$"),
        }[self.location]
        return Pattern(
            entries,
            literal=not self.regex,
            ignore_case=not self.case_sensitive,
            before=before,
            after=after,
        )

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        pattern: Pattern = self._made
        candidates = pattern.candidates(texts)
        if self.remove_only and self.drop_blank:  # blank lines go from any text
            candidates = candidates | _has_blank_lines(texts)
        return candidates

    def rewrite(self, text: str) -> str:
        pattern: Pattern = self._made
        kept = []
        numbers = pattern.candidate_lines(text)
        for number, line in enumerate(text.split("\n")):
            if numbers is not None and number not in numbers:
                if not (self.remove_only and self.drop_blank) or line.strip() or not line:
                    kept.append(line)
            elif self.max_words is not None and len(line.split()) > self.max_words:
                kept.append(line)
            elif not self.remove_only:
                if not pattern.occurs_in(line):
                    kept.append(line)
            else:
                left = pattern.remove(line)
                if left.strip() or not line or (left == line and not self.drop_blank):
                    kept.append(left)
        return "\n".join(kept)


class PolicyLines(LineModifier, name="policy_lines"):
    """Drop lines that name a cookie or privacy policy, or JavaScript. (Raffel et al. 2020, 2.2)"""

    phrases: tuple[str, ...] = Field(
        (
            "javascript",
            "terms of use",
            "privacy policy",
            "cookie policy",
            "uses cookies",
            "use of cookies",
            "use cookies",
        ),
        min_length=1,
        description="phrases that make a line go, in any case",
    )
    reference: ClassVar[str | None] = "substring_line_modifier"

    def keeps(self, line: str) -> bool:
        lower = line.lower()
        return not any(phrase in lower for phrase in self.phrases)

    def rewrite(self, text: str) -> str:
        lower = text.lower()  # no line is longer or shorter by a newline in lower case
        dropped = lines_with(lower, [p for p in self.phrases if "\n" not in p])
        lines = enumerate(text.split("\n"))
        return "\n".join(line for number, line in lines if number not in dropped)

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        return kernels.phrases.candidates(texts, _prepared(self.phrases))  # type: ignore[no-any-return]


def _has_blank_lines(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Texts with a line of nothing but white space (and some)."""
    lines = kernels.lines.measured(texts)
    blank = (lines[WORDS] == 0) & (lines[CHARACTERS] > 0)
    before = np.concatenate([[0], np.cumsum(blank)])
    return before[lines.end] > before[lines.begin]  # type: ignore[no-any-return]
