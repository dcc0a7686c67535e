from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipelines.formats.chunks import Chunk
from pipelines.formats.json_rows import to_json_rows
from pipelines.formats.parquet_rows import _group_tables
from pipelines.formats.readers import read_shard, read_whole
from pipelines.formats.shards import ShardError, format_of, shards_of
from pipelines.schema import row_of
from pipelines.storage.local import LocalStore

ROWS = [
    {"text": "one", "url": "http://a", "metadata": {"k": [1, 2]}, "score": 0.5},
    {"text": "zwei \u00e4\U0001f600", "url": "http://b"},
    {"text": None, "id": "x"},
]
LINES = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)


def read(folder: Path, name: str, *, shard: int = 0) -> list[Chunk]:
    return list(read_shard(LocalStore(folder), name, shard=shard))


def whole(chunks: list[Chunk]) -> pa.Table:
    return pa.concat_tables([chunk.table for chunk in chunks])


COMPRESSIONS = {
    "a.jsonl": lambda data: data,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.zst": zstandard.compress,
    "a.jsonl.zstd": lambda data: zstandard.compress(data[:20]) + zstandard.compress(data[20:]),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_json_lines_read_alike_however_compressed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(COMPRESSIONS[name](LINES))
    table = whole(read(tmp_path, name, shard=3))
    assert table.column("text").to_pylist() == ["one", "zwei \u00e4\U0001f600", None]
    assert table.column("row").to_pylist() == [row_of(3, 0), row_of(3, 1), row_of(3, 2)]


def test_fields_without_a_column_come_back_as_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    table = whole(read(tmp_path, "a.jsonl"))
    assert orjson.loads(table.column("extra")[0].as_py()) == {
        "metadata": {"k": [1, 2]},
        "score": 0.5,
    }
    written = [orjson.loads(line) for line in to_json_rows(table)]
    assert written == [ROWS[0], ROWS[1], {"id": "x"}]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "cut', "not JSON"),
        (b'{"text": "\xff\xfe"}', "not JSON"),
        (b'{"text": "\\ud800"}', "not JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'{"text": 5}', "the field 'text' is int, expected a string"),
    ],
)
def test_a_broken_line_is_set_aside_with_its_bytes(tmp_path: Path, line: bytes, why: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES + line + b"\n" + b'{"text": "last"}\n')
    chunks = read(tmp_path, "a.jsonl")
    [bad] = [bad for chunk in chunks for bad in chunk.bad]
    assert bad.row == 3
    assert bad.error.startswith(why)
    assert bad.raw.rstrip(b"\n") == line
    assert whole(chunks).column("row").to_pylist() == [0, 1, 2, 4]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_of_a_file_cut_short_every_whole_record_comes_out(tmp_path: Path, name: str) -> None:
    many = b"".join(orjson.dumps({"text": f"{n} " * 50}) + b"\n" for n in range(3000))
    data = COMPRESSIONS[name](many)
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    chunks = read(tmp_path, name)
    texts = whole(chunks).column("text").to_pylist()
    assert texts == [f"{n} " * 50 for n in range(len(texts))]
    bad = [bad for chunk in chunks for bad in chunk.bad]
    assert len(bad) >= 1
    assert "breaks off" in bad[-1].error or "not JSON" in bad[-1].error


