"""FineWeb's rules on whole documents. (Penedo et al. 2024, section 3.6)

Lines are separated by newlines, empty ones left out; words by white space. Gopher's rules are in
`heuristics` and `repetition`, C4's in `lines` and `substrings`; the baselines gopher and fineweb
put them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.kernels.columns import CHARACTERS, LINE_WORDS
from pipelines.kernels.columns import WORDS as DOCUMENT_WORDS
from pipelines.operators import Case, Filter
from pipelines.text.heuristics import figures

TERMINAL = (
    *(".", "'", '"', "!", "?", "\u2026", "\u201d", "\u2019", "\u3002", "\uff01", "\uff1f"),
    *("\uff0e", "\uff61", "\u061f", "\u06d4", "\u0964", "\u0965", "\u1362", "\u17d4", "\u104b"),
)
"""Marks that end a sentence, in several scripts, and closing quotes."""


class FineWebQuality(Filter, name="fineweb_quality"):
    """Reject documents by FineWeb's own rules. (Penedo et al. 2024, section 3.6)

    Too few lines end in punctuation, too many are short, too many characters are in repeated lines
    (surplus copies). The paper's thresholds are the defaults; datatrove's code has 0.01 for
    repeated characters and adds 0.3 line breaks per word. A document without lines is rejected.
    """

    min_terminal_fraction: float = Field(
        0.12, ge=0, le=1, description="lines that end in punctuation, at least"
    )
    endings: tuple[str, ...] = Field(TERMINAL, min_length=1, description="what such lines end in")
    max_short_fraction: float = Field(0.67, ge=0, le=1, description="short lines, at most")
    short_characters: int = Field(30, ge=0, description="a short line has at most this many")
    max_repeated_fraction: float = Field(
        0.1, ge=0, le=1, description="characters in repeated lines, at most"
    )
    max_breaks_per_word: float | None = Field(
        None, ge=0, description="line breaks per word, at most"
    )
    reasons: ClassVar[tuple[str, ...]] = (
        "no_lines",
        "too_few_finished_lines",
        "too_many_short_lines",
        "too_many_repeated_characters",
        "too_many_line_breaks",
    )

    def cases(self, batch: Batch) -> Sequence[Case]:
        kernel = kernels.lines
        lines = batch.view(kernel.measured)
        filled = lines[LINE_WORDS] > 0
        count = kernel.per_row(lines, filled)
        least = np.maximum(count, 1)
        finished = kernel.per_row(lines, filled & kernel.ends_with(lines, self.endings)) / least
        short = filled & (lines[CHARACTERS] <= self.short_characters)
        short_share = kernel.per_row(lines, short) / least
        units = batch.view(kernels.repetition.lines)
        repeated = units.fraction(characters=True, every_copy=False)
        cases = [
            Case(count == 0, "no_lines"),
            _least(finished, self.min_terminal_fraction, "too_few_finished_lines"),
            _most(short_share, self.max_short_fraction, "too_many_short_lines"),
            _most(repeated, self.max_repeated_fraction, "too_many_repeated_characters"),
        ]
        if self.max_breaks_per_word is not None:
            words = np.maximum(figures(batch)[DOCUMENT_WORDS], 1)
            breaks = (lines.end - lines.begin - 1) / words
            cases.append(_most(breaks, self.max_breaks_per_word, "too_many_line_breaks"))
        return cases


def _least(value: npt.NDArray[Any], limit: float, reason: str) -> Case:
    return Case(value < limit, reason, value, limit)


def _most(value: npt.NDArray[Any], limit: float, reason: str) -> Case:
    return Case(value > limit, reason, value, limit)
