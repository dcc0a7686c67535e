"""Texts without long runs of newlines and without citations, equal to regular expressions."""

from __future__ import annotations

import random
import re

import pyarrow as pa
import pytest

from pipelines.kernels import cuts as kernel
from pipelines.schema import STRING

PIECES = ["\n", "\n\n", "\n" * 70, "\r\n", "a", "b" * 61, "\u00e9", "", " ", "[", "]", "[1", "[]"]
PIECES += [
    "[12]",
    "[\u0663]",
    "[\u00b2]",
    "[edit]",
    "[Edit]",
    "[citation needed]",
    "[citation",
    "\0",
]


def texts() -> list[str]:
    chance = random.Random(4)
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 12))) for _ in range(2000)]


@pytest.mark.parametrize("most", [0, 1, 2, 9])
def test_runs_of_newlines_are_cut(most: int) -> None:
    expected = [re.sub(f"\n{{{most + 1},}}", "\n" * most, text) for text in texts()]
    assert kernel.long_newlines(pa.array(texts(), STRING), most=most).to_pylist() == expected


def test_citations_are_taken_out() -> None:
    expected = [re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", text) for text in texts()]
    assert kernel.citations(pa.array(texts(), STRING)).to_pylist() == expected


def test_rows_of_a_slice() -> None:
    array = pa.array(texts(), STRING)
    assert kernel.citations(array.slice(7, 50)).to_pylist() == (
        kernel.citations(array).slice(7, 50).to_pylist()
    )


def test_texts_without_any_are_not_copied() -> None:
    array = pa.array(["a\n\nb [c]", ""], STRING)
    assert kernel.citations(array) is array
    assert kernel.long_newlines(array, most=2) is array
