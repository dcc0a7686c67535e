"""Merging files of parts: fewer requests, and nothing else is different."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import orjson
import pytest

from pipelines.engine.run import run
from pipelines.execution import once
from pipelines.execution.executors import map_here
from pipelines.formats.pool import open_pool
from pipelines.global_steps import merged_files, near_duplicates
from pipelines.global_steps.group_keys import KeyWriter, find_duplicates, read_verdict
from pipelines.global_steps.merged_files import neighbours
from pipelines.operators import Keys
from pipelines.pipeline import Pipeline
from pipelines.storage import part_files
from pipelines.storage.base import Entry, Writer
from pipelines.storage.commits import Done
from pipelines.storage.local import LocalStore


class CountedReader:
    """A reader of an object store: every read is a request."""

    def __init__(self, file: BinaryIO, requests: Counter[str]) -> None:
        self.file, self.requests = file, requests

    def __enter__(self) -> CountedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, at: int, whence: int = 0) -> int:
        return self.file.seek(at, whence)

    def read(self, size: int) -> bytes:
        self.requests["get"] += 1
        return self.file.read(size)


class ObjectStore:
    """A simulated object store: a folder behind requests that are counted by kind."""

    def __init__(self, folder: Path) -> None:
        self.inner = LocalStore(folder)
        self.uri = "memory://bucket"
        self.requests: Counter[str] = Counter()

    def open(self, name: str) -> BinaryIO:
        self.requests["head"] += 1
        return cast("BinaryIO", CountedReader(self.inner.open(name), self.requests))

    def read_bytes(self, name: str) -> bytes:
        self.requests["get"] += 1
        return self.inner.read_bytes(name)

    def create(self, name: str) -> Writer:
        self.requests["put"] += 1
        return self.inner.create(name)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        entries = list(self.inner.list(prefix))
        self.requests["list"] += -(-len(entries) // 1000)
        return iter(entries)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self.requests["put"] += 1
        return self.inner.put_if_absent(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


SHARDS, PARTS, ROWS = 60, 25, 40


def deduplicated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, few: int
) -> tuple[list[list[int]], str, Counter[str]]:
    """Dropped rows of every shard, the verdict's hash, and the requests that it all took."""
    monkeypatch.setattr(merged_files, "FEW_REQUESTS", few)
    monkeypatch.setattr(part_files, "READERS", 1)  # the counter is not for several threads
    store = ObjectStore(folder)
    monkeypatch.setattr(once, "open_store", lambda uri: store)
    rng = np.random.default_rng(1)
    files = []
    for shard in range(SHARDS):
        writer = KeyWriter(store, f"work/keys-{shard:05d}.parts", PARTS)
        key = rng.integers(0, 900, ROWS).astype(np.uint64)
        key = np.stack([key * np.uint64(0x9E3779B97F4A7C15), key], axis=1)
        zeros = np.zeros(ROWS)
        keys = Keys(np.arange(ROWS), zeros.astype(np.int64), key, zeros.astype(np.uint8))
        writer.add(keys, (shard << 32) + np.arange(ROWS))
        files.append(writer.close().name)
    store.requests.clear()
    verdict, groups = find_duplicates(
        store,
        step=0,
        state="s",
        files=files,
        rank="uint8",
        num_partitions=PARTS,
        shards=SHARDS,
        map_tasks=map_here,
    )
    dropped = [read_verdict(store, verdict, shard)[0].tolist() for shard in range(SHARDS)]
    assert groups.dropped == sum(map(len, dropped)) > 1000
    return dropped, verdict.hash, store.requests


def test_merging_cuts_the_requests_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = deduplicated(tmp_path / "plain", monkeypatch, few=10**9)
    merged = deduplicated(tmp_path / "merged", monkeypatch, few=0)
    assert merged[0] == plain[0]
    # slices of all files to all readers, there and back: a size, an index and a part of each
    assert plain[2]["head"] == 2 * SHARDS * PARTS
    assert plain[2]["get"] >= 3 * SHARDS * PARTS
    # merged into one file each way: every file once, and then one slice a reader
    assert merged[2]["head"] == SHARDS + PARTS
    assert merged[2]["get"] <= 3 * (SHARDS + PARTS) + SHARDS + PARTS
    assert sum(merged[2].values()) < sum(plain[2].values()) / 10


