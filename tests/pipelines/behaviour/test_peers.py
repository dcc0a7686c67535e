"""Data as other tools leave it: datatrove, Dolma, FineWeb, and datasets of the Hugging Face hub."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.pipeline import Pipeline
from pipelines.storage.base import StorageError
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store
from tests.hub_server import HubServer

TEXTS = [f"document {n} of some words" for n in range(6)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def curate(pool: Path | str, out: Path, steps: list[Any], **options: Any) -> Result:
    return run(Pipeline.from_steps(steps), open_pool(str(pool)), out=str(out), **options)


def rows_of(out: Path, result: Result) -> list[dict[str, Any]]:
    return [row for f in result.record.outputs for row in pq.read_table(out / f.name).to_pylist()]


def test_datatrove_s_json_lines(tmp_path: Path) -> None:
    """JsonlWriter: `text`, `id`, `metadata`; files named by rank."""
    rows = [
        {"text": text, "id": f"d{n}", "metadata": {"url": f"https://x.org/{n}", "dump": "CC"}}
        for n, text in enumerate(TEXTS)
    ]
    write_lines(tmp_path / "in" / "00000.jsonl.gz", rows[:3])
    write_lines(tmp_path / "in" / "00001.jsonl.gz", rows[3:])
    result = curate(tmp_path / "in", tmp_path / "out", [{"url_from_metadata": {"header": "url"}}])
    actual = rows_of(tmp_path / "out", result)
    assert [row["url"] for row in actual] == [f"https://x.org/{n}" for n in range(6)]
    assert [row["id"] for row in actual] == [f"d{n}" for n in range(6)]


def test_datatrove_s_parquet_with_metadata_as_a_struct(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    metadata = [{"url": f"https://x.org/{n}", "language": "en"} for n in range(6)]
    table = pa.table({"text": TEXTS, "id": [str(n) for n in range(6)], "metadata": metadata})
    pq.write_table(table, tmp_path / "in" / "00000.parquet")
    result = curate(tmp_path / "in", tmp_path / "out", [{"url_from_metadata": {"header": "url"}}])
    rows = rows_of(tmp_path / "out", result)
    assert rows[2]["url"] == "https://x.org/2"
    assert orjson.loads(rows[2]["extra"])["metadata"]["language"] == "en"


def test_fineweb_s_parquet_with_its_scores_as_columns(tmp_path: Path) -> None:
    """Columns as of HuggingFaceFW/fineweb."""
    (tmp_path / "data" / "CC-MAIN-2024-10").mkdir(parents=True)
    table = pa.table(
        {
            "text": TEXTS,
            "id": [f"<urn:uuid:{n}>" for n in range(6)],
            "dump": ["CC-MAIN-2024-10"] * 6,
            "url": [f"https://x.org/{n}" for n in range(6)],
            "date": ["2024-02-20T00:00:00Z"] * 6,
            "file_path": ["s3://commoncrawl/a"] * 6,
            "language": ["en"] * 6,
            "language_score": [0.9, 0.6, 0.95, 0.7, 0.99, 0.8],
            "token_count": [5, 6, 7, 8, 9, 10],
        }
    )
    pq.write_table(table, tmp_path / "data" / "CC-MAIN-2024-10" / "000_00000.parquet")
    steps = [{"select": {"by": "language_score", "fraction": 0.5}}]
    result = curate(tmp_path / "data", tmp_path / "out", steps)
    assert [row["id"] for row in rows_of(tmp_path / "out", result)] == [
        "<urn:uuid:0>",
        "<urn:uuid:2>",
        "<urn:uuid:4>",
    ]


@pytest.fixture
def dolma(tmp_path: Path) -> Path:
    """Two files of documents, and two taggers' attributes of each."""
    root = tmp_path / "dolma"
    for file in range(2):
        part = list(enumerate(TEXTS))[3 * file : 3 * file + 3]
        documents = [{"id": f"d{n}", "text": text, "source": "cc"} for n, text in part]
        write_lines(root / "documents" / "cc" / f"{file}.json.gz", documents)
        quality = [
            {"id": f"d{n}", "attributes": {"q__q__score": [[0, len(text), n / 10]]}}
            for n, text in part
        ]
        write_lines(root / "attributes" / "q" / "cc" / f"{file}.json.gz", quality)
        spans = [
            {"id": f"d{n}", "attributes": {"s__s__len": [[0, 2, 1.0], [2, 8, 3.0]] if n else []}}
            for n, _ in part
        ]
        write_lines(root / "attributes" / "s" / "cc" / f"{file}.json.gz", spans)
    return root


