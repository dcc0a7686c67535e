"""Captions as people have them: odd encodings, odd tables, names that do not match."""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import PoolError
from pipelines.images.own_captions import captions_of, read_text, refuse_names
from pipelines.storage.open import open_store

Files = dict[str, bytes | str]


def read(
    tmp_path: Path, files: Files, table: str | None = None
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The pairs of a folder of these files, and what was left out."""
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    names = sorted(files)
    images = [name for name in names if name.lower().endswith(".jpg")]
    counts: Counter[str] = Counter()
    store = open_store(str(tmp_path))
    return captions_of(store, names, images, table, counts), {k: n for k, n in counts.items() if n}


def parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("läuft".encode(), "läuft"),
        ("läuft".encode("utf-8-sig"), "läuft"),
        ("läuft".encode("utf-16"), "läuft"),
        (b"\xfe\xff" + "läuft".encode("utf-16-be"), "läuft"),
        ("dog runs".encode("utf-16-le"), None),  # valid UTF-8 with a NUL behind every letter
        ("läuft".encode("latin-1"), None),
        (b"\xff\xfea", None),
        (b"", ""),
    ],
)
def test_text_is_read_by_its_mark_and_never_guessed(data: bytes, text: str | None) -> None:
    assert read_text(data) == text


def test_a_file_of_another_encoding_is_counted(tmp_path: Path) -> None:
    files: Files = {"a.jpg": "", "a.txt": "café".encode("latin-1"), "b.jpg": "", "b.txt": "café"}
    assert read(tmp_path, files) == ([("b.jpg", "café")], {"caption_not_utf8": 1})


def test_suffixes_of_captions_have_no_case_and_blank_ones_are_none(tmp_path: Path) -> None:
    files: Files = {"a.b.JPG": "", "a.b.TXT": "dots\n", "c.jpg": "", "c.txt": " \n"}
    assert read(tmp_path, files) == ([("a.b.JPG", "dots")], {"no_caption": 1})


def test_every_caption_of_an_image_is_a_pair_once(tmp_path: Path) -> None:
    files: Files = {"a.jpg": "", "captions.csv": "image,caption\na.jpg,x\na.jpg,y\na.jpg,x\n"}
    expected = [("a.jpg", "x"), ("a.jpg", "y")]
    assert read(tmp_path / "csv", files) == (expected, {})
    files = {"a.jpg": "", "captions.jsonl": '{"image": "a.jpg", "captions": ["x", "y"]}\n'}
    assert read(tmp_path / "jsonl", files) == (expected, {})
    table = parquet(image=pa.array(["a.jpg"]), captions=pa.array([["x", "y"]]))
    assert read(tmp_path / "parquet", {"a.jpg": "", "captions.parquet": table}) == (expected, {})


def test_a_table_in_a_folder_below_names_the_images_next_to_it(tmp_path: Path) -> None:
    files: Files = {
        "train/a.jpg": "",
        "train/metadata.csv": '\ufefffile_name,text\r\na.jpg,"one\r\nline"\r\n',
        "test/a.jpg": "",
        "test/Metadata.TSV": "File_Name\tText\na.jpg\ttwo, three\n",
    }
    pairs, counts = read(tmp_path, files)
    assert pairs == [("test/a.jpg", "two, three"), ("train/a.jpg", "one\r\nline")]
    assert counts == {}


def test_names_match_whatever_system_wrote_them(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "s/é.jpg")
    files: Files = {decomposed: "", "metadata.csv": "file_name,text\n.\\s\\é.jpg,x\n"}
    assert read(tmp_path, files) == ([(decomposed, "x")], {})


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    files: Files = {
        "a.jpg": "",
        "b.jpg": "",
        "c.jpg": "",
        "metadata.csv": "file_name,text\nc.jpg,\na.jpg,a dog, running\nb.jpg,007\n",
    }
    left_out = {"unreadable_row": 1, "row_without_caption": 1, "no_caption": 2}
    assert read(tmp_path, files) == ([("b.jpg", "007")], left_out)
    files = {"a.jpg": "", "metadata.jsonl": '{"file_name":\n{"file_name": "a.jpg", "text": "x"}\n'}
    assert read(tmp_path / "jsonl", files) == ([("a.jpg", "x")], {"unreadable_row": 1})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("metadata.csv", 'file_name,text\na.jpg,"open\n', r"not valid CSV \(unexpected end"),
        ("metadata.csv", "file_name,text\na.jpg,café\n".encode("latin-1"), "not UTF-8; convert"),
        ("metadata.csv", "", "it has no header"),
        ("metadata.csv", "file_name,text,text\na.jpg,x,y\n", "names a column twice"),
        (
            "metadata.csv",
            "file_name;text\na.jpg;x\n",
            "no column of image names; it has file_name;",
        ),
        ("metadata.csv", "file_name,text\n/d/a.jpg,x\n", "lists '/d/a.jpg', the folder holds 'a.j"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "text": 5}\n', "row 0: the field 'text' is int"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "title": 5}\n', "row_without_caption 1"),
        ("metadata.parquet", b"PAR1", "is not a table of captions"),
        (
            "metadata.parquet",
            parquet(image=pa.array(["a.jpg"]), text=pa.array([5])),
            "the column 'text' holds int64, expected text",
        ),
    ],
)
def test_a_table_that_gives_nothing_is_an_error_that_says_why(
    tmp_path: Path, name: str, data: bytes | str, message: str
) -> None:
    with pytest.raises(PoolError, match=message):
        read(tmp_path, {"a.jpg": "", name: data})


def test_two_tables_of_one_folder_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    files: Files = {
        "a.jpg": "",
        "metadata.csv": "file_name,text\na.jpg,x\n",
        "captions.jsonl": '{"image": "a.jpg", "text": "y"}\n',
    }
    with pytest.raises(PoolError, match=r"two tables .*, captions\.jsonl and metadata\.csv"):
        read(tmp_path, files)
    assert read(tmp_path, files, f"{tmp_path}/metadata.csv") == ([("a.jpg", "x")], {})


def test_text_in_parquet_may_be_bytes_or_a_dictionary(tmp_path: Path) -> None:
    bytes_ = parquet(image=pa.array([b"a.jpg"]), text=pa.array(["é".encode()]))
    assert read(tmp_path / "b", {"a.jpg": "", "metadata.parquet": bytes_})[0] == [("a.jpg", "é")]
    names = pa.array(["a.jpg"]).dictionary_encode()
    coded = parquet(image=names, text=pa.array(["é"]).dictionary_encode())
    assert read(tmp_path / "d", {"a.jpg": "", "metadata.parquet": coded})[0] == [("a.jpg", "é")]


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(PoolError, match=r"'a\\udcff.jpg' is not UTF-8; rename"):
        refuse_names(["a\udcff.jpg"], "images")
