"""Tables of pairs are checked together before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline

BEST = [{"select": {"by": "score", "fraction": 0.5}}]


def table(folder: Path, name: str, **columns: Any) -> None:
    folder.mkdir(exist_ok=True)
    number = len(list(folder.iterdir()))
    pq.write_table(pa.table({"uid": [f"{number:032x}"], **columns}), folder / name)


def kept(folder: Path, out: Path) -> list[int]:
    run(Pipeline.from_steps(BEST), open_pool(str(folder)), out=str(out), format="uids")
    return [int(low) for _, low in np.load(out / "subset.npy").tolist()]


def test_numbers_of_several_widths_are_compared_by_value(tmp_path: Path) -> None:
    table(tmp_path / "p", "a.parquet", score=pa.array([0.5], pa.float32()))
    table(tmp_path / "p", "b.parquet", score=[3])
    assert kept(tmp_path / "p", tmp_path / "out") == [1]


def test_another_kind_of_value_in_a_later_table_is_refused_with_both(tmp_path: Path) -> None:
    table(tmp_path / "p", "a.parquet", score=[0.5])
    table(tmp_path / "p", "b.parquet", score=["0.7"])
    said = r"'score' holds double in a\.parquet and large_string in b\.parquet"
    with pytest.raises(ShardError, match=said):
        kept(tmp_path / "p", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_column_that_a_later_table_lacks_is_said_before_the_run(tmp_path: Path) -> None:
    table(tmp_path / "p", "a.parquet", score=[0.5])
    table(tmp_path / "p", "b.parquet")
    with pytest.raises(PipelineError, match=r"b\.parquet has no column 'score'"):
        kept(tmp_path / "p", tmp_path / "out")
