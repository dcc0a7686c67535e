"""Folders as people have them: CSV, JSON arrays, text files, Arrow; what is said of bad ones."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import ShardError, shards_of
from pipelines.pipeline import Pipeline
from pipelines.storage.local import LocalStore

TEXTS = ["the first one", 'a text with a, comma and a "quote"', "two\nlines", "été 東京"]


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = []
    for chunk in read_shard(LocalStore(folder), name, shard=0):
        assert chunk.bad == ()
        for row in chunk.table.to_pylist():
            extra = orjson.loads(row.pop("extra", None) or "{}")
            del row["row"]
            rows.append({k: v for k, v in row.items() if v is not None} | extra)
    return rows


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (
            "a.csv",
            "\ufeffid,text\r\n" + "".join(f"0{n},{quoted(t)}\r\n" for n, t in enumerate(TEXTS)),
        ),
        ("a.tsv", "id\ttext\n" + "".join(f"0{n}\t{quoted(t)}\n" for n, t in enumerate(TEXTS))),
        ("a.json", orjson.dumps([{"id": f"0{n}", "text": t} for n, t in enumerate(TEXTS)])),
        (
            "b.json",
            b"".join(orjson.dumps({"id": f"0{n}", "text": t}) + b"\n" for n, t in enumerate(TEXTS)),
        ),
    ],
)
def test_a_plain_file_has_the_rows_that_it_shows(name: str, data: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    assert rows_of(tmp_path, name) == [{"id": f"0{n}", "text": t} for n, t in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_compressed_lines_are_read_and_a_cut_file_says_so(
    suffix: str, compress: Any, tmp_path: Path
) -> None:
    data = b"".join(orjson.dumps({"text": f"document {n}"}) + b"\n" for n in range(5000))
    name = f"a.jsonl{suffix}"
    (tmp_path / name).write_bytes(compress(data[:4000]) + compress(data[4000:]))  # two members
    assert [row["text"] for row in rows_of(tmp_path, name)] == [
        f"document {n}" for n in range(5000)
    ]
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-20])
    bad = [b for chunk in read_shard(LocalStore(tmp_path), name, shard=0) for b in chunk.bad]
    assert len(bad) == 1
    assert "the file breaks off here" in bad[0].error


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".xz", ".bz2"])
def test_a_plain_file_under_a_compressed_name_is_named_for_what_it_begins_with(
    suffix: str, tmp_path: Path
) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(b'{"text": "x"}\n')
    [chunk] = read_shard(LocalStore(tmp_path), f"a.jsonl{suffix}", shard=0)
    assert re.search(r"the file is not \w+: it begins with b'\{\"text\": ", chunk.bad[0].error)


def test_a_row_of_csv_that_is_not_utf8_costs_itself(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,n\ncafé,1\nok,2\n".encode("latin-1"))
    [chunk] = read_shard(LocalStore(tmp_path), "a.csv", shard=0)
    assert chunk.table.column("text").to_pylist() == ["ok"]
    assert [(bad.row, bad.error[:15], bad.raw) for bad in chunk.bad] == [
        (0, "it is not UTF-8", b"caf\xe9,1")
    ]


def test_compressed_csv_that_breaks_off_is_said_and_its_last_row_is_not_taken(
    tmp_path: Path,
) -> None:
    lines = b"text,n\n" + b"".join(b"row %d,%d\n" % (n, n) for n in range(3000))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(lines)[:-200])
    chunks = list(read_shard(LocalStore(tmp_path), "a.csv.gz", shard=0))
    rows = [text for chunk in chunks for text in chunk.table.column("text").to_pylist()]
    assert rows == [f"row {n}" for n in range(len(rows))]
    [bad] = [bad for chunk in chunks for bad in chunk.bad]
    assert bad.row == len(rows)
    assert "the file breaks off here" in bad.error


def test_each_text_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(TEXTS[2])
    (tmp_path / "b.txt").write_bytes(b"not \xff UTF-8")
    assert rows_of(tmp_path, "notes/a.txt") == [{"id": "notes/a.txt", "text": TEXTS[2]}]
    [chunk] = read_shard(LocalStore(tmp_path), "b.txt", shard=1)
    assert "not UTF-8" in chunk.bad[0].error


def test_a_saved_dataset_of_arrow_files_is_a_pool(tmp_path: Path) -> None:
    """Both Arrow formats; `datasets` writes streams, and JSON files next to them."""
    folder = tmp_path / "in"
    folder.mkdir()
    table = pa.table(
        {"text": TEXTS, "score": [0.5, 1.5, 2.5, None], "tags": [["a"], [], None, ["b"]]}
    )
    with pa.ipc.new_stream(folder / "data-00000-of-00002.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.ipc.new_file(folder / "data-00001-of-00002.arrow", table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    assert [entry.name for entry in shards_of(LocalStore(folder))] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
    ]
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        assert [row["text"] for row in rows_of(folder, name)] == TEXTS
        assert [row.get("tags") for row in rows_of(folder, name)] == [["a"], [], None, ["b"]]
    pipeline = Pipeline.from_steps(
        [{"threshold": {"by": "score", "min_score": 1.0, "missing": "reject"}}]
    )
    result = run(pipeline, open_pool(str(folder)), out=str(tmp_path / "out"))
    assert result.record.counts["rows_out"] == 4


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "it has no header"),
        ("a.csv", b"text,text\nx,y\n", "names a column twice"),
        ("a.csv", b"\xff\xfet\0\n\0", "header is not UTF-8"),
        ("a.csv", b"t\0e\0\n\0", "header is not UTF-8"),
        ("a.csv", b"text;id\na, b;1\n", r"one column 'text;id', as if ';' separated columns"),
        ("a.csv", b"text\tid\na\t1\n", r"as if '\\t' separated columns"),
        (
            "a.csv.gz",
            gzip.compress(gzip.compress(b"text,id\na,1\n", mtime=0), mtime=0),
            "compressed twice",
        ),
        ("a.json", b'[{"text": "x"', "it is not JSON"),
        ("a.arrow", b"ARROW1 and nonsense", "a.arrow"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ShardError, match=message):
        list(read_shard(LocalStore(tmp_path), name, shard=0))


def test_commas_separate_columns_of_a_table_in_a_folder_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "all.tsv.parts").mkdir()
    (tmp_path / "all.tsv.parts/a.csv").write_text("id,text\n1,fine\n")
    [chunk] = read_shard(LocalStore(tmp_path), "all.tsv.parts/a.csv", shard=0)
    assert chunk.table["text"].to_pylist() == ["fine"]


def test_a_row_of_another_width_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,fine\n2,one,too many\n3,fine too\n")
    [chunk] = read_shard(LocalStore(tmp_path), "a.csv", shard=0)
    assert chunk.table["text"].to_pylist() == ["fine", "fine too"]
    assert [bad.error for bad in chunk.bad] == ["3 fields, expected 2"]


def test_plain_files_beside_shards_are_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "meta.json").write_text("{}")
    assert [entry.name for entry in shards_of(LocalStore(tmp_path))] == ["a.jsonl"]
    assert "2 files are left out (plain files next to shards of another format)" in caplog.text
