"""Masking: what is found, what is left alone, and that it takes linear time."""

from __future__ import annotations

import re
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch import Batch
from pipelines.schema import STRING
from pipelines.text.pii import MaskPersonalData, mask_emails

# The definition: as one expression, which takes quadratic time on a text without spaces.
EMAIL = re.compile(
    r"\b[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}"
    r"[A-Za-z0-9])?\b"
)
PIECES = [
    "@",
    ".",
    "..",
    "a",
    "b1",
    "-",
    "_",
    "+",
    " ",
    "\n",
    "é",
    "x@y.de",
    "@y.de",
    "!",
    "\u0301",
]
PIECES += ["a.b", "com", "co.uk", "@-", "A" * 64, "中", "\u0301"]


def masked(text: str, **parameters: object) -> str:
    operator = MaskPersonalData.model_validate(parameters)
    actual = operator.modify(Batch(pa.table({"text": pa.array([text], STRING)})))
    return actual.value["text"][0].as_py()


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_addresses_are_those_of_the_expression(text: str) -> None:
    assert mask_emails(text, "<E>") == EMAIL.subn("<E>", text)


@pytest.mark.parametrize(
    "unit", ["QUJD", "a.", "@", "a@", "a@b", "a@b.", ".", "-", "a@b.c ", "é@", "+"]
)
def test_a_megabyte_takes_time_in_proportion(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit)) + "@"
        started = time.process_time()
        mask_emails(text, "<E>")
        return time.process_time() - started

    small = min(seconds(250_000) for _ in range(3))
    large = min(seconds(1_000_000) for _ in range(3))
    assert large < 4
    assert large < 0.2 or large < 9 * small, "four times the text, nine times the time"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call +44 20 7946 0958 now", "call P now"),
        ("call +44 (0)20 7946 0958.", "call P."),
        ("Tel.: +49-30-901820", "Tel.: P"),
        ("(+33 1 42 68 53 00)", "(P)"),
        ("+86 138 0013 8000, +81-3-3224-5000", "P, P"),
        ("+5511912345678", "P"),
        ("+1 555 123 4567", "P"),
        ("555-123-4567", "P"),
        ("1+2345678", "1+2345678"),  # a sum
        ("+1234567", "+1234567"),  # seven digits
        ("+1234567890123456", "+1234567890123456"),  # sixteen
        ("+44 20 7946 0958x", "+44 20 7946 0958x"),
    ],
)
def test_international_numbers_are_an_option(text: str, expected: str) -> None:
    assert masked(text, phone_form="international", phone="P") == expected


def test_by_default_only_the_north_american_form_is_masked() -> None:
    assert masked("+44 20 7946 0958 or 555-123-4567", phone="P") == "+44 20 7946 0958 or P"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 2606:4700:4700::1111 today", "from I today"),
        ("[2a00:1450:4001:82b::200e]:443", "[I]:443"),
        ("at 2001:4860:4860:0:0:0:0:8888.", "at I."),
        ("::1 fe80::1 fc00::7", "::1 fe80::1 fc00::7"),  # this host, this link, a private network
        ("2001:db8::1", "2001:db8::1"),  # set aside for examples
        ("12:30:45", "12:30:45"),
        ("std::cout a::b", "std::cout a::b"),
        ("00:1b:44:11:3a:b7", "00:1b:44:11:3a:b7"),  # a network card
        ("8.8.8.8 and 2606:4700::1", "I and I"),
    ],
)
def test_ipv6_is_an_option(text: str, expected: str) -> None:
    assert masked(text, ipv6=True, ip="I") == expected
    assert "2606" not in text or "2606" in masked(text, ip="I")


def test_records_without_the_options_are_as_before() -> None:
    assert set(MaskPersonalData().model_dump()) == {"email", "phone", "ip"}
