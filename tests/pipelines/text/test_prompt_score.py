"""Scores by a model behind HTTP, played by a server on loopback: answers, cache, cost, faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.engine.apply import apply
from pipelines.operators import Counted
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.text import chat
from pipelines.text.prompt_score import PromptScore
from tests.chat_server import ChatServer

PROMPT = "Rate this from 0 to 5:\n{text}"


def word_count(prompt: str) -> str:
    """The number of words of what is asked about, and a half."""
    text = prompt.split("\n", 1)[1]
    return f"Score: {len(text.split())}.5" if text else "none"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(chat, "WAIT_SECONDS", 0.01)
    with ChatServer(word_count) as server:
        yield server


def step(endpoint: ChatServer, cache: Path, **more: object) -> PromptScore:
    given = {"url": endpoint.url, "model": "m", "prompt": PROMPT, "cache": str(cache), **more}
    return PromptScore.model_validate(given)


def modified(operator: PromptScore, texts: list[str]) -> Counted:
    rows = pa.array(range(len(texts)), pa.int64())
    return operator.modify(Batch(pa.table({"row": rows, "text": pa.array(texts, STRING)})))


def test_the_number_in_the_answer_is_the_score(endpoint: ChatServer, tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a b", "a b c"], STRING)})
    parameters = step(endpoint, tmp_path / "cache").model_dump(mode="json")
    applied = apply(Pipeline.from_steps([{"prompt_score": parameters}]), table, quarantine=False)
    assert applied.table["score"].to_pylist() == [2.5, 3.5]


def test_an_answer_without_a_number_is_no_score(endpoint: ChatServer, tmp_path: Path) -> None:
    assert modified(step(endpoint, tmp_path), [""]).value["score"].to_pylist() == [None]


def test_nothing_is_asked_twice_and_the_cost_is_the_same(
    endpoint: ChatServer, tmp_path: Path
) -> None:
    prices = {"dollars_in": 2.0, "dollars_out": 10.0, "max_tokens": 4, "at_once": 1}
    first = modified(step(endpoint, tmp_path, **prices), ["a b", "c"])
    second = modified(step(endpoint, tmp_path, **prices), ["a b", "c"])
    assert len(endpoint.prompts) == 2
    assert first.counts == second.counts
    # 26 and 24 bytes of prompt: 7 and 6 tokens at 2 dollars a million; 8 written at 10
    assert first.counts == {
        "requests": 2,
        "tokens_read": 13,
        "tokens_written": 8,
        "micro_dollars": 106,
    }


def test_a_busy_server_is_asked_again(endpoint: ChatServer, tmp_path: Path) -> None:
    endpoint.faults = [503, 429]
    assert modified(step(endpoint, tmp_path), ["a"]).value["score"].to_pylist() == [1.5]
    assert len(endpoint.prompts) == 3


def test_a_refusal_stops_at_once_and_says_what_to_do(endpoint: ChatServer, tmp_path: Path) -> None:
    endpoint.faults = [404, 404]
    with pytest.raises(OSError, match=r"did not answer \(404 Not Found\); is the server running"):
        modified(step(endpoint, tmp_path), ["a"])
    assert len(endpoint.prompts) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"prompt": "rate it"}, "does not hold"), ({"pattern": r"\d+"}, "has no group")],
)
def test_a_prompt_or_pattern_that_cannot_work_is_refused(
    endpoint: ChatServer, tmp_path: Path, wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        step(endpoint, tmp_path, **wrong)
