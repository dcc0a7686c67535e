"""Shards that somebody writes anew while a run is at them: here, in a bucket, on the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from huggingface_hub import HfFileSystem

from pipelines.engine.run import run
from pipelines.execution.executors import map_here
from pipelines.formats.pool import Pool, open_pool
from pipelines.formats.shard_identity import Identity, ShardChanged, content_hash, same_bytes
from pipelines.pipeline import Pipeline
from pipelines.records import RecordError
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store
from tests.hub_server import HubServer

STEPS = [{"count_words": {"overwrite": True}}, "exact_dedup", {"word_count": {"min_words": 1}}]


def lines(word: str) -> bytes:
    return b"".join(orjson.dumps({"text": f"{word} {n}"}) + b"\n" for n in range(5))


def write(path: Path, data: bytes) -> None:
    """Write a file whose time of change is another one, on disks that count seconds too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    later = path.stat().st_mtime + 2 if path.exists() else None
    path.write_bytes(data)
    if later is not None:
        os.utime(path, (later, later))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        write(tmp_path / "pool" / f"{name}.jsonl", lines(name))
    return tmp_path / "pool"


def curate(pool: Pool, out: Path, map_tasks: Any = map_here) -> Any:
    return run(Pipeline.from_steps(STEPS), pool, out=str(out), map_tasks=map_tasks)


def refused(pool: Pool, out: Path, map_tasks: Any = map_here) -> None:
    with pytest.raises(ShardChanged, match=r"two\.jsonl was changed after the pool was listed"):
        curate(pool, out, map_tasks)
    assert not (out / "record.json").exists()


def test_other_bytes_of_the_same_length_are_refused(folder: Path, tmp_path: Path) -> None:
    pool = open_pool(str(folder))
    write(folder / "two.jsonl", lines("owt"))
    refused(pool, tmp_path / "out")


def test_the_same_bytes_written_again_are_the_same_shard(folder: Path, tmp_path: Path) -> None:
    pool = open_pool(str(folder))
    write(folder / "two.jsonl", lines("two"))
    assert curate(pool, tmp_path / "out").record.counts["rows_out"] == 10


def test_a_change_between_passes_is_refused(folder: Path, tmp_path: Path) -> None:
    def changing(function: Callable[[Any], Any], tasks: Iterable[Any], **options: Any) -> Any:
        yield from map_here(function, tasks, **options)
        if function.__name__ == "run_shard":
            write(folder / "two.jsonl", lines("owt"))

    pool = open_pool(str(folder))
    steps = ["exact_dedup", {"word_count": {"min_words": 1}}]  # the second pass reads the input
    with pytest.raises(ShardChanged, match=r"two\.jsonl"):
        run(Pipeline.from_steps(steps), pool, out=str(tmp_path / "out"), map_tasks=changing)


def test_a_change_while_it_is_read_is_refused_even_where_reading_failed(folder: Path) -> None:
    store = LocalStore(folder)
    identity = Identity(sha256=content_hash(store, "two.jsonl"), stamp=store.stamp("two.jsonl"))

    def read(*, fails: bool) -> None:
        with same_bytes(store, "two.jsonl", identity):
            write(folder / "two.jsonl", lines("owt"))
            if fails:
                raise ValueError("half a line")

    for fails in (False, True):
        write(folder / "two.jsonl", lines("two"))
        with pytest.raises(ShardChanged):
            read(fails=fails)


def test_a_file_that_is_not_what_its_pool_record_says_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    curate(open_pool(str(folder)), tmp_path / "made")
    [part] = sorted((tmp_path / "made" / "data").glob("00000*"))
    before = part.read_bytes()
    middle = len(before) // 2
    write(part, before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    with pytest.raises(ShardChanged, match=part.name):
        curate(open_pool(str(tmp_path / "made")), tmp_path / "out")
    write(part, before + b"\n")
    with pytest.raises(RecordError, match=f"{part.name} has .* bytes.*copy it again"):
        open_pool(str(tmp_path / "made"))
    write(part, before)
    assert (
        curate(open_pool(str(tmp_path / "made")), tmp_path / "out2").record.counts["rows_in"] == 10
    )


def test_an_object_that_was_put_again_is_refused(bucket: str, tmp_path: Path) -> None:
    store = open_store(f"{bucket}/pool")
    for name in ("one", "two"):
        write_bytes(store, f"{name}.jsonl", lines(name))
    pool = open_pool(store.uri)
    write_bytes(store, "two.jsonl", lines("two"))
    assert curate(pool, tmp_path / "same").record.counts["rows_out"] == 10
    write_bytes(store, "two.jsonl", lines("owt"))
    refused(pool, tmp_path / "other")


def test_a_range_of_an_object_that_was_put_again_is_not_mixed_with_the_old(bucket: str) -> None:
    store = open_store(f"{bucket}/pool")
    write_bytes(store, "a.bin", b"old" * (4 << 20))
    with store.open("a.bin") as file:
        assert file.read(3) == b"old"
        write_bytes(store, "a.bin", b"new" * (4 << 20))
        file.seek(11 << 20)
        with pytest.raises(OSError, match="was changed while it was being read"):
            file.read(3)


def test_a_file_of_the_hub_that_was_pushed_again_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for name in ("one", "two"):
        write(tmp_path / "hub" / "a" / "b" / f"{name}.jsonl", lines(name))
    server = HubServer(tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    HfFileSystem.clear_instance_cache()
    try:
        pool = open_pool("hf://datasets/a/b")
        write(tmp_path / "hub" / "a" / "b" / "two.jsonl", lines("owt"))
        refused(pool, tmp_path / "out")
    finally:
        HfFileSystem.clear_instance_cache()
        server.stop()
