"""Repetition kernels against the plain statements of `pipelines.text.repetition`."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipelines.kernels import repetition as kernel
from pipelines.kernels import words
from pipelines.schema import STRING
from pipelines.text import repetition as plain
from pipelines.text.units import split_units

LINES = ["a b", " a b\u3000", "", " \t", "\u00e9 x", "a b c", "c", "\x1c", "\u2028q", "\r"]


def texts_of_few_words(number: int) -> list[str]:
    """Texts of few different words and lines, so that everything repeats."""
    chance = random.Random(5)
    made = []
    for _ in range(number):
        if chance.random() < 0.5:
            made.append("\n".join(chance.choices(LINES, k=chance.randint(0, 9))))
        else:
            vocabulary = ["a", "bb", "\u00e9\u00e9", "d4", "eeee", "f"][: chance.randint(1, 6)]
            made.append(" ".join(chance.choices(vocabulary, k=chance.randint(0, 40))))
    return [*made, "", "\n", "\n\n\n", "x", "word " * 500, "a\n" * 700]


def check(texts: list[str]) -> None:
    array = pa.array(texts, type=STRING)
    for actual, separator in (
        (kernel.lines(array), "\n"),
        (kernel.paragraphs(array), "\n\n"),
    ):
        units = [split_units(text, separator) for text in texts]
        assert actual.count.tolist() == [len(u) for u in units]
        for characters in (False, True):
            for every_copy in (False, True):
                shares = actual.fraction(characters=characters, every_copy=every_copy)
                expected = [
                    plain.unit_fraction(u, characters=characters, every_copy=every_copy)
                    for u in units
                ]
                assert shares.tolist() == expected
    found_words = words.uax29(array)
    top, repeated = {2: 0.2, 3: 0.18, 4: 0.16}, {5: 0.15, 6: 0.14, 10: 0.1}
    for every_copy in (False, True):
        codes = kernel.first_ngram_failure(found_words, top, repeated, every_copy=every_copy)
        wanted_codes = []
        for row in range(len(texts)):
            own = found_words.strings(row)
            shares = [
                plain.ngram_fraction(own, n, "most_common", every_copy=every_copy) > limit
                for n, limit in top.items()
            ] + [
                plain.ngram_fraction(own, n, "all", every_copy=every_copy) > limit
                for n, limit in repeated.items()
            ]
            wanted_codes.append(shares.index(True) if True in shares else -1)
        assert codes.tolist() == wanted_codes


def test_texts_that_repeat_themselves_equal_the_plain_statement() -> None:
    check(texts_of_few_words(400))


def test_real_pages_equal_the_plain_statement(data: Path) -> None:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        texts = [orjson.loads(line)["text"] for line in file]
    check([text[:4000] for text in texts[::8]])


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_one_limit_for_one_size_equals_the_plain_statement(size: int) -> None:
    texts = texts_of_few_words(200)
    actual = words.uax29(pa.array(texts, type=STRING))
    for every_copy in (False, True):
        for limits in (({size: 0.05}, {}), ({}, {size: 0.05})):
            codes = kernel.first_ngram_failure(actual, *limits, every_copy=every_copy)
            covered = "most_common" if limits[0] else "all"
            expected = [
                plain.ngram_fraction(actual.strings(row), size, covered, every_copy=every_copy)
                > 0.05
                for row in range(len(texts))
            ]
            assert (codes == 0).tolist() == expected


def test_rows_can_be_taken() -> None:
    actual = kernel.lines(pa.array(["a\na", "b"], type=STRING)).take(np.array([1]))
    assert actual.count.tolist() == [1]
