"""Bits per byte on documents of one's own, shard by shard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from evals.__main__ import app
from evals.document_perplexity import measure, ratio_error
from evals.models import ModelError
from evals.nulls import NullModel
from evals.tasks import EvalError
from pipelines.console import main
from pipelines.execution.executors import ProcessMap
from tests.evals.helpers import FakeModel, write_rows

LETTERS = "abcdefgh"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three shards of documents of 1 to 8 bytes, one without a text in each."""
    for shard in range(3):
        rows: list[dict[str, Any]] = [{"text": LETTERS[: n + 1]} for n in range(8)]
        write_rows(tmp_path / "set" / f"{shard}.jsonl", [*rows, {"text": ""}])
    return tmp_path / "set"


def test_bits_and_bytes_add_up_over_shards(dataset: Path, tmp_path: Path) -> None:
    """The model pays 2 nats a document, which it reads as one token."""
    actual = measure(FakeModel(), str(dataset), str(tmp_path / "out"), window=64)
    assert (actual.num_documents, actual.num_empty) == (24, 3)
    assert (actual.num_bytes, actual.num_tokens) == (3 * 36, 24)
    assert actual.bits_per_byte == pytest.approx(2 * 24 / math.log(2) / 108)
    assert actual.perplexity == pytest.approx(math.exp(2))


def test_a_run_continues_with_the_shards_that_are_not_done(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = measure(FakeModel(), str(dataset), str(out), window=64)
    next((out / "done").iterdir()).unlink()
    model = FakeModel()
    assert measure(model, str(dataset), str(out), window=64) == whole
    assert model.num_questions == 8
    again = FakeModel()
    assert measure(again, str(dataset), str(out), window=64) == whole
    assert again.num_questions == 0


def test_processes_measure_the_same(dataset: Path, tmp_path: Path) -> None:
    first = measure(FakeModel(), str(dataset), str(tmp_path / "a"), window=64)
    spread = ProcessMap(2)
    other = measure(FakeModel(), str(dataset), str(tmp_path / "b"), window=64, map_tasks=spread)
    spread.close()
    assert other == first


def test_another_window_is_another_measurement(dataset: Path, tmp_path: Path) -> None:
    measure(FakeModel(), str(dataset), str(tmp_path / "out"), window=64)
    model = FakeModel()
    measure(model, str(dataset), str(tmp_path / "out"), window=32)
    assert model.num_questions == 24


def test_a_window_that_the_model_cannot_read_is_refused(dataset: Path, tmp_path: Path) -> None:
    model = FakeModel()
    model.max_length = 16
    with pytest.raises(EvalError, match="reads 16 tokens at most"):
        measure(model, str(dataset), str(tmp_path / "out"), window=64)


def test_a_dataset_without_documents_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "set" / "0.jsonl", [{"text": ""}])
    with pytest.raises(EvalError, match="holds no document with a text"):
        measure(FakeModel(), str(tmp_path / "set"), str(tmp_path / "out"), window=64)


@pytest.mark.parametrize(
    ("null", "message"),
    [
        ("zeros", "sum to 257 over 257 ids, not to 1"),
        ("negative", "probabilities of the next token sum to"),
        ("nan", "sum to nan"),
    ],
)
def test_losses_that_are_none_are_refused(
    null: str, message: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        measure(NullModel(null), str(dataset), str(tmp_path / "out"), window=64)


def test_a_tokenizer_that_leaves_text_out_is_refused(dataset: Path, tmp_path: Path) -> None:
    """One token a document would be 2 bits a byte, and no text is in it."""

    class First(NullModel):
        def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
            return super().tokenise([text[:1] for text in texts])

    with pytest.raises(ModelError, match=r"of the text's letters can be read back"):
        measure(First("uniform"), str(dataset), str(tmp_path / "out"), window=64)


def test_the_error_of_a_ratio() -> None:
    """Of 1/1 and 3/1: the ratio is 2, each is 1 apart, sqrt(2 / 1 * 2) / 2 = 1."""
    import numpy as np

    assert ratio_error(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert ratio_error(np.array([1.0]), np.array([1.0])) is None


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--batch-tokens", "64", "--exact"]])
def test_the_command_prints_what_it_measured(
    more: list[str], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["perplexity", "null:uniform", str(dataset), "--out", str(tmp_path / "o"), "--json"]
    with pytest.raises(SystemExit) as end:
        main(app, [*given, *more])
    assert end.value.code == 0
    value = orjson.loads(capsys.readouterr().out)
    assert value["bits_per_byte"] == pytest.approx(8.0, abs=0.1)  # one of 256 bytes
    assert value["num_documents"] == 24
