"""Drawing with repetition: probabilities, bounds, runs, and what a board believes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.formats.pool import Pool, open_pool
from pipelines.job import UIDS
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.selection import SoftCap

ROWS, TABLES = 400, 3


def uid(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % (1 << 128):032x}"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    for table in range(TABLES):
        numbers = range(table * ROWS, (table + 1) * ROWS)
        scores = [None if n % 50 == 7 else n / (TABLES * ROWS) for n in numbers]
        columns = {"uid": [uid(n) for n in numbers], "quality": scores}
        pq.write_table(pa.table(columns), folder / f"{table:02d}.parquet")
    return open_pool(str(folder))


def drawn(
    pool: Pool, out: Path, *, map_tasks: MapTasks = map_here, **given: object
) -> Counter[str]:
    step = {"soft_cap": {"by": "quality", "missing": "drop", **given}}
    pipeline = Pipeline.from_steps([step], name="drawn")
    result = run(pipeline, pool, out=str(out), format=UIDS, map_tasks=map_tasks)
    uids = np.load(out / "subset.npy")
    assert uids.dtype == kernels.uids.SUBSET
    assert result.record.counts["rows_out"] == len(uids)
    assert uids.tolist() == sorted(uids.tolist())
    return Counter(f"{high:016x}{low:016x}" for high, low in uids.tolist())


def test_copies_are_drawn_in_proportion_to_their_weights() -> None:
    # Of rows with scores 1 and 0, each with a second copy of log-weight .7 less, one copy is drawn:
    # the first row's with probability (e + e^.3) / (e + e^.3 + 1 + e^-.7) = e / (e + 1).
    operator = SoftCap(by="s", penalty=0.7, most=2, total=1)
    pairs = 4000
    table = pa.table(
        {
            "uid": pa.array([uid(n) for n in range(2 * pairs)], STRING),
            "s": [1.0, 0.0] * pairs,
        }
    )
    scores = operator.score(Batch(table)).reshape(pairs, 2, 2)
    first = scores.max(2).argmax(1) == 0
    expected = np.e / (np.e + 1)
    error = np.sqrt(expected * (1 - expected) / pairs)
    assert abs(first.mean() - expected) < 4 * error
    # Of the first row's two copies the first comes first with probability 1 / (1 + e^-.7).
    ahead = (scores[:, 0, 0] > scores[:, 0, 1]).mean()
    assert abs(ahead - 1 / (1 + np.exp(-0.7))) < 4 * np.sqrt(0.25 / pairs)


def test_the_size_is_exact_and_no_row_comes_more_often_than_allowed(
    pool: Pool, tmp_path: Path
) -> None:
    given = {"temperature": 0.1, "penalty": 0.5, "most": 4, "total": 1500}
    times = drawn(pool, tmp_path / "one", **given)
    assert times.total() == 1500
    assert max(times.values()) == 4
    best = [times[uid(n)] for n in range(1000, 1200) if n % 50 != 7]
    worst = [times[uid(n)] for n in range(200) if n % 50 != 7]
    assert np.mean(best) > 3
    assert np.mean(worst) < 0.5
    assert not any(times[uid(n)] for n in range(7, TABLES * ROWS, 50))  # without a score
    two = drawn(pool, tmp_path / "two", map_tasks=ProcessMap(2), **given)
    assert two == times
    assert drawn(pool, tmp_path / "other", seed=1, **given) != times


def test_a_high_penalty_spreads_and_a_low_one_repeats(pool: Pool, tmp_path: Path) -> None:
    given = {"temperature": 0.1, "most": 8, "total": 1000}
    spread = drawn(pool, tmp_path / "spread", penalty=5.0, **given)
    repeated = drawn(pool, tmp_path / "repeated", penalty=0.01, **given)
    assert len(spread) > 1.5 * len(repeated)


def test_what_was_drawn_is_counted(pool: Pool, tmp_path: Path) -> None:
    step = {"soft_cap": {"by": "quality", "missing": "drop", "most": 3, "fraction": 0.5}}
    pipeline = Pipeline.from_steps([step], name="counted")
    counts = run(pipeline, pool, out=str(tmp_path / "out"), format=UIDS).record.counts
    assert counts["rows_out"] == TABLES * ROWS // 2
    assert counts["rejected/1/soft_cap/no_score"] == TABLES * ROWS // 50
    stays = TABLES * ROWS - counts["rejected/1/soft_cap/not_drawn"] - TABLES * ROWS // 50
    assert stays < counts["rows_out"] <= 3 * stays


def test_no_step_comes_after_it(pool: Pool, tmp_path: Path) -> None:
    steps = [
        {"soft_cap": {"by": "quality", "total": 10}},
        {"select": {"by": "quality", "total": 5}},
    ]
    with pytest.raises(PipelineError, match="make it the last"):
        run(Pipeline.from_steps(steps, name="p"), pool, out=str(tmp_path / "out"), format=UIDS)


def test_documents_are_repeated_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"text": [f"page {n}" for n in range(9)], "q": [float(n) for n in range(9)]})
    pq.write_table(table, tmp_path / "in/a.parquet")
    step = {"soft_cap": {"by": "q", "column": "row", "most": 3, "total": 12}}
    pool = open_pool(str(tmp_path / "in"))
    run(Pipeline.from_steps([step], name="p"), pool, out=str(tmp_path / "out"))
    [file] = (tmp_path / "out/data").glob("*.parquet")
    texts = Counter(pq.read_table(file)["text"].to_pylist())
    assert texts.total() == 12
    assert texts["page 8"] == 3
