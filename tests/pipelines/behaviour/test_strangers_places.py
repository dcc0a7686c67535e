"""The odd shards of strangers in other places: a bucket, the hub, a cluster; as they are here."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from PIL import Image

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.errors import PlatformError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.formats.pool import open_pool
from pipelines.images.own_images import import_folder
from pipelines.pipeline import Pipeline
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store
from tests.hub_server import HubServer

STEPS = ["count_words", {"exact_dedup": {"keep_by": "rank"}}, {"word_count": {"min_words": 2}}]


def line(**row: Any) -> bytes:
    return orjson.dumps(row) + b"\n"


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def page(name: str, *, less: int = 0) -> bytes:
    """A record whose headers are in lower case, and whose page names its encoding as XML.

    Its length is `less` bytes too short.
    """
    body = f'<?xml version="1.0" encoding="iso-8859-2"?><p>Zażółć gęślą jaźń {name}</p>'
    block = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n" + body.encode("iso-8859-2")
    head = "WARC/1.0\r\nwarc-type: response\r\nwarc-target-uri: <https://example.org/p>\r\n"
    head += f"content-type: application/http\r\ncontent-length: {len(block) - less}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def odd_shards() -> dict[str, bytes]:
    """A pool of shards that were each read wrongly by some program once."""
    long_window = {zstd.CompressionParameter.window_log: 28}
    times = pa.array([datetime.datetime(2024, 1, 1)] * 2, pa.timestamp("ns", tz="Europe/Paris"))
    return {
        "bom.jsonl": b"\xef\xbb\xbf" + line(text="with a mark", rank=1),
        "breaks.jsonl": line(text="one line").replace(b"\n", b"\r\n")
        + b"\r\n"
        + b'{"text": "two b"}',
        "padded.jsonl.gz": gzip.compress(line(text="then zeros", rank=0.5), mtime=0)
        + b"\x00" * 512,
        "members.jsonl.gz": b"".join(
            gzip.compress(line(text=f"member {n}"), mtime=0) for n in range(3)
        ),
        "window.jsonl.zst": zstd.compress(line(text="a long window"), options=long_window),
        "lang=de/a.parquet": parquet(text=["ein Satz", "noch einer"], at=times),
        "bytes.parquet": parquet(text=[b"caf\xc3\xa9 au lait", b"as bytes"], id=[1, 2**62]),
        "none.parquet": parquet(text=pa.array([], pa.string()), rank=pa.array([], pa.int64())),
        "null.parquet": parquet(text=pa.nulls(2), id=pa.array([7, 8], pa.int16())),
        "nested.parquet": parquet(
            text=["same words", "same words"],
            rank=pa.array([1, 3], pa.uint8()),
            price=[Decimal("1.50"), None],
            tags=[{"a": [1, 2]}, {"a": []}],
        ),
        "pages.warc.gz": gzip.compress(page("one"), mtime=0) + gzip.compress(page("two"), mtime=0),
        "short.warc.gz": gzip.compress(page("three", less=40), mtime=0),
        "names.jsonl": line(text="a source by number", source=3, url=["x"], language=1.5),
        "_temporary/0/part.jsonl": line(text="never committed"),
        "notes.md": b"no shard",
    }


BROKEN = {
    "cut.jsonl.gz": gzip.compress(line(text="cut short") * 50, mtime=0)[:-20],
    "twice.parquet": None,  # a column that is there twice
    "junk.parquet": b"PAR1 no more of it",
    "list.jsonl": b"[1, 2]\n",
}


def broken(name: str) -> bytes:
    data = BROKEN[name]
    if data is not None:
        return data
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), sink)
    return sink.getvalue().to_pybytes()


def put(uri: str, shards: dict[str, bytes]) -> None:
    store = open_store(uri)
    for name, data in shards.items():
        write_bytes(store, name, data)


def curate(pool: str, out: str, *, map_tasks: MapTasks = map_here) -> Result:
    return run(Pipeline.from_steps(STEPS), open_pool(pool), out=out, map_tasks=map_tasks)


def made(result: Result) -> tuple[Any, ...]:
    """Everything of a result that does not name its place or moment."""
    files = [(file.sha256, file.num_rows) for file in result.record.outputs]
    return result.record.parents, result.record.counts, files


def complaint(pool: str, out: str, **options: Any) -> str:
    """What a run over a broken pool says, without the place."""
    with pytest.raises(PlatformError) as raised:
        curate(pool, out, **options)
    return str(raised.value).replace(open_store(pool).uri, "POOL")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result]:
    folder = tmp_path_factory.mktemp("here")
    put(str(folder / "pool"), odd_shards())
    return str(folder / "pool"), curate(str(folder / "pool"), str(folder / "out"))


def test_here_every_odd_shard_is_read(here: tuple[str, Result]) -> None:
    counts = here[1].record.counts
    # 1 + 2 + 1 + 3 + 1 rows of JSON lines; 2 + 2 + 0 + 2 + 2 of parquet; 2 pages.
    assert counts["rows_in"] == 20
    assert counts["rejected/0/read/no_text"] == 2
    assert counts["rows_out"] == 17  # one of the equal texts goes


def test_a_bucket_gives_the_same_bytes(here: tuple[str, Result], bucket: str) -> None:
    put(f"{bucket}/pool", odd_shards())
    assert made(curate(f"{bucket}/pool", f"{bucket}/out")) == made(here[1])


@pytest.mark.parametrize("name", BROKEN)
def test_a_bucket_gives_the_same_complaint(name: str, bucket: str, tmp_path: Path) -> None:
    for uri in (f"{bucket}/pool", str(tmp_path / "pool")):
        put(uri, {"a.jsonl": line(text="good row", rank=1), name: broken(name)})
    there = complaint(f"{bucket}/pool", f"{bucket}/out")
    assert there == complaint(str(tmp_path / "pool"), str(tmp_path / "out"))
    assert name in there


def odd_images() -> dict[str, bytes]:
    """A folder as people have it: odd captions, a short PNG, a pair that comes twice."""
    whole, cut = io.BytesIO(), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise[:30, :40]).save(whole, "JPEG")
    Image.fromarray(noise).save(cut, "PNG")
    return {
        "a.JPG": whole.getvalue(),
        "a.TXT": "läuft".encode("utf-16"),
        "again.jpg": whole.getvalue(),
        "again.txt": "läuft".encode(),
        "b.jpg": whole.getvalue(),
        "b.txt": "läuft".encode("latin-1"),
        "cut.png": cut.getvalue()[:-900],
        "cut.txt": b"cut",
        "train/é.jpg": whole.getvalue(),
        "train/metadata.csv": "file_name,text\né.jpg,one\né.jpg,two\n".encode("utf-8-sig"),
    }


LEFT_OUT = {"images": 3, "caption_not_utf8": 1, "repeated_uid": 1, "truncated": 1}


def pool_of(folder: str, out: str, *, map_tasks: MapTasks = map_here) -> dict[str, str]:
    """The checksums of the pool that a folder of odd images becomes."""
    assert import_folder(folder, out=out, map_tasks=map_tasks).counts == LEFT_OUT
    store = open_store(out)
    names = [entry.name for entry in store.list() if entry.name.endswith((".tar", ".parquet"))]
    return {name: hashlib.sha256(store.read_bytes(name)).hexdigest() for name in sorted(names)}


def test_a_bucket_gives_the_same_pool_of_images(bucket: str, tmp_path: Path) -> None:
    for uri in (f"{bucket}/images", str(tmp_path / "images")):
        put(uri, odd_images())
    there = pool_of(f"{bucket}/images", f"{bucket}/pool-of-images")
    assert there == pool_of(str(tmp_path / "images"), str(tmp_path / "pool"))
    assert len(there) == 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "hub"
    (folder / "owner").mkdir(parents=True)
    server = HubServer(folder)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    yield server
    HfFileSystem.clear_instance_cache()
    server.stop()


def test_the_hub_gives_the_same_bytes(
    here: tuple[str, Result], hub: HubServer, tmp_path: Path
) -> None:
    put(str(hub.folder / "owner" / "pool"), odd_shards())
    assert made(curate("hf://datasets/owner/pool", str(tmp_path / "out"))) == made(here[1])


@pytest.mark.parametrize("name", BROKEN)
def test_the_hub_gives_the_same_complaint(name: str, hub: HubServer, tmp_path: Path) -> None:
    for folder in (hub.folder / "owner" / "bad", tmp_path / "pool"):
        put(str(folder), {"a.jsonl": line(text="good row", rank=1), name: broken(name)})
    there = complaint("hf://datasets/owner/bad", str(tmp_path / "out"))
    assert there == complaint(str(tmp_path / "pool"), str(tmp_path / "out2"))


def test_the_hub_gives_the_same_pool_of_images(hub: HubServer, tmp_path: Path) -> None:
    for folder in (hub.folder / "owner" / "images", tmp_path / "images"):
        put(str(folder), odd_images())
    there = pool_of("hf://datasets/owner/images", str(tmp_path / "there"))
    assert there == pool_of(str(tmp_path / "images"), str(tmp_path / "near"))


@pytest.mark.ray
def test_a_cluster_gives_the_same_bytes_and_complaints(
    here: tuple[str, Result], ray_cluster: MapTasks, tmp_path: Path
) -> None:
    assert made(curate(here[0], str(tmp_path / "out"), map_tasks=ray_cluster)) == made(here[1])
    put(
        str(tmp_path / "bad"),
        {
            "a.jsonl": line(text="good row", rank=1),
            **dict.fromkeys(["b.jsonl.gz"], broken("cut.jsonl.gz")),
        },
    )
    there = complaint(str(tmp_path / "bad"), str(tmp_path / "there"), map_tasks=ray_cluster)
    assert there == complaint(str(tmp_path / "bad"), str(tmp_path / "near"))


@pytest.mark.ray
def test_a_cluster_gives_the_same_pool_of_images(ray_cluster: MapTasks, tmp_path: Path) -> None:
    put(str(tmp_path / "images"), odd_images())
    there = pool_of(str(tmp_path / "images"), str(tmp_path / "there"), map_tasks=ray_cluster)
    assert there == pool_of(str(tmp_path / "images"), str(tmp_path / "near"))


@pytest.mark.ray
def test_a_package_beside_an_operator_travels_to_a_cluster(
    ray_cluster: MapTasks, tmp_path: Path
) -> None:
    """The folder with the code is removed before the run, as no other machine has it."""
    code = tmp_path / "code"
    put(
        str(code),
        {
            "mine.yaml": b"steps: [mine.py:Mine]",
            "mine.py": b"""
from pipelines.operators import Filter, because
from helpers.deep import word

class Mine(Filter):
    reasons = ("listed",)

    def reject(self, batch):
        return because([word() in text for text in batch.text.to_pylist()], "listed")
""",
            "helpers/__init__.py": b"",
            "helpers/words.py": b"WORD = 'bad'",
            "helpers/deep/__init__.py": b"from ..words import WORD\ndef word():\n    return WORD\n",
        },
    )
    put(str(tmp_path / "pool"), {f"{n}.jsonl": line(text=f"row {n} is bad") for n in range(4)})
    put(str(tmp_path / "pool"), {f"{n}.jsonl": line(text=f"row {n} is good") for n in range(4, 7)})
    pipeline = Pipeline.load(code / "mine.yaml")
    pool = str(tmp_path / "pool")
    near = run(pipeline, open_pool(pool), out=str(tmp_path / "near"))
    shutil.rmtree(code)
    there = run(pipeline, open_pool(pool), out=str(tmp_path / "there"), map_tasks=ray_cluster)
    assert there.record.counts["rows_out"] == 3
    assert there.record.id == near.record.id
