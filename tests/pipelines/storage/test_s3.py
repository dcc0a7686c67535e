"""The S3 store against a real server: the same promises as a folder's."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import RunFailed, refuse_while_running
from pipelines.execution.executors import MapTasks, ProcessMap
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports.status import status, status_text
from pipelines.retries import Patience
from pipelines.storage import s3
from pipelines.storage.base import StorageError, write_bytes
from pipelines.storage.commits import DeterminismError, Done, attempt_name, commit, unreferenced
from pipelines.storage.open import open_store
from pipelines.storage.s3 import PART_BYTES

pytestmark = pytest.mark.s3
ROOT = Path(__file__).parents[3]


def test_small_and_large_objects_read_back(bucket: str) -> None:
    store = open_store(f"{bucket}/prefix")
    small = write_bytes(store, "a/small", b"hello")
    large = bytes(range(256)) * (PART_BYTES // 256 * 2 + 100)
    with store.create("a/large") as writer:
        for start in range(0, len(large), 1 << 20):
            writer.write(large[start : start + (1 << 20)])
    assert store.read_bytes("a/small") == b"hello"
    assert store.read_bytes("a/large") == large
    assert (small.num_bytes, writer.file().num_bytes) == (5, len(large))
    assert [e.name for e in store.list()] == ["a/large", "a/small"]
    assert [e.num_bytes for e in store.list("a/s")] == [5]


def test_ranges_are_read_without_the_rest(bucket: str) -> None:
    store = open_store(bucket)
    table = pa.table({"n": range(100_000), "text": ["x" * 20] * 100_000})
    with store.create("t.parquet") as writer:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=10_000)
        writer.write(sink.getvalue())
    with store.open("t.parquet") as file:
        assert pq.ParquetFile(file).read_row_group(7).column("n")[0].as_py() == 70_000
    with store.open("t.parquet") as file:
        file.seek(-4, 2)
        assert file.read() == b"PAR1"


def test_an_error_while_writing_leaves_nothing(bucket: str) -> None:
    store = open_store(bucket)
    with pytest.raises(RuntimeError), store.create("x") as writer:  # noqa: PT012
        writer.write(b"z" * (PART_BYTES + 1))
        raise RuntimeError
    assert list(store.list()) == []
    assert list(store.unfinished()) == []


def test_exactly_one_of_many_puts_wins(bucket: str) -> None:
    store = open_store(bucket)
    with ThreadPoolExecutor(8) as threads:
        wins = list(threads.map(lambda n: store.put_if_absent("done/k", b"%d" % n), range(8)))
    assert sum(wins) == 1
    assert store.read_bytes("done/k") == b"%d" % wins.index(True)


def test_completing_a_multipart_upload_respects_if_none_match(bucket: str, s3_server: Any) -> None:
    """The done file is small on purpose; this tells whether larger ones could be conditional."""
    from botocore.exceptions import ClientError

    client = s3_server.client()
    name = bucket.removeprefix("s3://")
    client.put_object(Bucket=name, Key="k", Body=b"first")
    upload = client.create_multipart_upload(Bucket=name, Key="k")["UploadId"]
    part = client.upload_part(Bucket=name, Key="k", UploadId=upload, PartNumber=1, Body=b"second")
    try:
        client.complete_multipart_upload(
            Bucket=name,
            Key="k",
            UploadId=upload,
            MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]},
            IfNoneMatch="*",
        )
        refused = False
    except ClientError:
        refused = True
    body = client.get_object(Bucket=name, Key="k")["Body"].read()
    assert body == (b"first" if refused else b"second")


def test_commit_is_the_same_protocol_as_on_disk(bucket: str) -> None:
    store = open_store(f"{bucket}/run")
    first = write_bytes(store, attempt_name("data/0", ".bin"), b"same")
    again = write_bytes(store, attempt_name("data/0", ".bin"), b"same")
    other = write_bytes(store, attempt_name("data/0", ".bin"), b"different")
    standing = commit(store, Done(key="k", files=(first,), host="a"))
    assert commit(store, Done(key="k", files=(again,), host="b")) == standing
    with pytest.raises(DeterminismError):
        commit(store, Done(key="k", files=(other,)))
    assert [e.name for e in unreferenced(store, folders=("data",))] == [other.name]


def test_paging_lists_every_object_once(bucket: str) -> None:
    store = open_store(f"{bucket}/many")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_bytes(store, f"{n:05d}", b""), range(1100)))
    assert [e.name for e in store.list()] == [f"{n:05d}" for n in range(1100)]


def test_missing_objects_and_missing_buckets_are_named(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no object {bucket}/nothing"):
        open_store(bucket).read_bytes("nothing")
    with pytest.raises(ValueError, match="names no bucket"):
        open_store("s3:///x")


SLOW = """
import sys, time
from pathlib import Path
from pipelines.operators import Filter, because
from pipelines.storage import s3 as storage_s3
from pipelines.pipeline import Pipeline
from pipelines.formats.pool import open_pool
from pipelines.engine.run import RunFailed, run
from pipelines.engine.run_folder import refuse_while_running
from pipelines.reports.status import status, status_text


