"""Dots before names of domains and between numbers: never a miss, and few others."""

from __future__ import annotations

import random
import re

import pyarrow as pa

from pipelines.kernels import domains as kernel
from pipelines.schema import STRING

NAMES = ["com", "org", "co", "xn--p1ai", "\u6d4b\u8bd5", "de"]
PIECES = [*NAMES, ".", ".com", ".Com", ".co_", "\u00e9", "a", "A", "9", ".1", "12", "1234", "_"]
PIECES += [" ", "\n", "x" * 62, ".org", "-"]


def texts() -> list[str]:
    chance = random.Random(5)
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 9))) for _ in range(3000)]


def test_no_text_with_a_name_is_missed() -> None:
    names = re.compile(rf"\.(?:{'|'.join(NAMES)})\b")
    made = texts()
    actual = kernel.may_hold_names(pa.array(made, STRING), kernel.prepare(NAMES))
    for text, maybe in zip(made, actual.tolist(), strict=True):
        assert maybe or names.search(text) is None, repr(text)


def test_few_texts_without_a_name_are_candidates() -> None:
    made = ["End. Next", "node.js", "a.community", "a.Com", "a.com2", "a.com", "a.com."]
    actual = kernel.may_hold_names(pa.array(made, STRING), kernel.prepare(["com", "org"]))
    assert actual.tolist() == [False, False, False, False, False, True, True]


def test_dots_between_numbers() -> None:
    made = texts()
    numbers = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
    expected = [numbers.search(text) is not None for text in made]
    assert kernel.hold_dotted_numbers(pa.array(made, STRING)).tolist() == expected
    assert kernel.hold_dotted_numbers(
        pa.array(["1.2.3.4", "1.2.3", ".1234.5.6"], STRING)
    ).tolist() == [
        True,
        False,
        False,
    ]
    expected = [re.search(r"[0-9]\.[0-9]", text) is not None for text in made]
    assert kernel.hold_dots_between_digits(pa.array(made, STRING)).tolist() == expected
