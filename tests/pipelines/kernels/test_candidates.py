"""What is not a candidate is not changed by the full rule: on texts that try to look otherwise."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import kernels
from pipelines.schema import STRING
from pipelines.text.lines import LongWordLines, PolicyLines, RepeatedLinesWithin, SubstringLines
from pipelines.text.patterns import Pattern

PIECES = st.sampled_from(
    [
        *("a", "A", "k", "\u212a", "i", "I", "\u0130", "\u0131", "s", "\u017f", "\u00df", "\u1e9e"),
        *("\u00e9", "\u00c9", "e\u0301", "\u65e5", "\u00a0", "\u3000", " ", "\t", "\x1c", "\x85"),
        *("\n", "\n", "\n\n", "word", "Word", "WORD ", "."),
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("normalize", [True, False])
@settings(deadline=None, max_examples=400)
@given(text=TEXTS)
def test_texts_that_lose_a_line_are_candidates(unit: str, normalize: bool, text: str) -> None:
    rule = RepeatedLinesWithin.model_validate({"unit": unit, "normalize": normalize})
    [maybe] = rule.candidates(pa.array([text], STRING)).tolist()
    assert maybe or rule.rewrite(text) == text


@settings(deadline=None, max_examples=400)
@given(text=TEXTS)
def test_texts_with_a_long_word_are_candidates(text: str) -> None:
    rule = LongWordLines(max_characters=3)
    [maybe] = rule.candidates(pa.array([text], STRING)).tolist()
    assert maybe or rule.rewrite(text) == text


@pytest.mark.parametrize("regex", [False, True])
@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS,
    phrases=st.lists(st.sampled_from(["a", "word", "k", "s.", "\u00e9", "a\n"]), min_size=1),
    case_sensitive=st.booleans(),
)
def test_lines_with_a_phrase_are_those_of_the_expression(
    text: str, phrases: list[str], case_sensitive: bool, regex: bool
) -> None:
    rule = SubstringLines(phrases=phrases, case_sensitive=case_sensitive, regex=regex)
    expected = [line for line in text.split("\n") if not rule._made.occurs_in(line)]
    assert rule.rewrite(text) == "\n".join(expected)


@settings(deadline=None, max_examples=300)
@given(
    text=TEXTS, phrases=st.lists(st.sampled_from(["a", "word", "i", "\u00e9", "a\na"]), min_size=1)
)
def test_policy_lines_are_those_with_a_phrase(text: str, phrases: list[str]) -> None:
    rule = PolicyLines(phrases=phrases)
    assert rule.rewrite(text) == "\n".join(line for line in text.split("\n") if rule.keeps(line))


def test_candidates_are_few() -> None:
    texts = pa.array(
        ["one line\nanother line\n\n\nthird", "one line\nONE LINE ", "x" * 1001], STRING
    )
    assert kernels.candidates.may_repeat(texts, newlines=1, blank=False).tolist() == [0, 1, 0]
    for most, expected in ((3, [1, 1, 1]), (4, [1, 0, 1]), (7, [0, 0, 1]), (1000, [0, 0, 1])):
        assert kernels.candidates.have_long_runs(texts, most=most).tolist() == expected
    assert kernels.candidates.have_long_runs(texts, most=1001).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=400)
@given(
    text=TEXTS,
    phrases=st.lists(st.sampled_from(["a", "word", "k i", "s.", "wordword", "\u00e9"]), min_size=1),
    whole=st.booleans(),
    pad=st.integers(0, 400),
)
def test_a_phrase_occurs_where_the_expression_finds_it(
    text: str, phrases: list[str], whole: bool, pad: int
) -> None:
    border = r"\b" if whole else ""
    pattern = Pattern(phrases, literal=True, before=border, after=border)
    long = "y" * pad + text + "y" * pad
    actual = pattern.occurs(pa.array([text, long], STRING), lowered=True, whole=whole)
    assert actual.tolist() == [pattern.occurs_in(text.lower()), pattern.occurs_in(long.lower())]