def test_parquet_keeps_columns_and_moves_nested_ones_to_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "score": pa.array([0.25, None], type=pa.float32()),
            "boxes": [[1, 2], []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    read_back = whole(read(tmp_path, "a.parquet"))
    assert read_back.schema.field("text").type == pa.large_string()
    assert read_back.column("score").to_pylist() == [0.25, None]
    assert [orjson.loads(v) for v in read_back.column("extra").to_pylist()] == [
        {"boxes": [1, 2]},
        {"boxes": []},
    ]


def test_a_parquet_file_that_is_none_names_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ShardError, match=r"a\.parquet is not a parquet file"):
        read(tmp_path, "a.parquet")


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.binary()])
def test_a_text_in_parquet_that_is_not_utf8_costs_its_own_row(
    tmp_path: Path, type_: pa.DataType
) -> None:
    texts = pa.array([b"ok", b"caf\xe9", b"more", None, b"of it"], type=pa.binary())
    if type_ != pa.binary():
        texts = (texts if type_ == pa.string() else texts.cast(pa.large_binary())).view(type_)
    pq.write_table(pa.table({"text": texts, "n": range(5)}), tmp_path / "a.parquet")
    chunks = read(tmp_path, "a.parquet")
    assert whole(chunks).column("text").to_pylist() == ["ok", "more", None, "of it"]
    assert whole(chunks).column("row").to_pylist() == [0, 2, 3, 4]
    [bad] = [bad for chunk in chunks for bad in chunk.bad]
    assert (bad.row, bad.num_rows, bad.raw) == (1, 1, b"caf\xe9")
    with pytest.raises(ShardError, match="record 2: the column 'text' is not UTF-8 at byte 3"):
        list(read_whole(LocalStore(tmp_path), "a.parquet", shard=0))


def test_empty_shards_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b"\n\n  \n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert sum(chunk.table.num_rows for chunk in read(tmp_path, "a.jsonl")) == 0
    assert sum(chunk.table.num_rows for chunk in read(tmp_path, "b.jsonl")) == 0
    assert read(tmp_path, "c.parquet")[0].table.schema.names == ["row", "text"]


def test_large_shards_come_in_slices_of_bounded_size(tmp_path: Path) -> None:
    rows = b"".join(orjson.dumps({"text": "x"}) + b"\n" for _ in range(2500))
    (tmp_path / "a.jsonl").write_bytes(rows)
    assert [chunk.table.num_rows for chunk in read(tmp_path, "a.jsonl")] == [1000, 1000, 500]


