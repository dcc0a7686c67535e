"""Texts written anew by a model behind HTTP, played by a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.price import price
from tests.chat_server import ChatServer


def capitals(prompt: str) -> str:
    """The text in capitals; nothing for a text of one word."""
    text = prompt.partition("\n")[2]
    return text.upper() if len(text.split()) > 1 else " "


@pytest.fixture
def writer() -> Iterator[ChatServer]:
    with ChatServer(capitals) as server:
        yield server


@pytest.fixture
def pool(tmp_path: Path) -> str:
    (tmp_path / "pool").mkdir()
    for shard, texts in enumerate([["one two", "alone"], ["three four five", "one two"]]):
        lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
        (tmp_path / "pool" / f"{shard}.jsonl").write_bytes(lines)
    return str(tmp_path / "pool")


def rephrased(
    writer: ChatServer, pool: str, folder: Path, map_tasks: MapTasks = map_here, **more: Any
) -> Result:
    step = {
        "rephrase": {
            "url": writer.url,
            "model": "m",
            "prompt": "Write anew:\n{text}",
            "cache": str(folder / "cache"),
            "dollars_in": 1.0,
            "dollars_out": 10.0,
            **more,
        }
    }
    out = str(folder / "out")
    pipeline = Pipeline.from_steps([step], name="r")
    return run(pipeline, open_pool(pool), out=out, map_tasks=map_tasks)


def rows(result: Result, folder: Path) -> list[tuple[str | None, str | None]]:
    tables = [pq.read_table(folder / "out" / file.name) for file in result.record.outputs]
    return [(row["text"], row.get("original")) for table in tables for row in table.to_pylist()]


def test_texts_are_replaced_and_those_before_are_kept(
    writer: ChatServer, pool: str, tmp_path: Path
) -> None:
    result = rephrased(writer, pool, tmp_path)
    assert rows(result, tmp_path) == [
        ("ONE TWO", "one two"),
        ("alone", "alone"),
        ("THREE FOUR FIVE", "three four five"),
        ("ONE TWO", "one two"),
    ]
    counts = result.record.counts
    assert counts["tokens_read/1/rephrase"] == 4 * 7
    assert counts["tokens_written/1/rephrase"] == 4 * 3
    assert counts["micro_dollars/1/rephrase"] == 4 * (7 * 1 + 3 * 10)
    assert result.summary.stats.steps[1].counters["empty_answers"] == 1
    made = price(result.summary, dollars_cpu_hour=0.036, dollars_gpu_hour=0.0)
    assert sum(step.model_dollars for step in made.steps) == pytest.approx(148e-6)
    seconds = sum(step.cpu_seconds for step in made.steps)
    assert sum(step.cpu_dollars for step in made.steps) == pytest.approx(seconds * 1e-5, abs=2e-8)


def test_nothing_is_asked_twice_and_processes_agree(
    writer: ChatServer, pool: str, tmp_path: Path
) -> None:
    first = rephrased(writer, pool, tmp_path)
    asked = len(writer.prompts)
    (tmp_path / "b").mkdir()
    (tmp_path / "cache").rename(tmp_path / "b" / "cache")
    again = rephrased(writer, pool, tmp_path / "b", ProcessMap(2))
    assert len(writer.prompts) == asked
    assert rows(again, tmp_path / "b") == rows(first, tmp_path)
    assert again.record.counts == first.record.counts  # what it costs somebody without the cache


def test_empty_answers_may_reject_the_document(
    writer: ChatServer, pool: str, tmp_path: Path
) -> None:
    result = rephrased(writer, pool, tmp_path, empty="reject", original=None)
    assert [text for text, _ in rows(result, tmp_path)] == [
        "ONE TWO",
        "THREE FOUR FIVE",
        "ONE TWO",
    ]
    assert result.record.counts["rejected/1/rephrase/empty_answer"] == 1
