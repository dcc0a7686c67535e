"""Pools without rows, and columns of every kind that other people's tables have."""

from __future__ import annotations

import datetime
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.apply import apply
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline


def parquet(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def made(folder: Path, *steps: Any, format: str, to: str = "out") -> list[dict[str, Any]]:
    """The documents of a pipeline over `folder`/pool, as they are in the files it writes."""
    result = run(
        Pipeline.from_steps(steps),
        open_pool(str(folder / "pool")),
        out=str(folder / to),
        format=format,
    )
    files = [folder / to / file.name for file in result.record.outputs]
    if format == "parquet":
        tables = [pq.read_table(file, partitioning=None) for file in files]
        return [row for table in tables for row in table.drop_columns("row").to_pylist()]
    lines = b"".join(gzip.decompress(file.read_bytes()) for file in files).splitlines()
    return [orjson.loads(line) for line in lines]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_pool_without_rows_is_an_error_and_an_empty_shard_is_none(
    tmp_path: Path, kind: str
) -> None:
    for name in ("a", "b"):
        parquet(tmp_path / "pool" / f"{name}.parquet", text=pa.array([], pa.string()))
        if kind == "jsonl":
            (tmp_path / "pool" / f"{name}.parquet").unlink()
            (tmp_path / "pool" / f"{name}.jsonl").touch()
    with pytest.raises(PipelineError, match="pool has no rows: 2 shards were read and all are"):
        made(tmp_path, format="jsonl.gz")
    parquet(tmp_path / "pool/c.parquet", text=["one"])
    assert made(tmp_path, format="jsonl.gz", to="again") == [{"text": "one"}]


def test_a_table_without_rows_is_applied_as_it_is_and_one_without_texts_is_an_error() -> None:
    """The second as the reference has it: a page whose text is null is an error there."""
    pipeline = Pipeline.from_steps(["count_words"])
    assert apply(pipeline, pa.table({"text": pa.array([], pa.string())})).table.num_rows == 0
    with pytest.raises(PipelineError, match="has a text"):
        apply(pipeline, pa.table({"text": pa.nulls(1, pa.string())}))


NESTED = None  # nested values travel as JSON in `extra`
DAY = datetime.timedelta(days=1)
COLUMNS: dict[str, tuple[pa.Array, Any, Any]] = {
    "decimal": (
        pa.array([Decimal("0.10"), Decimal("-99999999999999999.99")], pa.decimal128(19, 2)),
        [Decimal("0.10"), Decimal("-99999999999999999.99")],
        ["0.10", "-99999999999999999.99"],
    ),
    "large decimal": (
        pa.array([Decimal(10) ** 40, None], pa.decimal256(50, 0)),
        [Decimal(10) ** 40, None],
        ["1" + "0" * 40, None],
    ),
    "dictionary": (pa.array(["x", None]).dictionary_encode(), ["x", None], ["x", None]),
    "list of structs": (
        pa.array([[{"a": 1, "b": None}, {"a": None, "b": "\u00e9"}], []]),
        NESTED,
        [[{"a": 1, "b": None}, {"a": None, "b": "\u00e9"}], []],
    ),
    "duration": (
        pa.array([DAY, None], pa.duration("ms")),
        [DAY, None],
        [86400.0, None],
    ),
    "unsigned": (
        pa.array([2**64 - 1, 2**53 + 1], pa.uint64()),
        [2**64 - 1, 2**53 + 1],
        [2**64 - 1, 2**53 + 1],
    ),
    "structs of lists of structs": (
        pa.array([{"a": [{"b": [1, 2]}]}, None]),
        NESTED,
        [{"a": [{"b": [1, 2]}]}, None],
    ),
}
"""A column, its values in parquet output, and in JSON lines."""


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_arrive_in_either_format_as_they_were(tmp_path: Path, name: str) -> None:
    column, in_parquet, in_json = COLUMNS[name]
    parquet(tmp_path / "pool/a.parquet", text=["one", "two"], value=column)
    rows = made(tmp_path, format="parquet", to="parquet")
    if in_parquet is NESTED:
        assert [orjson.loads(row["extra"] or "{}").get("value") for row in rows] == in_json
    else:
        assert [row["value"] for row in rows] == in_parquet
    assert [row.get("value") for row in made(tmp_path, format="jsonl.gz", to="json")] == in_json


def test_ids_beyond_signed_integers_stay_apart(tmp_path: Path) -> None:
    """As floats all three would be one number."""
    ids = [2**64 - 1, 2**64 - 2, 2**64 - 1]
    parquet(tmp_path / "pool/a.parquet", text=["a", "b", "c"], id=pa.array(ids, pa.uint64()))
    rows = made(tmp_path, {"exact_dedup": {"column": "id"}}, format="jsonl.gz")
    assert [(row["text"], str(row["id"])) for row in rows] == [
        ("a", str(2**64 - 1)),
        ("b", str(2**64 - 2)),
    ]


@pytest.mark.parametrize("by", ["decimal", "duration", "unsigned"])
def test_the_largest_value_of_any_type_is_kept(tmp_path: Path, by: str) -> None:
    types = {
        "decimal": pa.decimal128(25, 2),
        "duration": pa.duration("ns"),
        "unsigned": pa.uint64(),
    }
    large = pa.array([2**63 - 2, 2**63 - 1, 2**63 - 3], pa.int64())
    if by == "unsigned":
        values = pa.array([2**63 + 1, 2**64 - 1, 5], pa.uint64())
    else:
        values = large.cast(types[by])
    parquet(tmp_path / "pool/a.parquet", text=["same"] * 3, n=[0, 1, 2], value=values)
    steps = {"exact_dedup": {"keep_by": "value"}}
    assert [row["n"] for row in made(tmp_path, steps, format="jsonl.gz")] == [1]


def test_folders_of_hive_are_unescaped_once(tmp_path: Path) -> None:
    """Spark writes %XX for what a file name may not hold; `=` and blanks stay as they are."""
    parquet(tmp_path / "pool/site=a%2Fb%3A c/kind=x=y/a.parquet", text=["one"])
    parquet(tmp_path / "pool/site=100%2525/kind=\u00e9 \u65e5/a.parquet", text=["two"])
    rows = made(tmp_path, format="jsonl.gz")
    assert sorted((row["text"], row["site"], row["kind"]) for row in rows) == [
        ("one", "a/b: c", "x=y"),
        ("two", "100%25", "\u00e9 \u65e5"),
    ]


def test_decimals_beyond_the_distance_that_is_compared_are_named(tmp_path: Path) -> None:
    value = pa.array([Decimal(10) ** 60 + 1, Decimal(10) ** 60], pa.decimal256(62, 0))
    parquet(tmp_path / "pool/a.parquet", text=["same"] * 2, value=value)
    with pytest.raises(Exception, match=r"at most 35 digits, and 'value' holds 10+"):
        made(tmp_path, {"exact_dedup": {"keep_by": "value"}}, format="jsonl.gz")


def test_decimal_scores_are_numbers(tmp_path: Path) -> None:
    scores = [Decimal("0.49"), Decimal("0.50")]
    parquet(tmp_path / "pool/a.parquet", text=["low", "high"], s=pa.array(scores))
    rows = made(tmp_path, {"threshold": {"by": "s", "min_score": 0.5}}, format="parquet")
    assert rows == [{"text": "high", "s": Decimal("0.50")}]
