"""Dry runs of steps over the whole pool: planted copies, beside each other and far apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import Pool, open_pool
from pipelines.pipeline import Pipeline
from pipelines.reports import forecast as forecasting
from pipelines.reports.forecast_growth import _share

SHARDS, ROWS = 24, 120


def make_pool(folder: Path, numbers: list[int]) -> Pool:
    """A pool whose texts are equal where their numbers are; 16 of its 24 shards are sampled."""
    folder.mkdir()
    for shard in range(SHARDS):
        lines = []
        for number in numbers[shard * ROWS : (shard + 1) * ROWS]:
            words = np.random.default_rng(number).integers(0, 5000, 30)
            lines.append(orjson.dumps({"text": " ".join(f"w{word}" for word in words)}))
        (folder / f"{shard:02d}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return open_pool(str(folder))


@pytest.mark.parametrize(
    ("copies", "step"), [("anywhere", "exact_dedup"), ("beside", "ngram_bloom_dedup")]
)
def test_what_is_removed_lies_between_the_bounds(tmp_path: Path, copies: str, step: str) -> None:
    total = SHARDS * ROWS
    if copies == "beside":  # every fifth row is the one before it: a sample sees its share
        numbers = [number - 1 if number % 5 == 4 else number for number in range(total)]
    else:  # a part of the sample sees few of the pairs, the sample more, the pool most
        numbers = np.random.default_rng(3).integers(0, total, total).tolist()
    pool = make_pool(tmp_path / "in", numbers)
    pipeline = Pipeline.from_steps([{"word_count": {"min_words": 5}}, step])
    prediction = forecasting.forecast(pipeline, pool, fraction=2 / 3, workers=4)
    assert prediction.sample_rows == total * 2 / 3
    result = run(pipeline, pool, out=str(tmp_path / "out"))
    figures = {
        name: (bar, actual)
        for name, bar, actual in forecasting.compare(prediction, result.summary)
        if name != "CPU seconds"
    }
    assert any(name.startswith("rows behind step 2") for name in figures)
    for name, (bar, actual) in figures.items():
        assert bar.low * 0.99 <= actual <= bar.high * 1.01, name
        if copies == "beside":
            assert bar.value == pytest.approx(actual, rel=0.01), name
        else:  # nearer than "what the sample shows"
            assert abs(bar.value - actual) <= max(abs(bar.high - actual), 0.01 * actual), name
    assert prediction.wall_seconds is not None
    assert 0 < prediction.wall_seconds <= prediction.cpu_seconds.value
    assert "looks at the whole pool" in prediction.notes[0]


def test_what_a_run_would_refuse_a_dry_run_refuses(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(orjson.dumps({"text": "some words"}) + b"\n")
    pipeline = Pipeline.from_steps([{"select": {"by": "qualty", "fraction": 0.5}}])
    with pytest.raises(PipelineError, match="reads the column 'qualty', which is not there"):
        forecasting.forecast(pipeline, open_pool(str(tmp_path / "in")), fraction=1.0)


def test_a_share_grows_as_its_odds_do() -> None:
    # 1/12, 1/6 and 1/3 are removed of n, 2 n and 4 n rows: odds of 1/11, 1/5 and 1/2, which grow
    # faster than n; in proportion to n is the most that is believed.
    share = _share([(300, 275), (600, 500), (1200, 800)], [300, 600, 1200], 4.0, 1200)
    assert share.value == pytest.approx(1 - 2 / 3)  # odds of 1/2, times 4
    # 400 of 1,200 are copies, give or take 1.96 * sqrt(400): 360.8 to 439.2
    assert share.high == pytest.approx(1 - 360.8 / 1200)
    odds = 439.2 / (1200 - 439.2) * 4
    assert share.low == pytest.approx(1 / (1 + odds))


def test_copies_beside_each_other_are_all_seen() -> None:
    share = _share([(500, 400), (1000, 800), (2000, 1600)], [500, 1000, 2000], 1000.0, 2000)
    assert share.value == pytest.approx(0.8)


def test_no_copies_in_a_sample_are_not_no_copies() -> None:
    share = _share([(250, 250), (500, 500), (1000, 1000)], [250, 500, 1000], 100.0, 1000)
    assert (share.value, share.high) == (1.0, 1.0)
    assert share.low == pytest.approx(1 - 0.3 / (0.3 + 0.997))  # 3 of 1,000, their odds times 100


def test_a_whole_pool_is_no_guess() -> None:
    share = _share([(25, 24), (50, 46), (100, 80)], [25, 50, 100], 1.0, 100)
    assert (share.low, share.value, share.high) == (0.8, 0.8, 0.8)
