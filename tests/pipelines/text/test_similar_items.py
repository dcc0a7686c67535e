"""Planted leaks of real questions in real pages, and pages without any."""

from __future__ import annotations

import bz2
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from pipelines.schema import STRING
from pipelines.text.similar_items import MIN_SCORE, SimilarItems, passage

WORDS = [f"word{number}" for number in range(40)]


def items_of(*texts: str) -> pa.Table:
    return pa.table({"task": ["t"] * len(texts), "text": pa.array(texts, STRING)})


def scores(items: list[str], text: str) -> dict[int, float]:
    matches = SimilarItems(items_of(*items)).matches(pa.array([text], STRING))
    return dict(zip(matches.item.tolist(), matches.score.tolist(), strict=True))


def test_a_copy_scores_one_and_the_first_half_a_half() -> None:
    item = " ".join(WORDS[:12])  # eight 5-grams, each in one item
    assert scores([item], f"before {item.upper()}, after") == {0: 1.0}
    assert scores([item], " ".join(WORDS[:8])) == {0: 0.5}


def test_words_far_apart_are_not_one_copy() -> None:
    item = " ".join(WORDS[:12])
    apart = [*WORDS[:8], *["x"] * 30, *WORDS[4:12]]
    assert scores([item], " ".join(apart)) == {0: 0.5}
    near = [*WORDS[:6], "x", *WORDS[6:12]]  # 2 + 2 of 8
    assert scores([item], " ".join(near)) == {0: 0.5}


def test_what_two_items_share_weighs_less() -> None:
    shared, own = WORDS[:7], WORDS[7:14]
    items = [" ".join(shared + own), " ".join(shared + WORDS[20:27])]
    of_shared = scores(items, " ".join(shared))[0]
    of_own = scores(items, " ".join(own))[0]
    assert 0 < of_shared < of_own  # both are three of ten 5-grams


def test_six_words_of_a_question_are_english() -> None:
    item = "Which of the following is an example of imprinting"
    assert scores([item], "The following is an example of its use.") == {0: 0}
    assert scores([item], "the following is an example of imprinting.")[0] > 0.5


def test_short_items_and_those_of_common_words_alone_are_named() -> None:
    common = [" ".join([*WORDS[:8], *[f"{n}-{k}" for k in range(3)]]) for n in range(150)]
    similar = SimilarItems(items_of(" ".join(WORDS[:7]), " ".join(WORDS[:8]), *common))
    assert similar.too_short.tolist() == [True, True, *[False] * 150]


def test_the_passage_is_cut_at_words() -> None:
    assert passage("Oh, what a Day! (Really.)", 1, 3) == "what a Day"
    assert passage("une cafe\u0301 noir", 1, 1) == "caf\u00e9"


# ---- on real questions and pages


@pytest.fixture(scope="module")
def questions(data: Path) -> list[str]:
    with bz2.open(data / "eval" / "hellaswag_val_full.txt.bz2", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    rows = range(0, 6 * 4000, 6)
    return [f"{lines[row]} {lines[row + 2 + int(lines[row + 1])]}" for row in rows]


@pytest.fixture(scope="module")
def similar(questions: list[str]) -> SimilarItems:
    return SimilarItems(items_of(*questions))


@pytest.fixture(scope="module")
def pages(data: Path) -> list[str]:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        return [orjson.loads(line)["text"] for line in file]


def paraphrased(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    """Every tenth word, one at least, is another one, and capitals are shuffled."""
    words = text.split()
    for at in chance.sample(range(len(words)), max(1, round(0.1 * len(words)))):
        words[at] = chance.choice(vocabulary)
    return " ".join(word.upper() if chance.random() < 0.3 else word for word in words)


def shortened(text: str, chance: random.Random, vocabulary: list[str]) -> str:
    words = text.split()
    return " ".join(words[: max(8, round(0.6 * len(words)))])


@pytest.mark.parametrize(
    ("change", "recall"),
    [(lambda text, *_: text, 0.98), (paraphrased, 0.9), (shortened, 0.9)],
    ids=["exact", "paraphrased", "truncated"],
)
def test_planted_leaks_are_found(
    change: Callable[..., str],
    recall: float,
    questions: list[str],
    pages: list[str],
    similar: SimilarItems,
) -> None:
    chance = random.Random(3)
    vocabulary = [word for page in pages[::40] for word in page.split()]
    planted = chance.sample(range(len(questions)), 400)
    documents = []
    for item in planted:
        words = chance.choice(pages).split()[:200]
        words.insert(chance.randrange(len(words) + 1), change(questions[item], chance, vocabulary))
        documents.append(" ".join(words))
    matches = similar.matches(pa.array(documents, STRING)).at_least(MIN_SCORE)
    pairs = set(zip(matches.row.tolist(), matches.item.tolist(), strict=True))
    num_leaks = sum((row, item) in pairs for row, item in enumerate(planted))
    assert num_leaks >= recall * len(planted)


def test_pages_without_questions_are_not_accused(pages: list[str], similar: SimilarItems) -> None:
    # windows of 100 words: 22,000 documents, of which at most 1e-4 may be accused
    windows = []
    for page in pages:
        words = page.split()
        windows += [" ".join(words[k : k + 100]) for k in range(0, len(words), 100)]
    accused = similar.matches(pa.array(windows, STRING)).at_least(MIN_SCORE)
    assert len(set(accused.row.tolist())) <= 1e-4 * len(windows)
