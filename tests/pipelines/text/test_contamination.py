"""Evaluation items in documents: found by 13 words, counted per task, dropped or marked."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.assets.catalogue import Assets
from pipelines.engine.apply import apply
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.text.contamination import ItemGrams, read_items, word_hashes

QUESTION = "Which of the seven hills of Rome is the tallest one that tourists still climb today"
SHORT = "How many legs does a fully grown spider have"
TINY = "Why is it?"


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    rows = [("hills", 0, QUESTION), ("legs", 0, SHORT), ("tiny", 0, TINY)]
    table = pa.table(dict(zip(("task", "item", "text"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "items.parquet")
    return Assets(folders=(tmp_path,))


def applied(step: Any, texts: list[str], assets: Assets) -> Any:
    table = pa.table({"text": texts})
    return apply(Pipeline.from_steps([step], assets=assets), table, quarantine=False)


DOCUMENTS = [
    f"Quiz night! {QUESTION.upper()}? Answers below.",
    "Which of the seven hills of Rome is the tallest one that",  # 12 words of it
    f"1. {SHORT}, and why?",
    "How many legs does a fully grown spider",  # one word short of the whole
    f"{TINY} {TINY}",
    "Nothing of that kind stands here.",
    f"{SHORT} -- {QUESTION}",
]


def test_documents_with_an_item_go(assets: Assets) -> None:
    result = applied({"decontaminate": {"items": "items.parquet"}}, DOCUMENTS, assets)
    assert result.table["row"].to_pylist() == [1, 3, 4, 5]
    assert set(result.rejected["reason"].to_pylist()) == {"holds_evaluation_item"}
    assert result.stats.step(0).counters == {"documents with hills": 2, "documents with legs": 2}


def test_documents_with_an_item_are_marked(assets: Assets) -> None:
    result = applied({"mark_contamination": {"items": "items.parquet"}}, DOCUMENTS, assets)
    marks = result.table["contamination"].to_pylist()
    assert marks == ["hills", None, "legs", None, None, None, "hills,legs"]


def plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())


def test_agrees_with_a_search_over_all_n_grams() -> None:
    rng = np.random.default_rng(4)
    vocabulary = np.array(["a", "b", "Ä", "c_d", "e'f", "7"])
    items = [" ".join(rng.choice(vocabulary, rng.integers(1, 9))) for _ in range(80)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(0, 30))) for _ in range(200)]
    names = [f"t{n % 7}" for n in range(80)]
    table = pa.table({"task": names, "item": range(80), "text": items})
    grams = ItemGrams(table, ngram=4)
    rows, actual = grams.occurrences(pa.array(texts, STRING))
    expected = []
    for index, text in enumerate(texts):
        words = plain_words(text)
        for number, item in enumerate(items):
            asked = plain_words(item)
            if len(asked) < 4:
                continue
            own = {tuple(asked[i : i + 4]) for i in range(len(asked) - 3)}
            if own & {tuple(words[i : i + 4]) for i in range(len(words) - 3)}:
                expected.append((index, number))
    assert list(zip(rows.tolist(), actual.tolist(), strict=True)) == expected
    assert len(expected) > 100


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_words_are_runs_of_letters_and_digits(text: str) -> None:
    clean = text.encode("utf-8", "ignore").decode()
    array = pa.array([clean, clean], STRING)
    hashes, borders = word_hashes(array)
    lowered = unicodedata.normalize("NFC", clean).lower()
    if lowered == "".join(c.lower() for c in unicodedata.normalize("NFC", clean)):
        assert borders.tolist()[1] == len(plain_words(clean))
    half = len(hashes) // 2
    assert (hashes[:half] == hashes[half:]).all()


def test_a_wrong_items_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="is not a parquet file"):
        read_items(tmp_path / "x.parquet")
    pq.write_table(pa.table({"task": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match="no column 'item'"):
        read_items(tmp_path / "y.parquet")
    empty = pa.table({"task": pa.array([], STRING), "item": [], "text": pa.array([], STRING)})
    pq.write_table(empty, tmp_path / "z.parquet")
    with pytest.raises(ValueError, match="has no items"):
        read_items(tmp_path / "z.parquet")
