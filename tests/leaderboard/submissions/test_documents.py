"""The sketch of a dataset of documents: what it sees, and what it is indifferent to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leaderboard.submissions import documents
from leaderboard.submissions.bundle import DocumentList
from leaderboard.submissions.novelty import NEAR_TEXTS
from leaderboard.submissions.uids import SKETCH

WORDS = np.array([f"w{n}" for n in range(5000)])


def texts(number: int, *, length: int = 200, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) for _ in range(number)]


def of(some: list[str | None]) -> DocumentList:
    return documents.of_texts(pa.array(some, pa.large_string()))


def shared(a: DocumentList, b: DocumentList) -> float:
    union = sorted(set(a.sketch) | set(b.sketch))[:SKETCH]
    return len(set(union) & set(a.sketch) & set(b.sketch)) / len(union)


def test_the_same_documents_in_another_order_have_the_same_sketch() -> None:
    some = texts(300)
    assert of(some) == of(some[::-1])
    assert of(some).count == 300
    assert len(of(some).sketch) == SKETCH


def test_case_blanks_and_punctuation_are_nothing() -> None:
    some = texts(300)
    assert of(some) == of([item.upper().replace(" ", ",\n ") for item in some])


def test_one_changed_word_in_every_document_is_still_nearly_the_dataset() -> None:
    """200 words have 196 5-grams; one changed word takes 5 and adds 5: 191 / 201 = 0.95 agree."""
    some = texts(2000)
    changed = []
    for number, first in enumerate(some):
        words = first.split()
        words[number % 200] = "changed"
        changed.append(" ".join(words))
    # of two sets of keys that agree in 0.95 each, 0.95 / (2 - 0.95) = 0.90 of the union agree
    assert shared(of(some), of(changed)) == pytest.approx(0.90, abs=0.06)
    assert shared(of(some), of(changed)) > NEAR_TEXTS


def test_half_of_a_dataset_is_not_nearly_it_and_another_is_nothing_of_it() -> None:
    some = texts(2000)
    assert shared(of(some), of(some[::2])) == pytest.approx(0.5, abs=0.1)
    assert shared(of(some), of(texts(2000, seed=1))) == 0


def test_documents_of_few_words_and_none_have_no_key() -> None:
    assert of(["one two three four", None, ""]) == DocumentList(count=0)
    assert of(["one two three four five"]).count == 1


def test_parts_that_are_merged_are_the_whole(tmp_path: Path) -> None:
    some = texts(500)
    assert documents.merged([of(some[:100]), of(some[100:])]) == of(some)
    for number, part in enumerate((some[:200], some[200:])):
        table = pa.table({"text": pa.array(part, pa.large_string())})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    assert documents.describe(str(tmp_path))[0] == of(some)
