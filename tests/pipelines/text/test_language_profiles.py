"""Languages by compiled loops are langdetect's, to the last bit, in less time."""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from pipelines.text import language_profiles
from pipelines.text.units import split_sentences

PIECES = (
    *("the ", "quick ", "Der ", "und ", "S\u00e3o ", "n\u00e9", "\u65e5", "\u672c", "\u8a9e"),
    *("\u306e", "\u30ab", "\ud55c\uad6d\uc5b4 ", "\u043f\u0440\u0438\u0432\u0435\u0442 ", "ABC"),
    *("aB ", "x", "1", " ", "  ", "\n", "http://a.b/c?d=e ", "me@x.org ", "Ti\u1ebf", "ng "),
    *("\u1ebf", "\u1ebb", "a\u0301", "e\u0309", "\u0219", "\u021b", "\u06cc", "\u0633\u0644 "),
    *("\U00020000", "\U0001f600", "...", "[", "^", "\u01c5", "\u0130", "\u00df", "\u2019"),
    *("\u00a0", "\u3105", "\u0e01", "\u092e\u0948\u0902 ", "uma ", "el ", "la ", "och ", "\u00e4r"),
)


def by_library(seed: int) -> Callable[[str], list[tuple[str, float]]]:
    """langdetect's own detector, over profiles in the same order."""
    pytest.importorskip("langdetect")
    factory = language_profiles.factory()
    factory.seed = seed

    def scores(text: str) -> list[tuple[str, float]]:
        detector = factory.create()
        detector.append(text)
        return [(language.lang, language.prob) for language in detector.get_probabilities()]

    return scores


def answer(scores: Callable[[str], object], text: str) -> object:
    """A list of (language, probability); None for a text that is refused."""
    from langdetect.lang_detect_exception import LangDetectException

    try:
        result = scores(text)
    except (LangDetectException, ValueError):
        return None
    return list(result.items()) if isinstance(result, dict) else result


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_languages_of_odd_texts_are_those_of_the_library(seed: int) -> None:
    expected, actual = by_library(seed), language_profiles.scorer(seed)
    chance = random.Random(seed)
    for _ in range(300):
        pieces = chance.sample(PIECES, chance.choice([2, 5, len(PIECES)]))
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(40)))
        assert answer(actual, text) == answer(expected, text), repr(text)


def test_languages_of_long_texts_are_those_of_the_library() -> None:
    expected, actual = by_library(0), language_profiles.scorer(0)
    for text in ("ab " * 5000, "a" * 20000, "  x" * 9000, "The river runs. " * 800 + "\u65e5" * 9):
        assert answer(actual, text) == answer(expected, text), text[:20]


def test_languages_of_real_sentences_are_those_of_the_library(data: Path) -> None:
    expected, actual = by_library(0), language_profiles.scorer(0)
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        pages = [orjson.loads(line)["text"] for line in file][::40]
    sentences = list(dict.fromkeys(line for page in pages for line in split_sentences(page)))
    assert len(sentences) > 300
    for sentence in sentences[:300]:
        assert answer(actual, sentence) == answer(expected, sentence), sentence


def test_random_numbers_that_do_not_suffice_are_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer(language_profiles.scorer(3), "hm")
    monkeypatch.setattr(language_profiles, "FIRST_OUTPUTS", 5)
    assert answer(language_profiles.scorer(3), "hm") == expected


def test_a_sentence_that_no_language_wins_takes_little_time() -> None:
    """The library takes 30 ms for one; the best of three measurements of a hundred."""
    pytest.importorskip("langdetect")
    scores = language_profiles.scorer(0)
    letters = "abcdefghij"
    words = [a + b for a in letters for b in letters]
    scores("compiled")
    times = []
    for _ in range(3):
        started = time.process_time()
        for word in words:
            scores(word)
        times.append(time.process_time() - started)
    assert min(times) < 0.1, times
