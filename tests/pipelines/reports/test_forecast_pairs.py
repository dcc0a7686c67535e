"""What a pipeline over pairs is expected to keep: exact for the whole pool, bounded for a part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from leaderboard.rounds.commands import command_line
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import Pool
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline
from pipelines.reports.forecast import forecast_text
from pipelines.reports.forecast_pairs import forecast_pairs

TABLES, ROWS = 12, 150
STEPS = [
    {"picture_size": {"min_side": 32}},
    {"exact_dedup": {"column": "url"}},
    {"select": {"by": "clip_l14_similarity_score", "fraction": 0.3}},
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """1,800 pairs in twelve tables: a fifth is small, each of 900 drawings is there about twice."""
    folder, rng = tmp_path_factory.mktemp("pool"), np.random.default_rng(0)
    for number in range(TABLES):
        table = pa.table(
            {
                "uid": [f"{number * ROWS + row:032x}" for row in range(ROWS)],
                "url": [f"https://h.org/{n}.svg" for n in rng.integers(0, 900, ROWS)],
                "text": ["a drawing"] * ROWS,
                "original_width": np.where(rng.random(ROWS) < 0.2, 16, 224),
                "original_height": [224] * ROWS,
                "clip_l14_similarity_score": rng.random(ROWS),
            }
        )
        pq.write_table(table, folder / f"{number:02d}.parquet")
    return open_pairs(str(folder))


def test_a_sample_of_all_is_what_a_run_gives(pool: Pool, tmp_path: Path) -> None:
    pipeline = Pipeline.from_steps(STEPS)
    prediction = forecast_pairs(pipeline, pool, fraction=1.0)
    steps = run(pipeline, pool, out=str(tmp_path), format="uids").summary.stats.steps
    assert prediction.sample_rows == prediction.rows_in.value == TABLES * ROWS
    assert prediction.pieces == TABLES
    for number in (0, 1):
        bar = prediction.steps[str(number)]
        assert round(bar.value) == round(bar.low) == round(bar.high) == steps[number + 1].rows_out
    assert prediction.rows_out.value == pytest.approx(steps[3].rows_out, abs=1)
    assert "bytes of text" not in forecast_text(prediction)


def test_a_third_bounds_the_rest(pool: Pool, tmp_path: Path) -> None:
    pipeline = Pipeline.from_steps(STEPS[:2])
    prediction = forecast_pairs(pipeline, pool, fraction=1 / 3)
    assert prediction.sample_rows == 4 * ROWS
    stats = run(pipeline, pool, out=str(tmp_path), format="uids").summary.stats
    large, unequal = (prediction.steps[n] for n in ("0", "1"))
    assert large.low < stats.steps[1].rows_out < large.high
    assert unequal.low < stats.rows_out < unequal.high
    assert large.high - large.low < 0.4 * stats.rows_in
    assert prediction.notes  # a sample shows few copies


def test_it_is_refused_as_a_run_would_be(pool: Pool) -> None:
    with pytest.raises(ValueError, match=r"--sample 2: expected a share"):
        forecast_pairs(Pipeline.from_steps(STEPS), pool, fraction=2)
    with pytest.raises(PipelineError, match="has no column 'phash'"):
        forecast_pairs(Pipeline.from_steps(["image_hash_dedup"]), pool, fraction=1)


def test_the_command_writes_nothing(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nsteps:\n  - picture_size: {min_side: 32}\n")
    before = set(Path(pool.uri).rglob("*"))
    result = CliRunner().invoke(
        command_line("datacomp"),
        [
            *("curate", str(tmp_path / "mine.yaml"), "--pool", pool.uri),
            *("--workspace", str(tmp_path / "runs"), "--dry-run", "--sample", "50%"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "rows behind step 1" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml"}
    assert set(Path(pool.uri).rglob("*")) == before
