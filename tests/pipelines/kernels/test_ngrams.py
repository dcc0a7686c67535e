"""N-grams in a set, and which texts are composed already."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1))
def test_what_counts_as_composed_is_left_alone_by_normalization(texts: list[str]) -> None:
    array = pa.array(texts, STRING)
    composed = ngrams.composed(array)
    normal = pc.utf8_normalize(array, form="NFC").to_pylist()
    for text, after, sure in zip(texts, normal, composed.tolist(), strict=True):
        assert not sure or text == after
        assert sure or not text.isascii()


def test_grams_are_found_where_a_python_set_finds_them() -> None:
    chance = random.Random(1)
    words = [f"w{number}" for number in range(60)]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 60))) for _ in range(300)]
    items = [" ".join(chance.choices(words, k=40)) for _ in range(200)] + texts[::10]
    known = {}
    needed: dict[int, set[tuple[str, ...]]] = {}
    for size in (2, 5):
        hashes, borders = ngrams.words(pa.array(items, STRING))
        known[size], _ = ngrams.grams(hashes, borders, size)
        needed[size] = {
            tuple(split[i : i + size])
            for split in map(str.split, items)
            for i in range(len(split) - size + 1)
        }
    rows, _ = ngrams.occurrences(ngrams.grams_of(known), *ngrams.words(pa.array(texts, STRING)))
    counts = np.bincount(rows, minlength=len(texts)).tolist()
    for row, split in enumerate(map(str.split, texts)):
        expected = sum(
            tuple(split[i : i + size]) in needed[size]
            for size in (2, 5)
            for i in range(len(split) - size + 1)
        )
        assert counts[row] == expected, row
