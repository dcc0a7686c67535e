"""Candidates for phrases: never a miss, and no more than the phrases themselves where exact."""

from __future__ import annotations

import random
import re

import pyarrow as pa
import pytest

from pipelines.kernels import phrases as kernel
from pipelines.schema import STRING

PHRASES = ["ass", "b c", "{", "S&M", "\u00fcber", "\U0001f595", "kit", "x_y", "\u65e5\u672c"]
PIECES = [
    *(*PHRASES, "class", "ASS", "Ass", "KIT", "\u212ait", "k\u0131t", "K\u0130T", "\u00dcBER"),
    *("s&m", "b", " ", "c", "_", "ass1", "\u00e9ass", "\n", "."),
]


def texts() -> list[str]:
    chance = random.Random(8)
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 6))) for _ in range(3000)]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("ignore_case", [False, True])
def test_no_text_with_a_phrase_is_missed(ignore_case: bool, whole: bool) -> None:
    border = r"\b" if whole else ""
    chosen = [p for p in PHRASES if p != "{"] if whole else PHRASES
    source = f"{border}(?:{'|'.join(map(re.escape, chosen))}){border}"
    expressions = [re.compile(source, re.IGNORECASE if ignore_case else 0)]
    if ignore_case:
        lowered = [re.escape(p.lower()) for p in chosen]
        expressions.append(re.compile(f"{border}(?:{'|'.join(lowered)}){border}"))
    made = texts()
    prepared = kernel.prepare(chosen, ignore_case=ignore_case, whole=whole)
    actual = kernel.candidates(pa.array(made, type=STRING), prepared)
    for text, candidate in zip(made, actual, strict=True):
        holds = expressions[0].search(text) is not None
        if ignore_case:
            holds = holds or expressions[1].search(text.lower()) is not None
        assert candidate or not holds, repr(text)
        if not ignore_case and not whole:
            assert candidate == holds, repr(text)


def test_an_ascii_list_without_case_gives_few_false_candidates() -> None:
    prepared = kernel.prepare(["ass", "kit"], ignore_case=True, whole=True)
    actual = kernel.candidates(
        pa.array(["class", "Ass.", "kitten", "a KIT", "ass_"], type=STRING), prepared
    )
    assert actual.tolist() == [False, True, False, True, False]


def test_dots_before_letters_and_between_digits() -> None:
    names, numbers = kernel.dotted(pa.array(["a.b", "1.2", "a. b", ".", "x.Y"], type=STRING))
    assert names.tolist() == [True, False, False, False, False]
    assert numbers.tolist() == [False, True, False, False, False]


def test_phone_like() -> None:
    made = ["555-1234", "5555 12345", "55-1234", "555--1234", "555.123", ""]
    actual = kernel.phone_like(pa.array(made, type=STRING))
    assert actual.tolist() == [True, True, False, False, False, False]
