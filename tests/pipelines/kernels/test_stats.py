"""Document figures against the plain statements of the rules."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels import columns, stats
from pipelines.schema import STRING
from pipelines.text.units import split_words

PIECES = [
    "the", "The", "WITH", "thex", "be", "to ", "\u212aof", "\u2022", "\u25cf", "*", "-", "...",
    ". . .", "\u2026", "....", ". . . .", "#", "\n", "\n", " ", "\u3000", "\x1c", "\x00", "\x00a",
    "\r", "\u0085", "1", "\u00e9t\u00e9", "\u65e5", "\U0001f600", "(", "\u00a0", "x",
]  # fmt: skip


def plain(text: str) -> list[int]:
    words = text.split()
    stops = [w for w in map(str.lower, words) if w in stats.STOP_WORDS]
    lines = [line for raw in text.split("\n") if (line := raw.strip())]
    return [
        len(words),
        sum(map(len, words)),
        sum(any(map(str.isalpha, word)) for word in words),
        len(stops),
        len(set(stops)),
        text.count("#"),
        text.count("..."),
        text.count(". . ."),
        text.count("\u2026"),
        len(lines),
        sum(line.startswith(("\u25cf", "\u2022", "*", "-")) for line in lines),
        sum(line.endswith(("...", ". . .", "\u2026")) for line in lines),
        len(split_words(text, "fasttext", skip_punctuation=True)),
    ]


def check(texts: list[str]) -> None:
    pages = stats.documents(pa.array(texts, type=STRING)).figures
    for row, text in enumerate(texts):
        assert pages[row].tolist() == plain(text), repr(text[:500])


def test_random_mixtures_of_awkward_pieces_equal_the_plain_statement() -> None:
    chance = random.Random(3)
    check(["".join(chance.choices(PIECES, k=chance.randint(0, 25))) for _ in range(4000)])


def test_every_character_equals_the_plain_statement() -> None:
    codes = list(range(0x3100))
    check([f"a{chr(code)} {chr(code)} 1{chr(code)}2 {chr(code)}\n{chr(code)}" for code in codes])


def test_words_and_lines_over_the_borders_of_blocks_equal_the_plain_statement() -> None:
    chance = random.Random(9)
    pieces = [*PIECES, "7" * 70, "-" * 64, "with", "and\n", " . . . .", " that "]
    check(["".join(chance.choices(pieces, k=chance.randint(40, 160))) for _ in range(400)])


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_equals_the_plain_statement(texts: list[str]) -> None:
    check([text.encode("utf-8", "ignore").decode() for text in texts])


def test_real_pages_equal_the_plain_statement(data: Path) -> None:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        check([orjson.loads(line)["text"] for line in file][::5])


def test_rows_can_be_taken() -> None:
    pages = stats.documents(pa.array(["a b", "c"], type=STRING)).take(np.array([1]))
    assert pages[columns.WORDS].tolist() == [1]