def test_shards_are_found_sorted_and_others_left_out(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet", "notes.txt", ".hidden.jsonl", "sub/c.jsonl.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [entry.name for entry in shards_of(LocalStore(tmp_path))]
    assert names == ["a.parquet", "b.jsonl", "sub/c.jsonl.zst"]


def test_a_folder_without_shards_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shards below .*expected files ending in \.jsonl"):
        shards_of(LocalStore(tmp_path))


def test_formats_go_by_suffix() -> None:
    assert format_of("x/a.JSONL.GZ") == "jsonl"
    assert format_of("a.parquet") == "parquet"
    assert format_of("a.csv") == "csv"
    assert format_of("a.docx") is None


def warc_record(kind: str, body: bytes, **headers: str) -> bytes:
    lines = [b"WARC/1.0", b"WARC-Type: " + kind.encode(), b"Content-Length: %d" % len(body)]
    lines += [f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items()]
    return gzip.compress(b"\r\n".join(lines) + b"\r\n\r\n" + body + b"\r\n\r\n", mtime=0)


def http(body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


PAGE = "<html><body><p>" + "A page of caf\u00e9 prose, long enough to be content. " * 5
FIELDS = {
    "WARC_Target_URI": "https://example.org/a",
    "WARC_Record_ID": "<urn:uuid:1>",
    "WARC_Date": "2024-01-01T00:00:00Z",
}


def test_a_warc_file_is_a_shard_of_documents(tmp_path: Path) -> None:
    records = [
        warc_record("response", http(PAGE.encode()), **FIELDS),
        warc_record("request", b"GET / HTTP/1.1\r\n\r\n", **FIELDS),
        warc_record("response", http(b"gone", status="404 Not Found"), **FIELDS),
        warc_record("response", http(b"\x89PNG", kind="image/png"), **FIELDS),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(records))
    [chunk] = read(tmp_path, "a.warc.gz", shard=2)
    [row] = chunk.table.to_pylist()
    assert row["row"] == row_of(2, 0)
    assert row["text"].startswith("A page of caf\u00e9 prose")
    assert (row["url"], row["id"]) == ("https://example.org/a", "<urn:uuid:1>")
    assert orjson.loads(row["extra"])["metadata"]["WARC-Date"] == "2024-01-01T00:00:00Z"
    assert [(r.row, r.reason) for r in chunk.refused] == [
        (row_of(2, 1), "bad_status"),
        (row_of(2, 2), "not_html"),
    ]


def test_of_a_warc_file_cut_short_every_whole_page_comes_out(tmp_path: Path) -> None:
    whole_file = warc_record("response", http(PAGE.encode()), **FIELDS) * 3
    (tmp_path / "a.warc.gz").write_bytes(whole_file[:-20])
    [chunk] = read(tmp_path, "a.warc.gz")
    assert chunk.table.num_rows == 2
    [bad] = chunk.bad
    assert "breaks off at byte" in bad.error


def test_pages_without_text_are_counted_by_reason(tmp_path: Path) -> None:
    from pipelines.engine.run import run
    from pipelines.formats.pool import open_pool
    from pipelines.pipeline import Pipeline

    (tmp_path / "in").mkdir()
    records = [
        warc_record("response", http(PAGE.encode()), **FIELDS),
        warc_record("response", http(b"", status="500 Oh"), **FIELDS),
    ]
    (tmp_path / "in" / "a.warc.gz").write_bytes(b"".join(records))
    pool = open_pool(str(tmp_path / "in"))
    result = run(Pipeline.from_steps(["exact_dedup"]), pool, out=str(tmp_path / "out"))
    assert result.record.counts["rows_in"] == 2
    assert result.record.counts["rejected/0/read/bad_status"] == 1
    assert result.record.counts["rows_out"] == 1


def test_long_documents_of_a_row_group_come_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group of gigabytes is not held whole: 16 batches' worth of bytes at a time."""
    monkeypatch.setattr("pipelines.formats.parquet_rows.MAX_BATCH_BYTES", 1_000)
    texts = [f"{n:04d}" * 250 for n in range(200)]
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=200, use_dictionary=False)
    chunks = read(tmp_path, "a.parquet")
    assert [text for chunk in chunks for text in chunk.table["text"].to_pylist()] == texts
    assert max(chunk.table.num_rows for chunk in chunks) <= 16


@pytest.mark.parametrize("kind", ["strings", "dictionary"])
def test_a_long_value_in_every_row_comes_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stored once, it is in memory as often as rows are read."""
    monkeypatch.setattr("pipelines.formats.parquet_rows.REPEATED_ROWS", 8)
    monkeypatch.setattr("pipelines.formats.parquet_rows.MOST_BYTES", 100_000)
    values = [str(n) * 10_000 for n in range(3)]
    texts = pa.DictionaryArray.from_arrays(pa.array([n % 3 for n in range(300)]), pa.array(values))
    table = pa.table({"text": texts if kind == "dictionary" else texts.cast(pa.string())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    sizes = [part.num_rows for part in _group_tables(pq.ParquetFile(tmp_path / "a.parquet"), 0)]
    assert sum(sizes) == 300
    assert max(sizes) <= 16  # 100 kB are 10 rows, read 8 at a time
    chunks = read(tmp_path, "a.parquet")
    assert [text for chunk in chunks for text in chunk.table["text"].to_pylist()] == [
        values[n % 3] for n in range(300)
    ]
    rows = [row for chunk in chunks for row in chunk.table["row"].to_pylist()]
    assert rows == list(range(300))


def test_rows_read_a_few_at_a_time_are_cut_where_all_at_once_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"text": [f"document {n}" for n in range(5000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5000)
    layouts = []
    for step in (7, 256, 100_000):
        monkeypatch.setattr("pipelines.formats.parquet_rows.REPEATED_ROWS", step)
        layouts.append([chunk.table.num_rows for chunk in read(tmp_path, "a.parquet")])
    assert layouts[0] == layouts[1] == layouts[2]
