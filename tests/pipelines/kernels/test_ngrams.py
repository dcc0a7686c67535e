"""Words of texts in any alphabet, and n-grams in a set."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels import ngrams
from pipelines.schema import STRING


def seconds_of_pairs() -> set[int]:
    """Characters that compose with one before them, after UnicodeData and the Hangul algorithm."""
    actual = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            actual.add(int(parts[1], 16))
    return actual


def test_inert_characters_are_composed_and_compose_with_nothing() -> None:
    seconds = seconds_of_pairs()
    for first, last in ngrams.INERT_RANGES:
        for code in range(first, last + 1):
            assert unicodedata.combining(chr(code)) == 0, hex(code)
            assert unicodedata.normalize("NFC", chr(code)) == chr(code), hex(code)
            assert code not in seconds, hex(code)


PIECES = ["a", "é", "e\u0301", "\u1100\u1161", "\uac00\u11a8", "\u212b", "日", "\u3099", "か", "💡"]
PIECES += ["\u0928\u093c", "ﬁ", "\u2126", "word ", "\U0001d15e", "\u0c46\u0c56", "й", "и\u0306"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1))
def test_words_are_those_of_the_composed_text_in_lower_case(texts: list[str]) -> None:
    normal = pc.utf8_lower(pc.utf8_normalize(pa.array(texts, STRING), form="NFC"))
    hashes, borders = ngrams.words(pa.array(texts, STRING))
    expected, expected_borders = ngrams.words(normal)
    assert hashes.tolist() == expected.tolist()
    assert borders.tolist() == expected_borders.tolist()


@pytest.mark.parametrize("pair", [("ÀÉ", "àé"), ("ΟΔΟΣ", "οδοσ"), ("ⰀⰁ", "ⰰⰱ"), ("𐐀Ⱥ", "𐐨ⱥ")])
def test_capital_letters_of_any_alphabet_count_as_small_ones(pair: tuple[str, str]) -> None:
    hashes, _ = ngrams.words(pa.array(pair, STRING))
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]


def test_grams_are_found_where_a_python_set_finds_them() -> None:
    chance = random.Random(1)
    words = [f"w{number}" for number in range(60)]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 60))) for _ in range(300)]
    items = [" ".join(chance.choices(words, k=40)) for _ in range(200)] + texts[::10]
    needed: dict[int, set[tuple[str, ...]]] = {}
    hashes, borders = ngrams.words(pa.array(items, STRING))
    known = {size: ngrams.grams(hashes, borders, size)[0] for size in (2, 5)}
    for size in (2, 5):
        needed[size] = {
            tuple(split[i : i + size])
            for split in map(str.split, items)
            for i in range(len(split) - size + 1)
        }
    grams = ngrams.grams_of(known, known[2])  # every 5-gram ends in a 2-gram of its item
    rows, numbers, firsts = ngrams.occurrences(grams, *ngrams.words(pa.array(texts, STRING)))
    actual = sorted(
        (row, first, int(grams.size[np.searchsorted(grams.border, number, "right") - 1]))
        for row, first, number in zip(rows.tolist(), firsts.tolist(), numbers.tolist(), strict=True)
    )
    assert actual == [
        (row, i, size)
        for row, split in enumerate(map(str.split, texts))
        for i in range(len(split))
        for size in (2, 5)
        if tuple(split[i : i + size]) in needed[size]
    ]
