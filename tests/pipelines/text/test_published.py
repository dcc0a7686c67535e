"""Rules as published, on documents worked out by hand."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.batch import Batch
from pipelines.operators import Counted
from pipelines.schema import STRING
from pipelines.text import units
from pipelines.text.pii import MaskPersonalData
from pipelines.text.published import FineWebQuality
from pipelines.text.repetition import GopherRepetition

LONG = "this line has more than thirty characters"


def batch(texts: list[str]) -> Batch:
    return Batch(pa.table({"text": pa.array(texts, type=STRING)}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_lines"),
        (" \n\t\n", "no_lines"),
        ("\n".join([LONG] * 1), "too_few_finished_lines"),
        ("\n".join(f"{LONG} {n}." for n in range(3)), None),
        ("\n".join(f"{LONG} {n}\u3002  " for n in range(3)), None),
        ("\n".join(f"short {n}." for n in range(3)), "too_many_short_lines"),
        (f"{LONG}.\n{LONG} 2.\na.\n", None),  # a third of the lines is short
        ("\n".join([f"{LONG}."] * 2), "too_many_repeated_characters"),
    ],
)
def test_fineweb_quality_names_the_rule(text: str, reason: str | None) -> None:
    assert FineWebQuality().reject(batch([text])).to_pylist() == [reason]


def test_line_breaks_per_word_is_a_rule_of_its_own() -> None:
    text = "\n".join(f"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{n}." for n in range(10))
    assert FineWebQuality().reject(batch([text])).to_pylist() == [None]
    limited = FineWebQuality(max_breaks_per_word=0.3)
    assert limited.reject(batch([text])).to_pylist() == ["too_many_line_breaks"]


def test_gopher_counts_surplus_copies_and_dclm_every_copy() -> None:
    unique = [f"an own line number {n} with words {n * 7}" for n in range(4)]
    text = "\n".join(["the same line"] * 2 + unique)  # one surplus copy of 6: 1/6; every copy: 2/6
    published = GopherRepetition(words="whitespace").reject(batch([text])).to_pylist()
    as_in_dclm = GopherRepetition(every_copy=True).reject(batch([text])).to_pylist()
    assert published != ["repeated_lines"]
    assert as_in_dclm == ["repeated_lines"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.co.uk.", "write to <E>."),
        ("call (555) 123-4567 or +1 555-123-4567!", "call <P> or <P>!"),
        ("a 555.123.4567 b", "a <P> b"),
        ("host 8.8.8.8, local 192.168.0.1, version 1.2.3.400", None),
        ("no one @ home, 12-34, 1.5", "no one @ home, 12-34, 1.5"),
        ("\u00e9crire \u00e0 moi@exemple.fr", "\u00e9crire \u00e0 <E>"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str | None) -> None:
    operator = MaskPersonalData(email="<E>", phone="<P>", ip="<I>")
    result: Any = operator.modify(batch([text]))
    assert isinstance(result, Counted)
    if masked is None:
        masked = "host <I>, local 192.168.0.1, version 1.2.3.400"
    assert result.value["text"].to_pylist() == [masked]
    actual = sum(masked.count(mark) for mark in ("<E>", "<P>", "<I>"))
    assert sum(result.counts.values()) == actual


SENTENCES = st.lists(
    st.sampled_from(
        [
            *("Dr", "etc", "vs", "Fig", "No", "a", "B", "word", "Words", "im", "U.S", "e.g", "10"),
            *(".", ". ", "! ", "? ", "... ", ".\n", '." ', ".) ", "?! ", " ", "\n", "\u00a0", ", "),
            *("Über", "née", "3.5", "-", "--", "(", '"', "x-y", "end"),
        ]
    ),
    max_size=40,
).map("".join)


@settings(deadline=None, max_examples=600)
@given(text=SENTENCES, enough=st.integers(1, 5))
def test_enough_sentences_are_those_that_punkt_counts(text: str, enough: int) -> None:
    whole = len(units.split_sentences(text, "punkt"))
    actual = units.count_sentences(text, "punkt", language="english", enough=enough)
    assert (actual >= enough) == (whole >= enough)
    assert actual == whole or actual >= enough
