"""The columns of all shards of a pool, reconciled before a run."""

from __future__ import annotations

import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.formats.pool_schema import PoolSchema, pool_schema
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from pipelines.storage.local import LocalStore

DAY = datetime.datetime(2024, 5, 1, 12)


def shard(folder: Path, name: str, **columns: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def schema_of_pool(folder: Path) -> PoolSchema:
    store = LocalStore(folder)
    return pool_schema(store, [entry.name for entry in store.list()])


def rows_of(folder: Path, out: Path, *steps: Any) -> list[dict[str, Any]]:
    """What a run writes, shard after shard, without `row`."""
    run(Pipeline.from_steps(list(steps)), open_pool(str(folder)), out=str(out))
    tables = [pq.read_table(path) for path in sorted(out.glob("data/*.parquet"))]
    assert len({table.schema.remove_metadata() for table in tables}) == 1
    rows = [row for table in tables for row in table.to_pylist()]
    return [{name: value for name, value in row.items() if name != "row"} for row in rows]


def test_shards_of_one_schema_need_nothing(tmp_path: Path) -> None:
    shard(tmp_path, "a.parquet", text=["a"], n=[1])
    shard(tmp_path, "b.parquet", text=["b"], n=[2])
    together = schema_of_pool(tmp_path)
    assert together.same
    assert together.schema.names == ["row", "text", "n"]


def test_types_are_widened_in_what_a_run_writes(tmp_path: Path) -> None:
    shard(tmp_path / "p", "a.parquet", text=["a"], n=pa.array([1], pa.int32()), x=[1])
    shard(tmp_path / "p", "b.arrow", text=["b"], n=pa.array([1 << 40]), x=[0.5])
    shard(tmp_path / "p", "c.parquet", text=["c"], n=pa.nulls(1), x=pa.array([2], pa.uint8()))
    assert rows_of(tmp_path / "p", tmp_path / "out") == [
        {"text": "a", "n": 1, "x": 1.0},
        {"text": "b", "n": 1 << 40, "x": 0.5},
        {"text": "c", "n": None, "x": 2.0},
    ]


def test_a_column_that_a_shard_lacks_is_null_there(tmp_path: Path) -> None:
    shard(tmp_path / "p", "a.parquet", text=["a"])
    shard(tmp_path / "p", "b.parquet", score=[0.5], text=["b"])
    assert rows_of(tmp_path / "p", tmp_path / "out", {"word_count": {"min_words": 0}}) == [
        {"text": "a", "score": None},
        {"text": "b", "score": 0.5},
    ]


def test_the_text_is_that_of_all_shards_whichever_comes_first(tmp_path: Path) -> None:
    shard(tmp_path / "p", "a.parquet", other=["no text here"])
    shard(tmp_path / "p", "b.parquet", text=["b", None], other=["x", "y"])
    assert rows_of(tmp_path / "p", tmp_path / "out") == [{"other": "x", "text": "b"}]


def test_a_pool_without_the_column_does_without_texts(tmp_path: Path) -> None:
    shard(tmp_path / "p", "a.parquet", score=[0.1, 0.9])
    kept = rows_of(tmp_path / "p", tmp_path / "out", {"select": {"by": "score", "fraction": 0.5}})
    assert kept == [{"score": 0.9}]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (["1"], [1], "holds large_string in a.parquet and int64 in b.parquet"),
        ([["1"]], ["1"], "holds list<element: string> in a.parquet and large_string in b.parquet"),
        (
            pa.array([DAY], pa.timestamp("us")),
            pa.array([DAY], pa.timestamp("us", "UTC")),
            "with a zone in one and without in the other",
        ),
        ([(1 << 53) + 1], [0.5], "which cannot hold 9007199254740993"),
        (
            [datetime.date(9999, 1, 1)],
            pa.array([DAY], pa.timestamp("ns")),
            "cannot hold 9999-01-01",
        ),
        (pa.array([1 << 63], pa.uint64()), [1], "which cannot hold 9223372036854775808"),
    ],
)
def test_what_is_not_exact_is_refused_before_anything_is_written(
    first: Any, second: Any, said: str, tmp_path: Path
) -> None:
    shard(tmp_path / "p", "a.parquet", text=["a"], k=first)
    shard(tmp_path / "p", "b.parquet", text=["b"], k=second)
    with pytest.raises(ShardError, match="the column 'k'") as refused:
        run(Pipeline.from_steps([]), open_pool(str(tmp_path / "p")), out=str(tmp_path / "out"))
    assert said in str(refused.value)
    assert "a.parquet" in str(refused.value)
    assert "b.parquet" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([(1 << 53) + 1], [0.5], "9007199254740993"),
        (pa.array([1 << 63], pa.uint64()), [1], "9223372036854775808"),
        ([datetime.date(9999, 1, 1)], pa.array([DAY], pa.timestamp("ns")), "timestamp"),
        (pa.array([datetime.datetime(9999, 1, 1)]), pa.array([DAY], pa.timestamp("ns")), "time"),
    ],
)
def test_formats_without_statistics_are_checked_while_they_are_read(
    first: Any, second: Any, said: str, tmp_path: Path
) -> None:
    shard(tmp_path / "p", "a.arrow", text=["a"], k=first)
    shard(tmp_path / "p", "b.arrow", text=["b"], k=second)
    with pytest.raises(ShardError, match=r"a\.arrow: the column 'k' holds") as refused:
        run(Pipeline.from_steps([]), open_pool(str(tmp_path / "p")), out=str(tmp_path / "out"))
    assert said in str(refused.value)