def test_files_are_merged_up_to_what_a_task_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_files, "MERGE_BYTES", 10)
    monkeypatch.setattr(merged_files, "MERGE_FILES", 3)
    assert neighbours([]) == []
    assert neighbours([4, 4, 4, 11, 1, 1, 1, 1]) == [
        range(2),
        range(2, 3),
        range(3, 4),
        range(4, 7),
        range(7, 8),
    ]


def test_large_files_and_files_on_a_disk_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_files, "FEW_REQUESTS", 0)
    (tmp_path / "work").mkdir()
    for name in "ab":
        (tmp_path / "work" / name).write_bytes(b"0123456789")
    names = ["work/a", "work/b"]
    local = merged_files.Merger(LocalStore(tmp_path), 0, "s", map_here)
    assert local("keys", names, readers=10**6) == names
    monkeypatch.setattr(merged_files, "MERGE_BYTES", 15)
    bucket = merged_files.Merger(ObjectStore(tmp_path), 0, "s", map_here)
    assert bucket("keys", names, readers=10**6) == names


EVERY_SHUFFLE = [
    {"exact_dedup": {"normalize": "whitespace_lowercase"}},
    {"minhash_dedup": {}},
    {"substring_dedup": {"length": 12}},
]


def test_a_run_of_every_deduplication_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checked links, joined by parts, and repeated spans."""
    rng = np.random.default_rng(2)
    words = np.array([f"word{number}" for number in range(3000)])
    sentences = [" ".join(rng.choice(words, 15)) for _ in range(60)]
    pages = [" ".join(rng.choice(words, 150)) for _ in range(12)]
    folder = tmp_path / "pool"
    folder.mkdir()
    for shard in range(8):
        texts = []
        for _ in range(12):
            page = str(rng.choice(pages)).split()
            page[int(rng.integers(len(page)))] = "changed"
            texts += [str(rng.choice(pages)), " ".join(page), " ".join(rng.choice(words, 80))]
            texts.append(f"{' '.join(rng.choice(words, 40))} {rng.choice(sentences)} end")
        lines = [orjson.dumps({"text": text}) for text in texts]
        (folder / f"{shard}.jsonl").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(near_duplicates, "MAX_LINKS", 60)  # links are joined by parts
    monkeypatch.setattr("pipelines.engine.run.PARTITION_BYTES", 50_000)  # four parts of the keys
    plain = run(
        Pipeline.from_steps(EVERY_SHUFFLE), open_pool(str(folder)), out=str(tmp_path / "plain")
    )
    merged_kinds = set()

    def counted(task: merged_files.MergeTask) -> Done:
        merged_kinds.add(task.key.split("-")[1].rstrip("0123456789"))
        return run_merge(task)

    run_merge = merged_files.run_merge
    monkeypatch.setattr(merged_files, "run_merge", counted)
    monkeypatch.setattr(merged_files, "FEW_REQUESTS", 0)
    monkeypatch.setattr(merged_files, "LocalStore", ObjectStore)  # as if the folder were a bucket
    merged = run(
        Pipeline.from_steps(EVERY_SHUFFLE), open_pool(str(folder)), out=str(tmp_path / "merged")
    )
    written = [[file.sha256 for file in result.record.outputs] for result in (merged, plain)]
    assert written[0] == written[1]
    assert merged.record.counts == plain.record.counts
    assert 0 < merged.record.counts["rows_out"] < merged.record.counts["rows_in"]
    assert merged_kinds == {
        *("keys", "verdict", "links", "firsts", "sketches", "stars", "spread"),
        *("anchors", "windows", "repeats", "requests", "quotes", "pairs"),
    }
