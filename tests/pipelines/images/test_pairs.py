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


def kept(folder: Path, out: Path, steps: Any = BEST) -> list[int]:
    run(Pipeline.from_steps(steps), open_pool(str(folder)), out=str(out), format="uids")
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


def test_a_threshold_reads_its_column_of_pairs_and_misses_it_before_the_run(
    tmp_path: Path,
) -> None:
    steps = [{"threshold": {"by": "score", "min_score": 0.6, "missing": "reject"}}]
    for number, score in enumerate((0.5, 0.7, None)):
        table(tmp_path / "p", f"{number}.parquet", score=pa.array([score], pa.float64()))
    assert kept(tmp_path / "p", tmp_path / "out", steps) == [1]
    table(tmp_path / "q", "a.parquet")
    with pytest.raises(PipelineError, match=r"a\.parquet has no column 'score'"):
        kept(tmp_path / "q", tmp_path / "out2", steps)


def test_a_pool_of_pairs_without_rows_is_an_error_and_one_that_loses_all_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = pa.table({"uid": pa.array([], pa.string()), "score": pa.array([], pa.float64())})
    (tmp_path / "p").mkdir()
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(empty, tmp_path / "p" / name)
    with pytest.raises(PipelineError, match="has no rows: 2 shards were read and all are empty"):
        kept(tmp_path / "p", tmp_path / "out")
    assert not (tmp_path / "out" / "subset.npy").exists()
    table(tmp_path / "p", "c.parquet", score=[0.5])
    assert kept(tmp_path / "p", tmp_path / "out2") == []  # half of one row, rounded down
    assert "none of the 1 rows is left: step 1 (select) took 1 (below_cut 1)" in caplog.text
