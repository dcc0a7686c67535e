"""Figures of lines against str methods."""

from __future__ import annotations

import random

import pyarrow as pa

from pipelines.kernels import lines as kernel
from pipelines.schema import STRING

PIECES = [
    "\n",
    "\n\n",
    "a",
    "B",
    "\u00c4",
    "\u0416",
    "7",
    "\u0663",
    "\u00b2",
    " ",
    "\u3000",
    "\u2019",
    "x" * 63,
]


def check(texts: list[str]) -> None:
    lines = kernel.measured(pa.array(texts, STRING))
    for row, text in enumerate(texts):
        own = range(lines.begin[row], lines.end[row])
        split = [bytes(lines.data[lines.start[k] : lines.stop[k]]).decode() for k in own]
        assert split == text.split("\n")
        expected = [
            [len(line), sum(map(str.isupper, line)), sum(map(str.isdigit, line)), len(line.split())]
            for line in split
        ]
        assert lines.figures[own.start : own.stop].tolist() == expected, repr(text)


def test_random_lines_equal_the_plain_statement() -> None:
    chance = random.Random(2)
    check(["".join(chance.choices(PIECES, k=chance.randint(0, 40))) for _ in range(1500)])


def test_every_character_equals_the_plain_statement() -> None:
    check([f"a{chr(code)} {chr(code)}\n{chr(code)}" for code in range(0x3100)])


def test_many_short_lines_find_room() -> None:
    check(["\n" * 5000, "", "a\n" * 700])
