"""Texts written anew by a model behind HTTP, played by a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Writer:
    """Answers with the text in capitals; nothing for a text of one word. Counts 7 and 3 tokens."""

    def __init__(self) -> None:
        self.requests = 0
        writer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = asked["messages"][0]["content"].partition("\n")[2]
                writer.requests += 1
                answer = text.upper() if len(text.split()) > 1 else " "
                body = json.dumps(
                    {
                        "choices": [{"message": {"content": answer}}],
                        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
                    }
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/chat/completions"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def writer() -> Iterator[Writer]:
    server = Writer()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def pool(tmp_path: Path) -> str:
    (tmp_path / "pool").mkdir()
    for shard, texts in enumerate([["one two", "alone"], ["three four five", "one two"]]):
        lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
        (tmp_path / "pool" / f"{shard}.jsonl").write_bytes(lines)
    return str(tmp_path / "pool")


def rephrased(
    writer: Writer, pool: str, folder: Path, map_tasks: MapTasks = map_here, **more: Any
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
    writer: Writer, pool: str, tmp_path: Path
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
    made = price(result.summary, dollars_cpu_hour=0.036)
    assert sum(step.model_dollars for step in made.steps) == pytest.approx(148e-6)
    seconds = sum(step.cpu_seconds for step in made.steps)
    assert sum(step.cpu_dollars for step in made.steps) == pytest.approx(seconds * 1e-5, abs=2e-8)


def test_nothing_is_asked_twice_and_processes_agree(
    writer: Writer, pool: str, tmp_path: Path
) -> None:
    first = rephrased(writer, pool, tmp_path)
    asked = writer.requests
    (tmp_path / "b").mkdir()
    (tmp_path / "cache").rename(tmp_path / "b" / "cache")
    again = rephrased(writer, pool, tmp_path / "b", ProcessMap(2))
    assert writer.requests == asked
    assert rows(again, tmp_path / "b") == rows(first, tmp_path)
    assert again.record.counts == first.record.counts  # what it costs somebody without the cache


def test_empty_answers_may_reject_the_document(writer: Writer, pool: str, tmp_path: Path) -> None:
    result = rephrased(writer, pool, tmp_path, empty="reject", original=None)
    assert [text for text, _ in rows(result, tmp_path)] == [
        "ONE TWO",
        "THREE FOUR FIVE",
        "ONE TWO",
    ]
    assert result.record.counts["rejected/1/rephrase/empty_answer"] == 1
