"""Passes that two pipelines begin with run once, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import forget_work, run
from pipelines.engine.shard import run_shard
from pipelines.execution.executors import map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.storage.base import StorageError
from pipelines.storage.open import open_store


@pytest.fixture
def pool(tmp_path: Path) -> str:
    folder = tmp_path / "pool"
    folder.mkdir()
    for shard in range(3):
        texts = [f"page {n % 7} of the shard has {'word ' * n}" for n in range(20)]
        pq.write_table(pa.table({"text": texts}), folder / f"{shard}.parquet")
    return str(folder)


def pipeline(least: int) -> Pipeline:
    steps: list[Any] = ["exact_dedup", {"word_count": {"min_words": least}}]
    return Pipeline.from_steps(steps, name=f"least-{least}")


class Counting:
    """Runs tasks here and counts the shards."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def __call__(self, function: Any, items: Sequence[Any], **options: Any) -> Any:
        if function is run_shard:
            self.passes += [task.number for task in items]
        return map_here(function, items, **options)


def test_the_pass_before_the_difference_runs_once(pool: str, tmp_path: Path) -> None:
    opened = open_pool(pool)
    first = run(pipeline(8), opened, out=str(tmp_path / "a"), keep_work=True)
    counting = Counting()
    shared = run(
        pipeline(12),
        opened,
        out=str(tmp_path / "b"),
        share=str(tmp_path / "a"),
        map_tasks=counting,
    )
    assert counting.passes == [1, 1, 1]
    alone = run(pipeline(12), opened, out=str(tmp_path / "c"))
    assert shared.record.id == alone.record.id
    assert shared.record.counts["rows_out"] < first.record.counts["rows_out"]
    names = [
        sorted(e.name.split(".")[0] for e in open_store(str(tmp_path / part)).list("work/"))
        for part in ("b", "c")
    ]
    assert names[0] == names[1]  # nothing stays that its own run would not leave
    kept = open_store(str(tmp_path / "a"))
    forget_work(kept, first.record)
    assert [e.name for e in kept.list("work/") if e.name.endswith(".parquet")] == []


def test_what_the_other_run_forgot_is_made_again(pool: str, tmp_path: Path) -> None:
    opened = open_pool(pool)
    run(pipeline(8), opened, out=str(tmp_path / "a"))
    counting = Counting()
    other = {"share": str(tmp_path / "a"), "map_tasks": counting}
    run(pipeline(12), opened, out=str(tmp_path / "b"), **other)  # type: ignore[arg-type]
    assert counting.passes == [0, 0, 0, 1, 1, 1]


def test_a_damaged_file_is_not_taken(pool: str, tmp_path: Path) -> None:
    opened = open_pool(pool)
    run(pipeline(8), opened, out=str(tmp_path / "a"), keep_work=True)
    work = tmp_path / "a" / "work"
    for path in work.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="does not match its commit's checksum"):
        run(pipeline(12), opened, out=str(tmp_path / "b"), share=str(tmp_path / "a"))