def test_every_shard_keeps_its_zone_and_moments_are_compared(tmp_path: Path) -> None:
    berlin = pa.array([DAY], pa.timestamp("s", "Europe/Berlin"))
    later = pa.array([DAY + datetime.timedelta(microseconds=1)], pa.timestamp("us", "UTC"))
    shard(tmp_path / "p", "a.parquet", text=["same"], at=berlin)
    shard(tmp_path / "p", "b.parquet", text=["same"], at=later)
    steps = [{"exact_dedup": {"keep_by": "at", "keep": "max"}}]
    run(Pipeline.from_steps(steps), open_pool(str(tmp_path / "p")), out=str(tmp_path / "out"))
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert [str(table.schema.field("at").type) for table in tables] == [
        "timestamp[us, tz=Europe/Berlin]",
        "timestamp[us, tz=UTC]",
    ]
    assert [table.num_rows for table in tables] == [0, 1]


def test_dictionaries_are_read_as_their_values(tmp_path: Path) -> None:
    shard(tmp_path / "p", "a.parquet", text=["a"], n=pa.array([7]).dictionary_encode())
    shard(tmp_path / "p", "b.parquet", text=["b"], n=pa.array([8], pa.int32()))
    assert [row["n"] for row in rows_of(tmp_path / "p", tmp_path / "out")] == [7, 8]


def test_only_footers_are_read(tmp_path: Path, monkeypatch: Any) -> None:
    """Of shards of some 250 kB, the 64 kB at their end, where a footer of a kilobyte is."""
    noise = [sha256(str(number).encode()).hexdigest() for number in range(4_000)]
    shard(tmp_path, "first.parquet", text=noise, n=list(range(4_000)))
    data = (tmp_path / "first.parquet").read_bytes()
    for number in range(20):
        (tmp_path / f"{number:03d}.parquet").write_bytes(data)
    read = 0

    class Counting:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def read(self, size: int = -1) -> bytes:
            nonlocal read
            data = self.file.read(size)
            read += len(data)
            return data

    plain = LocalStore.open
    monkeypatch.setattr(LocalStore, "open", lambda store, name: Counting(plain(store, name)))
    assert schema_of_pool(tmp_path).same
    assert 0 < read <= 21 * (64 << 10) < 21 * len(data)
