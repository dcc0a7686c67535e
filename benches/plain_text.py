"""DCLM's RefinedWeb rules said plainly, document by document, with uniseg's words: the oracle that
the compiled chain is measured against, and compared with on the same pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.operators import Operator
from pipelines.text import units
from pipelines.text.heuristics import (
    AlphabeticWords,
    BulletLines,
    EllipsisLines,
    MeanWordLength,
    StopWords,
    SymbolRatio,
)
from pipelines.text.repetition import GopherRepetition

STOPS = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = ("\u25cf", "\u2022", "*", "-")


def use_uniseg() -> None:
    """Let the plain statements cut words with uniseg. ImportError when it is not installed."""
    from uniseg.wordbreak import words

    units.uax29_segments = lambda text: list(words(text))


def survivor(steps: Sequence[Operator], text: str) -> str | None:
    """What the steps make of a text; None when one of them drops it."""
    before = 0
    for step in steps:
        if step.name == "count_words":
            before = len(_words(step, text))
        elif step.name == "words_removed":
            now = len(_words(step, text))
            if not before or (before - now) / before > step.max_fraction:  # type: ignore[attr-defined]
                return None
        elif step.kind == "modifier":
            changed = step.plain(text)  # type: ignore[attr-defined]
            if not changed:
                return None
            text = changed
        elif not _stays(step, text):
            return None
    return text


def _words(step: Any, text: str) -> list[str]:
    return units.split_words(
        text, step.words, skip_punctuation=step.skip_punctuation, skip_whitespace=True
    )


def _stays(step: Operator, text: str) -> bool:
    words = text.split()
    lines = units.split_units(text)
    if isinstance(step, MeanWordLength):
        mean = sum(map(len, words)) / len(words) if words else -1.0
        return step.min_length <= mean <= (step.max_length or float("inf"))
    if isinstance(step, SymbolRatio):
        symbols = sum(text.count(symbol) for symbol in ("#", "...", ". . .", "\u2026"))
        return bool(words) and symbols / len(words) <= step.max_ratio
    if isinstance(step, BulletLines):
        return sum(line.startswith(BULLETS) for line in lines) <= step.max_fraction * len(lines)
    if isinstance(step, EllipsisLines):
        ends = sum(line.endswith(("...", ". . .", "\u2026")) for line in lines)
        return ends <= step.max_fraction * len(lines)
    if isinstance(step, AlphabeticWords):
        other = sum(not any(map(str.isalpha, word)) for word in words)
        return bool(words) and other / len(words) <= step.max_other_fraction
    if isinstance(step, StopWords):
        return sum(word.lower() in STOPS for word in words) >= step.min_stop_words
    if isinstance(step, GopherRepetition):
        return step.first_failure(text) is None
    assert step.name == "length", step.name
    size = len(_words(step, text))
    return step.min_units <= size <= (step.max_units or size)  # type: ignore[attr-defined]
