"""Rules on whole documents, each on its threshold."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.operators import Filter
from pipelines.schema import STRING
from pipelines.text.heuristics import MeanWordLength, WordCount


def reason_of(rule: Filter, text: str) -> str | None:
    """Why a document is rejected; None where it is kept."""
    [reason] = rule.reject(Batch(pa.table({"text": pa.array([text], STRING)}))).to_pylist()
    return reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a b", "too_few_words"),
        ("a b c", None),
        ("a b c d", None),
        ("a b c d e", "too_many_words"),
        ("", "too_few_words"),
    ],
)
def test_a_document_needs_its_number_of_words(text: str, reason: str | None) -> None:
    assert reason_of(WordCount(min_words=3, max_words=4), text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("aa aaaa", None),  # 3 on the mean
        ("aa aaa", "words_too_short"),
        ("a" * 10, None),
        ("a" * 11, "words_too_long"),
        ("", "words_too_short"),
    ],
)
def test_words_are_neither_short_nor_long(text: str, reason: str | None) -> None:
    assert reason_of(MeanWordLength(min_length=3.0, max_length=10.0), text) == reason
