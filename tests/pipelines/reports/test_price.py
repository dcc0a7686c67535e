"""What a run costs: the time that a step holds GPUs is counted apart."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipelines.engine import row_steps
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.price import price, price_text

OPERATOR = '''
import time

from pipelines.operators import Filter, because


class Slow(Filter):
    """Wait for two GPUs."""

    reasons = ("never",)

    def needs(self):
        return {"num_gpus": 2}

    def reject(self, batch):
        time.sleep(0.1)
        return because([False] * batch.num_rows, "never")
'''


def curated(tmp_path: Path) -> Result:
    (tmp_path / "mine.py").write_text(OPERATOR)
    (tmp_path / "mine.yaml").write_text(
        "steps:\n  - word_count: {min_words: 1}\n  - mine.py:Slow\n"
    )
    (tmp_path / "in").mkdir()
    for shard in range(2):
        (tmp_path / f"in/{shard}.jsonl").write_bytes(orjson.dumps({"text": "some words"}) + b"\n")
    pool = open_pool(str(tmp_path / "in"))
    return run(Pipeline.load(tmp_path / "mine.yaml"), pool, out=str(tmp_path / "out"))


def test_time_on_gpus_is_priced_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_steps, "has_gpu_here", lambda: True)
    result = curated(tmp_path)
    made = price(result.summary, dollars_cpu_hour=0.0, dollars_gpu_hour=3600.0)
    read, words, slow = made.steps
    assert slow.gpu_seconds >= 2 * 0.1 * 2  # two shards, two GPUs
    assert slow.gpu_dollars == pytest.approx(slow.gpu_seconds, abs=2e-3)
    assert (read.gpu_seconds, words.gpu_seconds) == (0, 0)
    assert made.dollars == pytest.approx(slow.gpu_dollars)
    assert result.record.made_by.figures["gpu_seconds"] == pytest.approx(slow.gpu_seconds)
    assert f"{slow.gpu_seconds:.2f}" in price_text(made)


def test_without_a_gpu_there_is_nothing_to_count(tmp_path: Path) -> None:
    result = curated(tmp_path)
    assert "gpu_seconds" not in result.record.made_by.figures
    made = price(result.summary, dollars_cpu_hour=0.0, dollars_gpu_hour=3600.0)
    assert made.dollars == 0
