"""Sentences by blingfire's own function are those of its Python wrapper."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import orjson
import pytest

from pipelines.text.units import split_sentences

PIECES = ("a", "b.", " ", "\n", "!", "?", "\u0301", "\u65e5", "\u00e9", "\u200b", "\r\n", "\ufeff")


def by_wrapper(text: str) -> list[str]:
    blingfire = pytest.importorskip("blingfire")
    if not text.strip():
        return []
    _, places = blingfire.text_to_sentences_and_offsets(text)
    return [sentence for start, stop in places if (sentence := text[start:stop].strip())]


def test_sentences_of_odd_texts_are_those_of_the_wrapper() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        text = "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 40)))
        assert split_sentences(text) == by_wrapper(text), repr(text)


def test_sentences_of_real_pages_are_those_of_the_wrapper(data: Path) -> None:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        pages = [orjson.loads(line)["text"] for line in file]
    assert pages
    for page in pages[::10]:
        assert split_sentences(page) == by_wrapper(page)
