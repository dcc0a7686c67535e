"""Published tables: from a folder with a copy, and from a small hub on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.pool.hub import Source, estimate, fetch_metadata, open_source
from pipelines.errors import PoolError
from pipelines.execution.executors import map_here
from pipelines.images.pairs import open_pairs

COMMIT = "c" * 40


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a published pool: three tables, one in a sub-folder, features of each."""
    root = tmp_path / "copy"
    for number, folder in enumerate(("", "", "part_1")):
        stem = f"{number + 10:032x}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        table = pa.table({"uid": [f"{number * 10 + k:032x}" for k in range(3)], "text": ["x"] * 3})
        pq.write_table(table, root / folder / f"{stem}.parquet")
        np.savez(root / folder / f"{stem}.npz", l14_img=np.ones((3, 4), np.float16))
    (root / "README.md").write_text("what it is")
    return root


class Hub:
    """Answers the two questions that the client asks, for the files of one folder."""

    def __init__(self, root: Path) -> None:
        self.fetched: list[str] = []
        self.cut: set[str] = set()  # whose body breaks off half way, once
        self.changed: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, root, body=False)

            def do_GET(self) -> None:
                hub.answer(self, root, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler, root: Path, *, body: bool) -> None:
        path = urlsplit(to.path).path
        if path.startswith("/api/datasets/some/pool/tree/"):
            rows = [
                {
                    "type": "file",
                    "oid": "0" * 40,
                    "path": str(file.relative_to(root)),
                    "size": file.stat().st_size,
                    "lfs": {
                        "oid": hashlib.sha256(file.read_bytes()).hexdigest(),
                        "size": file.stat().st_size,
                        "pointerSize": 100,
                    },
                }
                for file in sorted(root.rglob("*"))
                if file.is_file()
            ]
            self.send(to, 200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
            return
        name = path.partition("/resolve/main/")[2]
        file = root / name
        if not name or not file.is_file():
            self.send(to, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        if name in self.changed:
            data = data[::-1]
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = 0
        given = to.headers.get("Range")
        if given:
            start = int(given.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not body:
            self.send(to, 200, data, headers, body=False)
            return
        self.fetched.append(name)
        self.send(to, 206 if given else 200, data[start:], headers)

    @staticmethod
    def send(
        to: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        body: bool = True,
    ) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            to.send_header(name, value)
        to.end_headers()
        if body:
            to.wfile.write(data)


@pytest.fixture
def hub(copy: Path) -> Iterator[Hub]:
    served = Hub(copy)
    yield served
    served.server.shutdown()
    served.server.server_close()


def fetch(folder: Path, source: Source, *, features: bool = False):
    return fetch_metadata(
        "small", str(folder), source=source, features=features, map_tasks=map_here
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "metadata").iterdir())


def test_tables_lie_side_by_side_and_open_as_a_pool(copy, tmp_path):
    record = fetch(tmp_path / "pool", Source(folder=str(copy)))
    assert names(tmp_path / "pool") == [f"{n:032x}.parquet" for n in (10, 11, 12)]
    pool = open_pairs(str(tmp_path / "pool"))
    assert pool.record.id == record.id
    assert [shard.name for shard in pool.shards] == [
        f"metadata/{n:032x}.parquet" for n in (10, 11, 12)
    ]


def test_features_can_be_fetched_later_and_the_pool_stays_the_same(copy, tmp_path):
    first = fetch(tmp_path / "pool", Source(folder=str(copy)))
    second = fetch(tmp_path / "pool", Source(folder=str(copy)), features=True)
    assert first.id == second.id
    assert len(names(tmp_path / "pool")) == 6


def test_from_the_hub_the_same_pool_comes_and_nothing_twice(copy, hub, tmp_path):
    source = Source(repository="some/pool", endpoint=hub.address)
    record = fetch(tmp_path / "pool", source)
    assert record.id == fetch(tmp_path / "other", Source(folder=str(copy))).id
    assert len(hub.fetched) == 3
    (tmp_path / "pool" / "metadata" / f"{11:032x}.parquet").write_bytes(b"broken")
    assert fetch(tmp_path / "pool", source).id == record.id
    assert hub.fetched[3:] == [f"{11:032x}.parquet"]
    assert names(tmp_path / "pool") == [f"{n:032x}.parquet" for n in (10, 11, 12)]


def test_a_pool_that_is_half_there_has_no_record(copy, hub, tmp_path):
    hub.changed = {f"{11:032x}.parquet"}
    source = Source(repository="some/pool", endpoint=hub.address)
    with pytest.raises(PoolError, match=r"run the same command again"):
        fetch(tmp_path / "pool", source)
    assert not (tmp_path / "pool" / "record.json").exists()
    hub.changed = set()
    fetch(tmp_path / "pool", source)
    assert (tmp_path / "pool" / "record.json").exists()


def test_a_pool_that_changed_at_its_source_is_not_mixed_with_what_is_there(copy, tmp_path):
    fetch(tmp_path / "pool", Source(folder=str(copy)))
    (copy / f"{10:032x}.parquet").unlink()
    with pytest.raises(PoolError, match="holds another pool"):
        fetch(tmp_path / "pool", Source(folder=str(copy)))


def test_places_that_are_no_pool_are_named(copy, hub, tmp_path):
    with pytest.raises(PoolError, match="there is no folder"):
        Source(folder=str(tmp_path / "none")).listing()
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match="holds no parquet files"):
        Source(folder=str(tmp_path / "empty")).listing()
    with pytest.raises(PoolError, match="no/such cannot be read"):
        Source(repository="no/such", endpoint=hub.address).listing()
    with pytest.raises(PoolError, match="no pool of scale 'huge' is published"):
        open_source("huge", "hf")
    (copy / "part_1" / f"{10:032x}.parquet").write_bytes(b"x")
    with pytest.raises(PoolError, match="has two files"):
        Source(folder=str(copy)).listing()


def test_an_estimate_says_what_a_pool_takes(copy):
    cost = estimate("small", Source(folder=str(copy)).listing(), workers=16)
    assert cost.tables == 3
    assert cost.image_bytes == 450_000_000_000
    assert cost.image_hours == pytest.approx(12_800_000 / 100 / 16 / 3600, abs=0.05)


@pytest.mark.s3
def test_tables_go_to_a_bucket_and_nothing_twice(copy, hub, tmp_path, bucket):
    source = Source(repository="some/pool", endpoint=hub.address)
    uri = f"{bucket}/pool"
    hub.changed = {f"{11:032x}.parquet"}
    with pytest.raises(PoolError, match="run the same command again"):
        fetch(uri, source)
    hub.changed = set()
    record = fetch(uri, source)
    assert hub.fetched == [
        *(f"{n:032x}.parquet" for n in (10, 11, 11)),
        f"part_1/{12:032x}.parquet",
    ]
    assert record.id == fetch(tmp_path / "here", Source(folder=str(copy))).id
    assert fetch(uri, source, features=True).id == record.id
    assert len(hub.fetched) == 7
    assert [shard.name for shard in open_pairs(uri).shards] == [
        f"metadata/{n:032x}.parquet" for n in (10, 11, 12)
    ]
