"""Shards that fail: the others continue, `retry` redoes only those, or the run omits them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import retry, run
from pipelines.engine.run_folder import Result, RunFailed, refuse_while_running
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.execution.monitor import ShardsFailed, failures, read_progress
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.records import now
from pipelines.reports.status import status, status_text
from pipelines.storage.commits import all_done, unreferenced
from pipelines.storage.local import LocalStore

FAILING = '''
import os
import pyarrow as pa
from pydantic import Field
from pipelines.operators import Filter, because


class NeedsFile(Filter):
    """Reject documents of few words; fails on some while a file is not there."""

    path: str = Field(description="the file")
    word: str = Field(description="documents with it need the file")
    reasons = ("short",)

    def reject(self, batch):
        for text in batch.text.to_pylist():
            if self.word in text.split() and not os.path.exists(self.path):
                raise ValueError(f"cannot do {text!r} now")
        return because([len(text.split()) < 3 for text in batch.text.to_pylist()], "short")
'''


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Six shards of 20 documents; every fourth is short, some are equal over all shards."""
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(6):
        rows = [
            {"text": f"shard{shard} says number {n}" if n % 2 else f"all say {n}"}
            if n % 4
            else {"text": "short one"}
            for n in range(20)
        ]
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (folder / f"{shard}.jsonl").write_bytes(data)
    return folder


def pipeline_of(tmp_path: Path, *, word: str = "shard3", flag: str = "flag") -> Pipeline:
    (tmp_path / "needs.py").write_text(FAILING)
    steps = [
        {"needs.py:NeedsFile": {"path": str(tmp_path / flag), "word": word}},
        "exact_dedup",
        {"hash_sample": {"fraction": 0.9}},
    ]
    return Pipeline.from_steps(steps, name="needs", folder=tmp_path)


def curate(tmp_path: Path, pool: Path, *, out: str = "out", **options: Any) -> Result:
    return run(pipeline_of(tmp_path), open_pool(str(pool)), out=str(tmp_path / out), **options)


@pytest.mark.parametrize("map_tasks", [map_here, ProcessMap(2)], ids=["here", "processes"])
def test_one_bad_shard_does_not_stop_the_others_and_retry_redoes_only_it(
    pool: Path, tmp_path: Path, map_tasks: MapTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ShardsFailed, match=r"1 of 6 shards failed.* 3\.jsonl: .*cannot do 'shard3"):
        curate(tmp_path, pool, map_tasks=map_tasks, max_failed_shards=2)
    store = LocalStore(out)
    before = {done.key: done.at for done in all_done(store)}
    assert len(before) == 5
    [failure] = failures(store)
    assert (failure.shard, failure.name) == (3, "3.jsonl")
    shown = status_text(status(store))
    assert "failed: 1 shards; redo them: pipelines retry RUN" in shown
    assert "cannot do 'shard3" in shown

    (tmp_path / "flag").touch()
    monkeypatch.chdir(pool)  # whoever resumes it, wherever: the folder is enough
    result = retry(str(out), map_tasks=map_tasks)
    assert {key: done.at for key, done in _commits(store).items() if key in before} == before
    assert failures(store) == []
    assert list(store.list("failed/")) == []
    calm = curate(tmp_path, pool, out="calm")
    assert result.record.id == calm.record.id
    assert result.summary.stats == calm.summary.stats


def _commits(store: LocalStore) -> dict[str, Any]:
    return {done.key: done for done in all_done(store)}


def test_more_failures_than_allowed_stop_the_run_with_the_error(pool: Path, tmp_path: Path) -> None:
    everywhere = pipeline_of(tmp_path, word="all")
    with pytest.raises(OperatorFailed, match=r"cannot do 'all say"):
        run(
            everywhere,
            open_pool(str(pool)),
            out=str(tmp_path / "out"),
            max_failed_shards=2,
        )
    assert len(failures(LocalStore(tmp_path / "out"))) == 3


def test_a_run_may_go_on_without_the_failed_shards_and_says_so(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ShardsFailed):
        curate(tmp_path, pool, max_failed_shards=6)
    before = set(_commits(LocalStore(out)))
    result = retry(str(out), exclude_failed=True)
    assert before <= set(_commits(LocalStore(out)))
    assert result.record.work.output["excluded"] == ["3.jsonl"]
    assert result.record.counts["rows_in"] == 100
    assert status(LocalStore(out)).excluded == ("3.jsonl",)

    assert retry(str(out), exclude_failed=True).skipped

    (pool / "3.jsonl").write_bytes(b"")
    without = curate(tmp_path, pool, out="without")
    assert _texts(out, result) == _texts(tmp_path / "without", without)
    assert result.record.key != without.record.key


def _texts(out: Path, result: Result) -> list[str]:
    files = [out / file.name for file in result.record.outputs]
    return [text for file in files for text in pq.read_table(file).column("text").to_pylist()]


def test_retry_of_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"holds no run: there is no run\.json"):
        retry(str(tmp_path))


def test_an_unreadable_shard_is_set_aside_whole_and_counts_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0.parquet").write_bytes(b"PAR1 this is not a parquet file PAR1")
    for name in ("1.parquet", "2.parquet"):
        pq.write_table(pa.table({"text": ["one two three"] * 5}), folder / name)
    pipeline = Pipeline.from_steps(["exact_dedup", {"word_count": {"min_words": 2}}])
    result = run(pipeline, open_pool(str(folder)), out=str(tmp_path / "out"), quarantine=True)
    assert result.record.counts["rows_in"] == 11  # the broken file counts as one
    assert (result.record.counts["errors"], result.record.counts["rows_out"]) == (1, 1)
    [line] = [
        orjson.loads(line)
        for path in (tmp_path / "out" / "quarantine").iterdir()
        for line in path.read_bytes().splitlines()
    ]
    assert line["shard"] == "0.parquet"
    assert "is not a parquet file" in line["error"]


def test_progress_and_events_tell_what_happened(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    result = curate(tmp_path, pool)
    store = LocalStore(tmp_path / "out")
    events = [orjson.loads(line) for line in store.read_bytes("events.jsonl").splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "finished"
    assert events[-1]["id"] == result.record.id
    titles = [event["title"] for event in events if event["event"] == "stage"]
    assert titles[0] == "needs: pass 1 of 3"
    assert "needs: exact_dedup: group" in titles
    progress = read_progress(store)
    assert progress is not None
    assert (progress.state, progress.tasks, progress.done) == ("finished", 6, 6)
    assert progress.node_seconds > 0
    assert status(store).state == "done"
    assert unreferenced(store, folders=("data", "rejected")) == []


def test_a_run_whose_driver_is_at_work_is_not_cleaned(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardsFailed):
        curate(tmp_path, pool, max_failed_shards=1)
    store = LocalStore(tmp_path / "out")
    refuse_while_running(store, what="cleaning")  # its driver said that it stopped
    progress = read_progress(store)
    assert progress is not None
    assert status(store).state == "stopped"

    def said(**fields: str) -> None:
        os.remove(tmp_path / "out" / "progress.json")
        data = progress.model_copy(update=fields).model_dump_json().encode()
        assert store.put_if_absent("progress.json", data)

    said(state="running", updated=now())
    assert status(store).state == "running"
    with pytest.raises(RunFailed, match="is in use by"):
        refuse_while_running(store, what="cleaning")
    said(state="running", updated="2026-01-01T00:00:00Z")
    assert status(store).state == "silent"
    assert "it may be dead" in status_text(status(store))
