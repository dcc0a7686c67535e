"""Files and folders as strangers have them: marks, links, wrong names, unreadable folders."""

from __future__ import annotations

import datetime
import gzip
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from pipelines.engine.run import run
from pipelines.engine.run_folder import RunFailed
from pipelines.errors import PipelineError
from pipelines.formats.mixture import load_mixture
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError, shards_of
from pipelines.pipeline import Pipeline
from pipelines.storage.local import LocalStore
from tests.pipelines.behaviour.stranger_pools import jsonl, made, parquet

# ---- files


def test_a_mark_at_the_head_of_a_file_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl").write_bytes("\ufeff".encode() + b'{"text":"a"}\n{"text":"b"}\n')
    assert made(tmp_path) == [{"text": "a"}, {"text": "b"}]


def test_zstd_with_a_window_beyond_the_default_is_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    options = {zstd.CompressionParameter.window_log: 28}
    data = zstd.compress(b'{"text":"a"}\n' * 5 + b" " * (1 << 20), options=options)
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(b'{"text":"a"}\n' * 5) + compressor.flush()
    (tmp_path / "pool/a.jsonl.zst").write_bytes(data)
    assert made(tmp_path) == [{"text": "a"}] * 5


def test_links_are_followed_and_circles_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonl(tmp_path / "elsewhere/d.jsonl", {"text": "d"})
    jsonl(tmp_path / "blobs/deadbeef", {"text": "blob"})
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    (tmp_path / "pool/b.jsonl").symlink_to("../blobs/deadbeef")
    (tmp_path / "pool/linked").symlink_to("../elsewhere")
    (tmp_path / "pool/again").symlink_to(".")
    with caplog.at_level(logging.WARNING):
        assert [row["text"] for row in made(tmp_path)] == ["a", "blob", "d"]
    assert "1 files are left out (a link to a folder that is here already): again" in caplog.text


def test_a_link_to_another_shard_is_reported_and_not_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonl(tmp_path / "pool/2024/b.jsonl", {"text": "b"})
    (tmp_path / "pool/2024/a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "pool/latest.jsonl").symlink_to("2024/a.jsonl")  # by another link
    with caplog.at_level(logging.WARNING):
        assert [row["text"] for row in made(tmp_path)] == ["b"]
    named = "2 files are left out (a link to another shard): 2024/a.jsonl, latest.jsonl"
    assert named in caplog.text
    assert "are one file" not in caplog.text


def test_equal_shards_of_a_hub_cache_and_hard_links_are_each_read_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blob = tmp_path / "blobs/deadbeef"
    jsonl(blob, {"text": "a"})
    pool = tmp_path / "pool"  # as the folder of a snapshot
    pool.mkdir()
    for name in ("0.jsonl", "1.jsonl"):
        (pool / name).symlink_to("../blobs/deadbeef")
    with caplog.at_level(logging.WARNING):
        assert [row["text"] for row in made(tmp_path)] == ["a", "a"]
    assert "2 shards are one file, which is read as often (0.jsonl, 1.jsonl)" in caplog.text
    caplog.clear()
    other = tmp_path / "other"
    jsonl(other / "0.jsonl", {"text": "a"})
    os.link(other / "0.jsonl", other / "1.jsonl")
    (other / "2.jsonl").symlink_to("1.jsonl")
    with caplog.at_level(logging.WARNING):
        assert [entry.name for entry in shards_of(LocalStore(other))] == ["0.jsonl", "1.jsonl"]
    assert "2 shards are one file, which is read as often (0.jsonl, 1.jsonl)" in caplog.text
    assert "1 files are left out (a link to another shard): 2.jsonl" in caplog.text


def test_files_that_are_left_out_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "a.jsonl",
        "_temporary/0/b.jsonl",
        ".hidden.jsonl",
        "c.json",
        "d.jsonl.lz4",
        "_e.jsonl",
    ):
        jsonl(tmp_path / "pool" / name, {"text": name})
    with caplog.at_level(logging.WARNING):
        names = [entry.name for entry in shards_of(LocalStore(tmp_path / "pool"))]
    assert names == ["_e.jsonl", "a.jsonl"]
    assert "1 files are left out (not a format of shards): d.jsonl.lz4" in caplog.text
    assert "(plain files next to shards of another format): c.json" in caplog.text
    assert "2 files are left out (hidden, or of an unfinished job)" in caplog.text


def test_links_to_nothing_and_pipes_are_reported_and_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    (tmp_path / "pool/b.jsonl").symlink_to("nowhere.jsonl")
    os.mkfifo(tmp_path / "pool/c.jsonl")
    with caplog.at_level(logging.WARNING):
        assert [row["text"] for row in made(tmp_path)] == ["a"]
    assert "1 files are left out (a link to nothing): b.jsonl" in caplog.text
    assert "1 files are left out (a pipe, socket or device): c.jsonl" in caplog.text


@pytest.mark.parametrize("field", ["lang", "language"])
def test_a_row_that_names_its_own_value_keeps_it_below_a_folder_of_another(
    tmp_path: Path, field: str
) -> None:
    rows = ({"text": "a", field: "de"}, {"text": "b"}, {"text": "c", field: None})
    jsonl(tmp_path / f"pool/{field}=en/a.jsonl", *rows)
    assert [row[field] for row in made(tmp_path)] == ["de", "en", "en"]


