"""Sentences by compiled rules, by the library's function and by its Python wrapper are equal."""

from __future__ import annotations

import gzip
import random
import time
from pathlib import Path

import orjson
import pytest

from pipelines.text.sentence_rules import sentence_rules
from pipelines.text.units import blingfire_library, split_sentences

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


RULE_PIECES = (
    *("Mr. ", "The ", "It", "U.S.", "Nov. ", "e.g. ", "A.", "B. ", "p. 32", "[1] ", "Jr. "),
    *("[citation needed] ", ":12-14 ", "(1) ", "iv) ", '"', ", ", "\u3002", "\u2026", "\u00bf"),
    *("\x00", "\x01", "\x02", "\x1f", "\x85", "\u1680", "\u2028", "\U0001f600", "\ue000", "\u0663"),
    *("word", "12", "_", "--", "...", "/", "\u0130", "\u00df", "x", "? ", "! ", ".\n"),
)


def stripped(sentences: list[str]) -> list[str]:
    return [sentence for raw in sentences if (sentence := raw.strip())]


@pytest.mark.parametrize("kinds", [2, 4, len(PIECES) + len(RULE_PIECES)])
def test_sentences_by_the_compiled_rules_are_those_of_the_library(kinds: int) -> None:
    pytest.importorskip("blingfire")
    assert sentence_rules() is not None
    library = blingfire_library()
    chance = random.Random(kinds)
    for _ in range(400):
        pieces = chance.sample(PIECES + RULE_PIECES, kinds)
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 120)))
        # A run longer than a rule may read, so that walks end at their bound.
        text += chance.choice(pieces) * chance.choice([0, 0, 0, 320]) + chance.choice(pieces)
        assert split_sentences(text) == stripped(library(text)), repr(text)


def test_every_character_is_read_as_the_library_reads_it() -> None:
    """Code points before and behind the mark of a sentence and within a word, 200 in a text."""
    pytest.importorskip("blingfire")
    library = blingfire_library()
    points = [*range(0x3100), *range(0x3100, 0xD800, 97), *range(0xE000, 0x110000, 97)]
    for begin in range(0, len(points), 200):
        text = "".join(f"ab{chr(c)}. {chr(c)}cd.{chr(c)}Ef\n" for c in points[begin : begin + 200])
        assert split_sentences(text) == stripped(library(text)), hex(points[begin])


@pytest.mark.parametrize("unit", [".", "a.", "-", '."', "_", ". ", "1.", "\u00e9."])
def test_text_without_sentence_ends_is_as_fast_as_prose(unit: str) -> None:
    """blingfire itself takes 1 to 4 s a megabyte of these; the best of three measurements."""
    pytest.importorskip("blingfire")
    text = unit * (250_000 // len(unit.encode()))
    split_sentences("Compiled. Before it is timed.")
    times = []
    for _ in range(3):
        started = time.process_time()
        split_sentences(text)
        times.append(time.process_time() - started)
    assert min(times) < 0.25, times


def test_the_rules_of_another_version_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("blingfire")
    from pipelines.text import sentence_rules as module
    from pipelines.text.units import sentence_splitter

    module.sentence_rules.cache_clear()
    sentence_splitter.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(module, "SHA256", "0" * 64)
            assert module.sentence_rules() is None
            assert split_sentences("One here. Two there.") == ["One here.", "Two there."]
    finally:
        module.sentence_rules.cache_clear()
        sentence_splitter.cache_clear()
