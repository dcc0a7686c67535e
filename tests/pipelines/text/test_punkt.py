"""Sentences by Punkt's compiled walk are those of NLTK, whatever the text, in less time."""

from __future__ import annotations

import gzip
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from pipelines.schema import STRING
from pipelines.text import units
from pipelines.text.punkt import break_surely, parameters, splitter, sure_breaks

LANGUAGES = ("english", "german")
"""The trained model, and a Punkt trained on nothing."""

PIECES = (
    *("a", "b.", "B. ", "Dr.", "Dr. ", "etc. ", "vs", "Fig. ", "No. ", "im. ", "U.S. ", "U.S"),
    *("e.g. ", "10. ", "3.5", " 7,", "-", "--", "...", ". ", ".", "!", "?", "! ", "? ", ".\n"),
    *("\n\n", '."', ".) ", "?! ", " ", "\n", "\t", "\u00a0", "\u2003", "\u3000", ", ", ",", "("),
    *(")", '"', "'", "[", "]", "{", "}", "*", ":", ";", "@", "&", "#", "`", "Word", "word "),
    *("The ", "the ", "he ", "\u00dcber ", "n\u00e9e. ", "\u0130. ", "\u00df", "\u0301", "\u00b2."),
    *("\x1c", "\x1f", "\x85", "\u2028", "\r\n", "x-y. ", "end-etc. ", ". . .", ". . . . "),
    *("\u00a0.\u00a0.", "A..", "1..", "_. ", "\U0001f600", "\u0663. ", "However ", "##number## "),
)


def by_nltk(language: str) -> Callable[[str], list[str]]:
    """NLTK's own function with the same parameters, and with all the time that it takes."""
    punkt = pytest.importorskip("nltk.tokenize.punkt")

    class AsciiQuotes(punkt.PunktLanguageVars):
        re_boundary_realignment = re.compile(r"""["')\]}]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
        _re_non_word_chars = r"""(?:[)";}\]*:@'({\[!?])"""

    known = parameters(language)
    learned = punkt.PunktParameters()
    learned.abbrev_types = set(known.abbreviations)
    learned.collocations = set(known.collocations)
    learned.sent_starters = set(known.starters)
    learned.ortho_context.update(known.contexts)
    tokenizer = punkt.PunktSentenceTokenizer(lang_vars=AsciiQuotes())
    tokenizer._params = learned
    return tokenizer.tokenize


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kinds", [2, 4, 9, len(PIECES)])
def test_sentences_of_odd_texts_are_those_of_nltk(language: str, kinds: int) -> None:
    expected, actual = by_nltk(language), splitter(language)
    chance = random.Random(kinds)
    for _ in range(300):
        pieces = chance.sample(PIECES, kinds)
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 50)))
        assert actual(text) == expected(text), repr(text)


def test_every_character_is_read_as_nltk_reads_it() -> None:
    """Code points before and after the mark of a sentence and within a word."""
    expected, actual = by_nltk("english"), splitter("english")
    points = [*range(0x3100), *range(0x3100, 0xD800, 97), *range(0xE000, 0x110000, 97)]
    for begin in range(0, len(points), 50):
        text = "".join(
            f"ab{chr(c)}. {chr(c)}cd.{chr(c)}Ef {chr(c)}. Gh\n" for c in points[begin : begin + 50]
        )
        assert actual(text) == expected(text), hex(points[begin])


def test_sentences_of_real_pages_are_those_of_nltk(data: Path) -> None:
    expected, actual = by_nltk("english"), splitter("english")
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        pages = [orjson.loads(line)["text"] for line in file]
    assert pages
    for page in pages[::10]:
        assert actual(page) == expected(page)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n ", []),
        ("No mark", ["No mark"]),
        ("One. Two.", ["One.", "Two."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("Mr. Smith met Dr. Jones. They left.", ["Mr. Smith met Dr. Jones.", "They left."]),
        ("(It is so.) Is it?", ["(It is so.)", "Is it?"]),
        ("J. S. Bach wrote it. No. 5 too.", ["J. S. Bach wrote it.", "No.", "5 too."]),
    ],
)
def test_sentences_by_hand(text: str, sentences: list[str]) -> None:
    assert units.split_sentences(text, "punkt") == sentences


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("enough", [1, 2, 5])
def test_sure_breaks_are_among_those_of_the_expression(language: str, enough: int) -> None:
    chance = random.Random(6)
    made = ["".join(chance.choices(PIECES, k=chance.randint(0, 60))) for _ in range(3000)]
    made += ["word " * 30 + "end. Next one? Yes! " * 3, "Mr. Smith. Dr. Who. A b. C"]
    sure = break_surely(pa.array(made, STRING), language, enough).tolist()
    for text, breaks in zip(made, sure, strict=True):
        assert not breaks or sure_breaks(text, language, enough) == enough, repr(text)
    # Of the last text: Smith. Who. and, where no abbreviation is known, Mr. Dr.
    assert sure[3000:] == [True, enough <= {"english": 2, "german": 4}[language]]


@pytest.mark.parametrize("unit", [". ", ".", "A..", '."', "?!\n", "a. B. ", "xy. ", "!) ", "- "])
def test_text_of_marks_is_as_fast_as_prose(unit: str) -> None:
    """NLTK takes some 5 s for a quarter of a megabyte of these; the best of three measurements."""
    text = unit * (250_000 // len(unit))
    splitter("english")("Compiled. Before it is timed.")
    times = []
    for _ in range(3):
        started = time.process_time()
        splitter("english")(text)
        times.append(time.process_time() - started)
    assert min(times) < 0.5, times