seen = []


class Slow(Filter, name="slow_for_a_test"):
    \"\"\"Keep everything; after the first shard, wait for the test.\"\"\"

    def reject(self, batch):
        seen.append(batch.num_rows)
        while len(seen) > 1 and not Path(sys.argv[2]).exists():
            time.sleep(0.02)
        return because([False] * batch.num_rows, "never")


uri = sys.argv[1]
run(Pipeline.from_steps(["slow_for_a_test"], name="slow"), open_pool(uri + "/in"), out=uri + "/out")
"""


def test_status_is_told_from_elsewhere_while_the_run_goes(bucket: str, tmp_path: Path) -> None:
    source = open_store(f"{bucket}/in")
    for shard in range(8):
        write_bytes(source, f"{shard}.jsonl", b'{"text": "one document"}\n' * 10)
    store = open_store(f"{bucket}/out")
    process = subprocess.Popen([sys.executable, "-c", SLOW, bucket, str(tmp_path / "go")], cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while not list(store.list("done/")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        state = status(store)
        assert state.state == "running"
        assert 1 <= state.passes["p0"] < 8
        assert state.progress is not None
        assert (state.progress.stage, state.progress.tasks) == ("slow: pass 1 of 1", 8)
        assert "now: slow: pass 1 of 1" in status_text(state)
        with pytest.raises(RunFailed, match="is in use by"):
            refuse_while_running(store, what="cleaning")
    finally:
        (tmp_path / "go").touch()
        assert process.wait(timeout=300) == 0
    done = status(store)
    assert (done.state, done.passes) == ("done", {"p0": 8})


def test_a_server_that_is_away_for_a_moment_is_waited_for(s3_server: Any, bucket: str) -> None:
    store = open_store(f"{bucket}/run")
    write_bytes(store, "a", b"before")
    s3_server.kill()
    restart = threading.Timer(2.0, s3_server.start)
    restart.start()
    try:
        assert store.read_bytes("a") == b"before"
        assert store.put_if_absent("b", b"after")
    finally:
        restart.join()


def test_an_address_that_never_answered_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "NEW_BUCKET", Patience(seconds=1.0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"of s3://some/place/a failed.*check credentials"):
        open_store("s3://some/place").read_bytes("a")
    assert time.monotonic() - started < 250  # a bucket that once answered is asked for 300 s


def test_a_run_on_s3_writes_the_same_bytes_as_on_disk(bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for shard in range(3):
        texts = [f"document {n % 20} of the pool is here" for n in range(shard, 60)]
        pq.write_table(pa.table({"text": texts}), source / f"{shard}.parquet")
        write_bytes(
            open_store(f"{bucket}/in"),
            f"{shard}.parquet",
            (source / f"{shard}.parquet").read_bytes(),
        )
    steps = ["exact_dedup", {"word_count": {"min_words": 3}}, {"hash_sample": {"fraction": 0.5}}]
    pipeline = Pipeline.from_steps(steps, name="small")
    local = run(pipeline, open_pool(str(source)), out=str(tmp_path / "out"))
    remote = run(pipeline, open_pool(f"{bucket}/in"), out=f"{bucket}/out")
    assert remote.record.id == local.record.id
    assert run(pipeline, open_pool(f"{bucket}/in"), out=f"{bucket}/out").skipped


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_s3_opens_as_a_ray_dataset(bucket: str, ray_cluster: MapTasks) -> None:
    from pipelines.formats.ray_dataset import as_dataset

    source = open_store(f"{bucket}/in")
    for shard in range(2):
        rows = b"".join(b'{"text": "document %d of %d"}\n' % (n, shard) for n in range(5))
        write_bytes(source, f"{shard}.jsonl", rows)
    pipeline = Pipeline.from_steps(["exact_dedup"])
    run(pipeline, open_pool(f"{bucket}/in"), out=f"{bucket}/parquet")
    run(pipeline, open_pool(f"{bucket}/in"), out=f"{bucket}/lines", format="jsonl.zst")
    for out in ("parquet", "lines"):
        rows = as_dataset(f"{bucket}/{out}").take_all()
        texts = [row["text"] for row in rows]
        assert sorted(texts) == sorted(f"document {n} of {s}" for s in (0, 1) for n in range(5))


def test_extraction_from_a_bucket_to_a_bucket_is_that_of_folders(
    bucket: str, tmp_path: Path
) -> None:
    from dclm.pool.extract import extract_all

    (tmp_path / "in").mkdir()
    source = open_store(f"{bucket}/in")
    for number in range(3):
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>page %d of prose" % number
        head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % len(block)
        data = gzip.compress(head + block + b"\r\n\r\n", mtime=0)
        (tmp_path / "in" / f"{number}.warc.gz").write_bytes(data)
        write_bytes(source, f"{number}.warc.gz", data)
    here = extract_all(str(tmp_path / "in"), out=str(tmp_path / "out"), name="pool")
    there = extract_all(f"{bucket}/in", out=f"{bucket}/out", name="pool", map_tasks=ProcessMap(2))
    assert here.counts["documents"] == 3
    assert there.id == here.id
