"""Data from elsewhere: a list of uids or tables, checked, external."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from datacomp.options import RegisterOptions
from datacomp.packing.pack import pack_dataset
from datacomp.pool.registered import register, register_tables, register_uids
from datacomp.recipe import load_recipe
from leaderboard.rounds.commands import command_line
from leaderboard.submissions.submission import list_of
from pipelines.errors import PipelineError, PoolError, SubsetError
from pipelines.execution.executors import map_here
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_lists import load_subset, uid_of
from pipelines.images.pairs import open_pairs
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store
from tests.datacomp.image_pool import draw

UIDS = [(0, 5), (0, 7), (1, 1), (1, 9), (9, 0)]


@pytest.fixture
def pool(tmp_path: Path) -> str:
    folder = tmp_path / "pool"
    folder.mkdir()
    for name, part in (("a", UIDS[3:]), ("b", UIDS[:3])):
        uids = [f"{high:016x}{low:016x}" for high, low in part]
        table = pa.table({"uid": uids, "text": ["x"] * len(uids), "url": ["u"] * len(uids)})
        pq.write_table(table, folder / f"{name}.parquet")
    return str(folder)


def save(path: Path, ids: list[tuple[int, int]]) -> str:
    np.save(path, np.array(ids, dtype=[("f0", "<u8"), ("f1", "<u8")]))
    return str(path)


def test_a_list_is_sorted_and_keeps_its_repeats(pool, tmp_path):
    file = save(tmp_path / "ids.npy", [(1, 9), (0, 7), (0, 5), (0, 7)])
    record = register_uids(file, out=str(tmp_path / "d"), name="mine", pool=open_pairs(pool))
    uids = load_subset(str(tmp_path / "d" / "subset.npy"))
    assert uids.tolist() == [(0, 5), (0, 7), (0, 7), (1, 9)]
    assert record.work.external
    assert record.work.pipeline["name"] == "mine"
    chain = read_chain(open_store(str(tmp_path / "d")))
    assert [record.kind for record in chain] == ["pool", "dataset"]
    assert chain[0].id == open_pairs(pool).record.id
    assert list_of(chain) == str(tmp_path / "d" / "subset.npy")  # where `submit` looks for it


def test_uids_that_the_pool_lacks_are_named(pool, tmp_path):
    file = save(tmp_path / "ids.npy", [(0, 5), (0, 6), (2, 2)])
    with pytest.raises(SubsetError, match=rf"2 of 3 uids are not in the pool.*as {6:032x}"):
        register_uids(file, out=str(tmp_path / "d"), name="mine", pool=open_pairs(pool))
    record = register_uids(file, out=str(tmp_path / "d"), name="mine")
    assert record.counts["rows_out"] == 3


def test_own_tables_are_taken_with_their_uids(pool, tmp_path):
    record = register_tables(open_pairs(pool), out=str(tmp_path / "d"), name="mine")
    assert record.counts["rows_out"] == 5
    assert load_subset(str(tmp_path / "d" / "subset.npy")).tolist() == UIDS


def test_rows_without_a_uid_get_that_of_address_and_caption(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    pq.write_table(pa.table({"url": ["u", "v"], "text": ["x", None]}), folder / "a.parquet")
    register_tables(open_pairs(str(folder)), out=str(tmp_path / "d"), name="mine")
    uids = load_subset(str(tmp_path / "d" / "subset.npy"))
    expected = sorted([uid_of("u", "x"), uid_of("v", None)])
    assert [f"{int(id_['f0']):016x}{int(id_['f1']):016x}" for id_ in uids] == expected


def test_what_is_no_uid_or_no_table_is_refused(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    table = pa.table({"url": ["u"], "text": ["x"], "uid": ["ABC"]})
    pq.write_table(table, folder / "a.parquet")
    with pytest.raises(SubsetError, match=r"a\.parquet, row 0: the uid is 'ABC'"):
        register_tables(open_pairs(str(folder)), out=str(tmp_path / "d"), name="mine")
    pq.write_table(pa.table({"url": ["u"]}), folder / "a.parquet")
    with pytest.raises(PipelineError, match="has no column 'text'"):
        register_tables(open_pairs(str(folder)), out=str(tmp_path / "d"), name="mine")


def test_a_folder_that_holds_a_dataset_is_left_alone(pool, tmp_path):
    register_tables(open_pairs(pool), out=str(tmp_path / "d"), name="mine")
    with pytest.raises(SubsetError, match="holds a dataset already"):
        register_tables(open_pairs(pool), out=str(tmp_path / "d"), name="mine")


def test_a_folder_of_images_is_registered_and_packed_by_two_commands(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        data, caption = draw(number)
        (images / f"{number}.png").write_bytes(data)
        (images / f"{number}.txt").write_text(f"{caption} {number}")
    run = CliRunner()
    out = str(tmp_path / "d")
    app = command_line("datacomp")
    made = run.invoke(app, ["register", "--folder", str(images), "--name", "mine", "--out", out])
    assert made.exit_code == 0, made.output
    assert "6 rows" in made.output
    packed = pack_dataset(
        out, recipe=load_recipe("tiny"), out=str(tmp_path / "p"), map_tasks=map_here
    )
    assert packed.counts["samples"] == 6
    assert packed.counts["uids_without_sample"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what is registered"),
        ({"uids": "a.npy", "parquet": "b"}, "say what is registered"),
        ({"uids": "a.npy", "captions": "c.csv"}, "--captions goes with --folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    with pytest.raises(PoolError, match=message):
        register(RegisterOptions(**options), out=str(tmp_path), name="x", map_tasks=map_here)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"url": pa.array([7]), "text": ["a"]}, "the column 'url' holds int64, expected text"),
        ({"url": ["u"], "text": pa.array([["a"]])}, "the column 'text' holds list"),
        ({"url": ["u"], "text": ["a"], "uid": pa.array([7])}, "'uid' holds int64"),
        ({"url": pa.array([b"\xff"]), "text": ["a"]}, "'url' holds bytes that are not UTF-8"),
    ],
)
def test_columns_of_other_types_are_named(tmp_path, table, message):
    folder = tmp_path / "own"
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "a.parquet")
    with pytest.raises(ShardError, match=rf"a\.parquet.*{message}"):
        register_tables(open_pairs(str(folder)), out=str(tmp_path / "d"), name="mine")


def test_a_column_twice_is_named(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    arrays = [pa.array(["u"]), pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(arrays, ["url", "text", "text"]), folder / "a.parquet")
    with pytest.raises(ShardError, match="has 2 columns 'text'"):
        register_tables(open_pairs(str(folder)), out=str(tmp_path / "d"), name="mine")


def test_text_of_bytes_and_rows_without_uid_have_the_uid_of_the_text(tmp_path):
    """Null uids, a column of nulls, dictionaries, and UTF-8 in a column of bytes."""
    own = "ab" * 16
    expected = sorted([uid_of("u", "a"), uid_of("v", None)])
    urls, texts = ["u", "v"], ["a", None]
    tables = {
        "bytes": {"url": pa.array([b"u", b"v"]), "text": pa.array([b"a", None], pa.binary())},
        "nulls": {"url": urls, "text": texts, "uid": pa.nulls(2)},
        "null": {"url": urls, "text": texts, "uid": pa.array([None, own])},
        "coded": {"url": pa.array(urls).dictionary_encode(), "text": texts},
        "view": {"url": pa.array(urls, pa.string_view()), "text": texts},
    }
    for name, columns in tables.items():
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.table(columns), folder / "a.parquet")
        register_tables(open_pairs(str(folder)), out=str(tmp_path / f"{name}-d"), name="mine")
        actual = load_subset(str(tmp_path / f"{name}-d" / "subset.npy"))
        uids = [f"{int(item['f0']):016x}{int(item['f1']):016x}" for item in actual]
        assert uids == (sorted([uid_of("u", "a"), own]) if name == "null" else expected), name


def test_a_list_and_tables_without_a_pair_are_no_dataset(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros(0, "u8,u8"))
    with pytest.raises(SubsetError, match=r"none\.npy holds no uid"):
        register_uids(str(tmp_path / "none.npy"), out=str(tmp_path / "o"), name="x")
    (tmp_path / "tables").mkdir()
    empty = pa.table({"url": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "tables" / "a.parquet")
    with pytest.raises(SubsetError, match="hold no pair"):
        register_tables(open_pairs(str(tmp_path / "tables")), out=str(tmp_path / "o"), name="x")
