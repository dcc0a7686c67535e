from __future__ import annotations

import math

import numpy as np
import pytest

from evals.kinds import kind_of, read_data
from evals.metrics import score_of
from evals.models import TokenScores
from tests.evals.helpers import FakeModel, make_task, write_rows


class Letters(FakeModel):
    """A token per character; every token costs one bit."""

    def tokenise(self, texts):
        return [[ord(letter) for letter in text] for text in texts]

    def score(self, queries):
        self.queries = queries
        return [
            [TokenScores(np.full(len(a), math.log(2), np.float32), a) for a in q.continuations]
            for q in queries
        ]


def measure(tmp_path, texts, window):
    task, model = make_task(kind="perplexity"), Letters(vocab_size=9000)
    write_rows(tmp_path / "t.jsonl", [{"text": text} for text in texts])
    data = read_data(task, tmp_path)
    log = kind_of(task).answer(task, data, range(len(texts)), model, window=window)
    return log, score_of(kind_of(task).tally(task, log)), model


def test_bits_per_byte_counts_bytes_not_characters(tmp_path):
    log, score, _ = measure(tmp_path, ["abc", "éé"], window=64)
    assert log["num_bytes"].to_pylist() == [3, 4]
    assert score == pytest.approx(5 / 7)


def test_windows_score_every_token_once_and_start_from_the_token_before(tmp_path):
    log, score, model = measure(tmp_path, ["abcdefg"], window=3)
    asked = [(q.context.tolist(), bytes(q.continuations[0].tolist())) for q in model.queries]
    assert asked == [([0], b"abc"), ([ord("c")], b"def"), ([ord("f")], b"g")]
    assert log["num_tokens"].to_pylist() == [7]
    assert score == pytest.approx(1)