def test_dolma_s_attributes_are_joined_and_become_columns(dolma: Path, tmp_path: Path) -> None:
    steps = [
        {"attribute_score": {"attribute": "q__q__score", "column": "quality"}},
        {"attribute_score": {"attribute": "s__s__len", "column": "mean", "of": "mean"}},
        {"attribute_score": {"attribute": "s__s__len", "column": "long", "of": "by_length"}},
        {"attribute_score": {"attribute": "s__s__len", "column": "sum", "of": "sum"}},
        {"select": {"by": "quality", "fraction": 0.5}},
    ]
    result = curate(dolma, tmp_path / "out", steps)
    assert result.record.counts["rows_in"] == 6
    rows = rows_of(tmp_path / "out", result)
    assert [(row["id"], row["quality"]) for row in rows] == [("d3", 0.3), ("d4", 0.4), ("d5", 0.5)]
    assert (rows[0]["mean"], rows[0]["long"], rows[0]["sum"]) == (2.0, 2.5, 4.0)
    assert rows[0]["source"] == "cc"


def test_changed_attributes_are_another_pool(dolma: Path) -> None:
    before = open_pool(str(dolma)).record.id
    path = dolma / "attributes" / "q" / "cc" / "0.json.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=7))
    assert open_pool(str(dolma)).record.id != before


def test_attributes_of_other_documents_are_noticed(dolma: Path) -> None:
    path = dolma / "attributes" / "q" / "cc" / "0.json.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([lines[1], lines[0]])))
    chunks = list(read_shard(LocalStore(dolma), "documents/cc/0.json.gz", shard=0))
    errors = [bad.error for chunk in chunks for bad in chunk.bad]
    assert "attributes of document 'd1' where those of 'd0' were expected" in errors[0]
    assert "it has fewer lines than there are documents" in errors[2]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "hub"
    table = pa.table({"text": TEXTS, "n": range(6)})
    (folder / "owner" / "web" / "data").mkdir(parents=True)
    pq.write_table(table.slice(0, 3), folder / "owner" / "web" / "data" / "a.parquet")
    pq.write_table(table.slice(3), folder / "owner" / "web" / "data" / "b.parquet")
    (folder / "owner" / "web" / "README.md").write_text("about it")
    server = HubServer(folder)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    yield server
    HfFileSystem.clear_instance_cache()
    server.stop()


def test_a_dataset_of_the_hub_is_a_pool(hub: HubServer, tmp_path: Path) -> None:
    pool = open_pool("hf://datasets/owner/web/data")
    assert [shard.name for shard in pool.shards] == ["a.parquet", "b.parquet"]
    assert not any(path.endswith(".parquet") for _, path, _ in hub.requests)  # the hub knows sha256
    local = open_pool(str(hub.folder / "owner" / "web" / "data"))
    assert [s.sha256 for s in pool.shards] == [s.sha256 for s in local.shards]
    result = curate("hf://datasets/owner/web/data", tmp_path / "out", ["exact_dedup"])
    assert [row["text"] for row in rows_of(tmp_path / "out", result)] == TEXTS
    here = curate(hub.folder / "owner" / "web" / "data", tmp_path / "here", ["exact_dedup"])
    assert here.record.id == result.record.id


def test_the_hub_is_only_read_and_what_is_not_there_is_named(hub: HubServer) -> None:
    store = open_store("hf://datasets/owner/web")
    with pytest.raises(StorageError, match="can only be read"):
        store.create("x")
    with pytest.raises(FileNotFoundError, match="hf://datasets/owner/web/nothing"):
        store.read_bytes("nothing")
    with pytest.raises(FileNotFoundError, match="hf://datasets/owner/none"):
        list(open_store("hf://datasets/owner/none").list())
    with pytest.raises(ValueError, match=r"expected hf://datasets/owner/name"):
        open_store("hf://owner")
    assert open_store("hf://owner/web").uri == "hf://owner/web"  # a model
