"""Words against their plain statements: str.split, fastText's rule, and the package uniseg."""

from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels import words
from pipelines.schema import STRING

HOSTILE = (
    "a\u0301b\u200dc \u2019\u00ab'\".,:;\u00b7\u05d0\u05d1\"\u05d2'\u05d3 1,2.3 \u0663\u066b\u0664_"
    "\u30ab\u30bf \u65e5\u672c \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea"
    "\U0001f1eb\r\n\n\r\u0085\u2028 \u00a0\u3000\u200b\u00ad\ufeff\x00\x1c\t-_ "
    "can't l'amour e.g. x_y"
)
CASES = [
    "",
    " ",
    "one two",
    "don't stop, l'amour; 3.5,6 and 1_000!",
    "\u0301abc \u0301",
    "a\u200d\u200db\u0308.c",
    "\r\n\u0301\r\n",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7\U0001f1ea",
    "\u05d0\"\u05d1 \u05d0' \u05d0'b 'x'",
    "...a..b.c.:d 1.:2 1.2",
    HOSTILE,
]


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, type=STRING)


def split_words(text: str) -> list[str]:
    return text.split()


def fasttext_words(text: str) -> list[str]:
    return [word for word in re.split("[ \n\r\t\v\f\0]+", text) if word]


def uniseg_words(text: str) -> list[str]:
    uniseg = pytest.importorskip("uniseg.wordbreak")
    return [word for word in uniseg.words(text) if word[0].isalnum()]


def uniseg_tokens(text: str) -> list[str]:
    uniseg = pytest.importorskip("uniseg.wordbreak")
    return [word for word in uniseg.words(text) if not word.isspace()]


def uniseg_segments(text: str) -> list[str]:
    uniseg = pytest.importorskip("uniseg.wordbreak")
    return list(uniseg.words(text))


DEFINITIONS = {
    "whitespace": (words.whitespace, split_words),
    "fasttext": (words.fasttext, fasttext_words),
    "uax29": (words.uax29, uniseg_words),
    "uax29_tokens": (words.uax29_tokens, uniseg_tokens),
    "uax29_segments": (words.uax29_segments, uniseg_segments),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_hostile_cases_equal_the_oracle(name: str) -> None:
    kernel, oracle = DEFINITIONS[name]
    actual = kernel(column(CASES))
    for row, text in enumerate(CASES):
        assert actual.strings(row) == oracle(text), repr(text)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_random_mixtures_of_hostile_characters_equal_the_oracle(name: str) -> None:
    kernel, oracle = DEFINITIONS[name]
    chance = random.Random(7)
    texts = ["".join(chance.choices(HOSTILE, k=chance.randint(1, 60))) for _ in range(1500)]
    actual = kernel(column(texts))
    for row, text in enumerate(texts):
        assert actual.strings(row) == oracle(text), repr(text)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_equals_the_oracle(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]  # no lone surrogates
    for kernel, oracle in DEFINITIONS.values():
        actual = kernel(column(texts))
        for row, text in enumerate(texts):
            assert actual.strings(row) == oracle(text), repr(text)


@pytest.mark.parametrize("name", ["uax29", "uax29_tokens"])
def test_real_pages_in_forty_languages_equal_the_oracle(name: str, data: Path) -> None:
    kernel, oracle = DEFINITIONS[name]
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        texts = [orjson.loads(line)["text"] for line, _ in zip(file, range(2248), strict=False)]
    texts = [text[:600] for text in texts[::4]]
    actual = kernel(column(texts))
    wrong = [row for row, text in enumerate(texts) if actual.strings(row) != oracle(text)]
    assert wrong == []


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_character_between_others_equals_the_oracle(name: str) -> None:
    """Letters, digits, blanks and marks around it, for the characters that most text is made of."""
    kernel, oracle = DEFINITIONS[name]
    characters = [chr(code) for code in range(0x530)] + [
        chr(code) for code in range(0x2000, 0x2070)
    ]
    texts = [f"a{c}b {c} 1{c}2 {c}{c}x  {c}\u0301{c}a\r\n{c}'_{c}." for c in characters]
    actual = kernel(column(texts))
    wrong = [text for row, text in enumerate(texts) if actual.strings(row) != oracle(text)]
    assert wrong == []


@pytest.mark.parametrize("name", DEFINITIONS)
def test_words_over_the_borders_of_blocks_equal_the_oracle(name: str) -> None:
    kernel, oracle = DEFINITIONS[name]
    pieces = [
        "a",
        "\u00e9",
        "\u2019",
        " ",
        "  ",
        "\n",
        "1.5",
        "don't",
        "_",
        "\u65e5",
        "\u3000",
        "x" * 30,
    ]
    chance = random.Random(3)
    texts = ["".join(chance.choices(pieces, k=chance.randint(40, 120))) for _ in range(200)]
    actual = kernel(column(texts))
    for row, text in enumerate(texts):
        assert actual.strings(row) == oracle(text), repr(text)


def test_hashes_are_those_of_the_bytes_one_after_the_other() -> None:
    def plain(word: str) -> int:
        state = 0x9E3779B97F4A7C15
        for byte in word.encode():
            state = (state << 5 | state >> 59) & (1 << 64) - 1
            state = (state ^ byte) * 0x517CC1B727220A95 % (1 << 64)
        return state

    made = [*("x" * size for size in range(1, 41)), "\u00e9" * 9, "\u65e5\u672c" * 700, "end"]
    for kernel in (words.whitespace, words.uax29, words.fasttext):
        split = kernel(column([" ".join(made)]))
        assert split.hash.tolist() == [plain(word) for word in split.strings(0)]
        assert split.length.tolist() == [len(word) for word in split.strings(0)]


def test_lengths_count_code_points_and_equal_words_hash_alike() -> None:
    actual = words.uax29(column(["na\u00efve \u65e5", "x na\u00efve"]))
    assert actual.length.tolist() == [5, 1, 1, 5]
    assert actual.hash[0] == actual.hash[3]
    assert len(set(actual.hash.tolist())) == 3


def test_slices_of_an_array_see_only_their_rows() -> None:
    actual = words.whitespace(column(["a b", "c", "d e f"]).slice(1))
    assert [actual.strings(0), actual.strings(1)] == [["c"], ["d", "e", "f"]]


def test_rows_can_be_taken() -> None:
    import numpy as np

    actual = words.whitespace(column(["a b", "c", "d e f"])).take(np.array([2, 0]))
    assert actual.counts.tolist() == [3, 2]
    assert actual.strings(0) == ["d", "e", "f"]


def test_nulls_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="texts without null, got 1"):
        words.uax29(column(["a", None]))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="reads large_string, got string"):
        words.uax29(pa.array(["a"]))


def test_a_single_line_of_ten_megabytes_is_no_trouble() -> None:
    actual = words.uax29(column(["word \u0301" * 1_500_000]))
    assert actual.counts.tolist() == [1_500_000]