def test_features_beside_a_table_of_pairs_are_not_reported_as_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet(tmp_path / "a.parquet", uid=["0" * 32])
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"")
    assert [entry.name for entry in shards_of(LocalStore(tmp_path))] == ["a.parquet"]
    assert "1 files are left out (not a format of shards): b.npz" in caplog.text


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    jsonl(tmp_path / "pool/closed/a.jsonl", {"text": "a"})
    os.chmod(tmp_path / "pool/closed", 0)
    with pytest.raises(OSError, match="cannot read the folder"):
        shards_of(LocalStore(tmp_path / "pool"))


def test_folders_of_hive_are_columns(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/lang=en/a.jsonl", {"text": "a"})
    parquet(tmp_path / "pool/lang=de/a.parquet", text=["b"])
    assert made(tmp_path) == [{"text": "b", "lang": "de"}, {"text": "a", "lang": "en"}]


def test_a_run_in_its_own_pool_is_refused_and_a_run_below_is_left_out(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool/a.jsonl", {"text": "a"})
    pool = open_pool(str(tmp_path / "pool"))
    for out in ("pool", "pool/run", "pool/../pool/run"):
        with pytest.raises(RunFailed, match="is inside the pool"):
            run(Pipeline.from_steps([]), pool, out=str(tmp_path / out))
    made(tmp_path)
    os.rename(tmp_path / "out", tmp_path / "pool/moved")
    assert [entry.name for entry in shards_of(LocalStore(tmp_path / "pool"))] == ["a.jsonl"]


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"text": "a"})
    with pytest.raises(ShardError, match="is a file; give its folder"):
        shards_of(LocalStore(tmp_path / "a.jsonl"))


def test_attributes_of_dolma_join_the_file_of_their_own_folder(tmp_path: Path) -> None:
    for folder, score in (("", 0.1), ("x/", 0.9)):
        rows = [{"id": str(n), "text": f"{folder}{n}"} for n in range(2)]
        jsonl(tmp_path / f"pool/documents/{folder}a.jsonl", *rows)
        scores = [{"id": str(n), "attributes": {"t": [[0, 1, score]]}} for n in range(2)]
        jsonl(tmp_path / f"pool/attributes/tagger/{folder}a.jsonl", *scores)
    scores_ = [row["attributes"]["t"][0][2] for row in made(tmp_path)]
    assert scores_ == [0.1, 0.1, 0.9, 0.9]


def test_a_mixture_adds_up_and_takes_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    line = "sources: [{dataset: a, name: a, share: 0.9}, {dataset: b, name: b, share: %s}]\n"
    path.write_text(line % "0.1" + "total_tokens: 8e9\n")
    assert load_mixture(path).total_tokens == 8_000_000_000
    for share in ("0.2", "0.05"):
        path.write_text(line % share + "total_tokens: 1000\n")
        with pytest.raises(ValueError, match="the shares add up to"):
            load_mixture(path)


def test_a_key_that_comes_twice_in_a_pipeline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: p\nsteps: [count_words]\nsteps: []\n")
    with pytest.raises(PipelineError, match="the key 'steps' is there twice"):
        Pipeline.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: p\n", "the key steps should hold a list .* says `steps: \\[\\]`"),
        ("name: p\nsteps: count_words\n", "the key steps should hold a list"),
        ("[]\n", "expected a mapping with the keys name and steps"),
        ("name: p\nsteps: [{language: {keep: [no]}}]\n", "truth values: quote the word"),
    ],
)
def test_a_pipeline_that_lacks_its_steps_or_quotes_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    """A name alone ran as no filter at all, and `no` is Norwegian."""
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PipelineError, match=message):
        Pipeline.load(tmp_path / "p.yaml")


# ---- files that are not what their name says, and columns that are not what readers take them for


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b'{"text": "a"}\n', mtime=0), "the file is compressed with gzip, not lines"),
        (zstd.compress(b'{"text": "a"}\n'), "the file is compressed with zstd, not lines"),
        ('{"text": "a"}\n'.encode("utf-16"), "the file is UTF-16"),
        (b"PAR1" + b"\x00" * 20 + b"PAR1", "the file is parquet"),
    ],
)
def test_a_file_under_a_wrong_name_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl").write_bytes(data)
    with pytest.raises(ShardError, match=rf"a\.jsonl, record 1: {message}"):
        made(tmp_path)


def test_a_file_that_is_compressed_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/a.jsonl.gz").write_bytes(gzip.compress(gzip.compress(b'{"text": "a"}\n')))
    with pytest.raises(ShardError, match="compressed with gzip once more"):
        made(tmp_path)


@pytest.mark.parametrize("text", [[["a", "b"]], [{"a": "b"}], [1], [datetime.date(2024, 1, 1)]])
def test_a_text_that_is_none_is_refused_with_its_shard(tmp_path: Path, text: list[Any]) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["good"])
    parquet(tmp_path / "pool/1.parquet", text=text)
    with pytest.raises(ShardError, match=r"1\.parquet: the column 'text' holds .*expected strings"):
        made(tmp_path)


def test_the_folder_of_null_is_null(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/lang=__HIVE_DEFAULT_PARTITION__/a.parquet", text=["a"])
    parquet(tmp_path / "pool/lang=de%2Fat/a.parquet", text=["b"])
    assert made(tmp_path) == [{"text": "a"}, {"text": "b", "lang": "de/at"}]


def test_rows_of_a_shard_without_the_text_column_go_as_no_text(tmp_path: Path) -> None:
    parquet(tmp_path / "pool/0.parquet", text=["a"])
    parquet(tmp_path / "pool/1.parquet", content=["b"])
    assert made(tmp_path) == [{"text": "a"}]
