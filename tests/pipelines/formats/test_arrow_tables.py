"""Columns of odd Arrow types: held as what they say, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from pipelines.formats.arrow_tables import NameTaken, check_names, empty_table, normal_table
from pipelines.formats.readers import columns_of
from pipelines.formats.shards import ShardError
from pipelines.schema import STRING
from pipelines.storage.open import open_store

RUNS = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", "y"]))
TENSORS = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6, dtype=np.float32).reshape(3, 2))
JSON = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}', None, "[]"]))
FLAGS = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 7, None], pa.int8()))
INTERVALS = pa.array([(1, 2, 3), None, (0, -1, 1_500_000_000)], pa.month_day_nano_interval())


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        (RUNS, STRING, ["x", "x", "y"]),
        (JSON, STRING, ['{"a":1}', None, "[]"]),
        (FLAGS, pa.bool_(), [False, True, None]),
        (INTERVALS, STRING, ["P1M2DT0.000000003S", None, "P0M-1DT1.500000000S"]),
        (pa.array(["a", None, "b"], pa.string_view()), STRING, ["a", None, "b"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), STRING, ["a", None, "b"]),
    ],
    ids=["runs", "json", "bool8", "intervals", "views", "dictionary"],
)
def test_values_are_held_as_what_they_say(
    values: pa.Array, type_: Any, expected: list[Any]
) -> None:
    table = pa.table({"column": values})
    normal = normal_table(table)
    assert normal.schema.field("column").type == type_
    assert normal["column"].to_pylist() == expected
    assert empty_table(table.schema).schema == normal.schema


def test_tensors_are_lists_in_extra() -> None:
    table = pa.table({"column": TENSORS})
    normal = normal_table(table)
    assert normal["extra"].to_pylist() == [
        '{"column":[0.0,1.0]}',
        '{"column":[2.0,3.0]}',
        '{"column":[4.0,5.0]}',
    ]
    assert empty_table(table.schema).schema == normal.schema


def test_a_union_is_refused_by_name(tmp_path: Path) -> None:
    kinds = [pa.array([1, 2]), pa.array(["x"])]
    codes = pa.array([0, 1, 0], pa.int8())
    union = pa.UnionArray.from_dense(codes, pa.array([0, 0, 1], pa.int32()), kinds)
    table = pa.table({"text": ["a", "b", "c"], "odd": union})
    with pytest.raises(NameTaken, match=r"'odd' holds dense_union.*: give it one type"):
        check_names(table.schema)
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table)
    with pytest.raises(ShardError, match=r"a\.arrow: the column 'odd' holds dense_union"):
        columns_of(open_store(str(tmp_path)), "a.arrow")


def test_texts_in_runs_are_read(tmp_path: Path) -> None:
    check_names(pa.schema([("text", RUNS.type)]))
    assert normal_table(pa.table({"text": RUNS}))["text"].to_pylist() == ["x", "x", "y"]
