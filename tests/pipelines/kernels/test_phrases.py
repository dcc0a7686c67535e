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


@pytest.mark.parametrize("ignore_case", [False, True])
def test_a_long_list_of_whole_words_gives_what_a_short_one_gives(ignore_case: bool) -> None:
    made = pa.array(texts(), type=STRING)
    chosen = [p for p in PHRASES if p not in ("{", "\u00fcber")]
    many = [*chosen, *(f"zq{number}zq" for number in range(kernel.MAX_PROBES))]
    short = kernel.prepare(chosen, ignore_case=ignore_case, whole=True)
    long = kernel.prepare(many, ignore_case=ignore_case, whole=True)
    assert (len(short.probes) > 0, len(long.probes), len(long.starts) > 0) == (True, 0, True)
    assert kernel.places(made, long).tolist() == kernel.places(made, short).tolist()


def test_places_are_the_first_ones_whatever_is_around() -> None:
    prepared = kernel.prepare(["kit", "{"], ignore_case=False)
    long = pa.array(["\u00e9" * k + "kit" + "{" * 200 for k in range(200)], type=STRING)
    assert kernel.places(long, prepared).tolist() == [2 * k for k in range(200)]
    assert kernel.places(long.slice(150), prepared).tolist() == [2 * k for k in range(150, 200)]


@pytest.mark.parametrize(
    ("text", "candidate"),
    [
        ("a\n3.4k Likes!\nb", True),
        ("(12,) likes", False),
        ("12, likes", True),
        ("3k. likes", False),
        (", likes", False),
        ("likes 3", False),
        ("he has 3 likes", False),
        ("3 likes today", False),
        ("3\nlikes", False),
        ("3likes", False),
        ("\u0663 likes", True),
        ("\u00ab3 likes\u00bb", True),
    ],
)
def test_a_phrase_after_a_number_is_alone_on_its_line(text: str, candidate: bool) -> None:
    prepared = kernel.prepare(["likes"], ignore_case=True, after_number=True)
    assert kernel.candidates(pa.array([text], type=STRING), prepared).tolist() == [candidate]
