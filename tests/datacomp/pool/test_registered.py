"""Data from elsewhere: a list of uids or tables, checked, external."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.pool.pool import open_pairs
from datacomp.pool.registered import register_tables, register_uids
from pipelines.errors import SubsetError
from pipelines.formats.uid_lists import load_subset, uid_of
from pipelines.operators import PipelineError
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store

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
    found = load_subset(str(tmp_path / "d" / "subset.npy"))
    assert found.tolist() == [(0, 5), (0, 7), (0, 7), (1, 9)]
    assert record.work.external
    assert record.work.pipeline["name"] == "mine"
    chain = read_chain(open_store(str(tmp_path / "d")))
    assert [one.kind for one in chain] == ["pool", "dataset"]
    assert chain[0].id == open_pairs(pool).record.id


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
    found = load_subset(str(tmp_path / "d" / "subset.npy"))
    wanted = sorted([uid_of("u", "x"), uid_of("v", None)])
    assert [f"{int(one['f0']):016x}{int(one['f1']):016x}" for one in found] == wanted


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
