"""The profile of documents: figures by hand, shuffled words are flagged, shards change nothing."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leaderboard.submissions import honesty
from leaderboard.submissions.bundle import Profile
from leaderboard.submissions.documents import describe

PLACES = ("the old harbour", "a quiet library", "the market square", "her garden", "the station")
PEOPLE = ("the teacher", "my neighbour", "a sailor", "the baker", "an engineer")
ACTIONS = ("walked slowly towards", "had always wanted to see", "was on the way to", "lived near")


def documents(number: int) -> list[str]:
    rng = random.Random(7)
    return [
        ". ".join(
            f"{rng.choice(PEOPLE)} {rng.choice(ACTIONS)} {rng.choice(PLACES)}" for _ in range(40)
        )
        for _ in range(number)
    ]


def write(folder: Path, texts: list[str], shards: int = 1) -> str:
    folder.mkdir()
    for shard in range(shards):
        pq.write_table(pa.table({"text": texts[shard::shards]}), folder / f"{shard}.parquet")
    return str(folder)


def profile(uri: str, *, items: pa.Array | None) -> Profile | None:
    """The profile of what is in a folder."""
    return describe(uri, items=items)[1]


def notices(made: Profile | None) -> list[str]:
    case = SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(profile=made)))
    return [notice.rule for notice in honesty.profile(cast("Any", case))]


def test_shuffled_words_are_flagged_and_sentences_are_not(tmp_path: Path) -> None:
    texts = documents(60)
    honest = profile(write(tmp_path / "honest", texts), items=None)
    mixed = []
    for text in texts:
        words = text.split(" ")
        random.Random(3).shuffle(words)
        mixed.append(" ".join(words))
    shuffled = profile(write(tmp_path / "shuffled", mixed), items=None)
    assert honest is not None
    assert shuffled is not None
    assert honest.order < 0.9 < 0.97 < shuffled.order
    assert notices(honest) == notices(None) == []
    assert notices(shuffled) == ["honesty.profile"]


def test_lengths_and_the_cost_of_questions_by_hand(tmp_path: Path) -> None:
    uri = write(tmp_path / "d", ["red red blue", "red"])
    made = profile(uri, items=pa.array(["red", "green"]))
    assert made is not None
    assert made.document_words == 2.0
    # Three reds and a blue of two kinds: (3 + 1) / 7 for red, 1 / 7 for a word never seen.
    expected = -(math.log2(4 / 7) + math.log2(1 / 7)) / 2
    assert made.suite_bits == pytest.approx(expected)


def test_the_order_of_rows_and_the_number_of_shards_change_little(tmp_path: Path) -> None:
    texts = documents(40)
    once = profile(write(tmp_path / "a", texts), items=None)
    again = profile(write(tmp_path / "b", list(reversed(texts))), items=None)
    assert once == again
    split = profile(write(tmp_path / "c", texts, shards=4), items=None)
    assert split is not None
    assert once is not None
    assert split.document_words == once.document_words


def test_no_documents_have_no_profile(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "0.parquet")
    assert profile(str(folder), items=None) is None
