"""The tables of docs/scale.md follow from the benches' rows."""

from __future__ import annotations

import pytest

from benches import scale
from benches.scale import (
    PAGE,
    PERFORMANCE,
    POOLS,
    STAGES,
    PoolSize,
    Rate,
    filled,
    lowest,
    merged,
    plain,
)


def test_the_page_is_what_the_rows_say() -> None:
    page = PAGE.read_text()
    assert filled(page, PERFORMANCE.read_text()) == page, "run: python benches/scale.py"


def test_a_stage_without_a_row_says_which_bench_to_run() -> None:
    page = PERFORMANCE.read_text().replace("quality classifier, 2 M buckets", "another")
    with pytest.raises(ValueError, match=r"quality classifier.*run benches/bench_text\.py"):
        filled(PAGE.read_text(), page)


def test_the_lowest_of_several_runs_counts() -> None:
    assert lowest("45.8, 61, 66.7 in three runs") == 45.8
    assert lowest("1,050") == 1050
    assert lowest("-") is None


def test_hours_are_bytes_by_rate() -> None:
    """400m-1x: 10,305 files of 45.5 M tokens at 4.2 bytes are 1.969 TB; at 100 MB/s 5.47 hours."""
    rate = Rate(STAGES[1], 100.0, None, "", "")
    assert scale.core_hours(rate, POOLS[0], 100.0) == pytest.approx(5.470, abs=0.001)
    extraction = Rate(STAGES[0], 90.0, None, "", "")
    assert scale.core_hours(extraction, POOLS[0], 90.0) == pytest.approx(143.1, abs=0.1)  # of HTML


def test_merged_files_cost_less_than_the_computation_of_a_dump() -> None:
    dump = next(pool for pool in POOLS if pool.name == "one dump")
    before = scale.shuffles(dump, merge=False)
    after = scale.shuffles(dump, merge=True)
    assert before.dollars > 1000
    assert after.dollars < 60


def test_requests_are_counted_by_hand() -> None:
    assert plain(10, 7).gets == 10 * 7 * 3
    # files of 300 MB: three to a task; ten are four, each slice of which is three requests
    several = merged(10, 7, 300e6)
    assert (several.slices, several.gets, several.puts) == (28, 10 + 28 * 3, 4)
    assert merged(10, 7, 2e9).gets == plain(10, 7).gets  # one fills a task: nothing to merge


def test_a_pool_has_the_published_size() -> None:
    whole = PoolSize("DCLM-Pool", 5.27e6)
    assert whole.tokens == pytest.approx(240e12, rel=0.01)
    assert whole.documents == pytest.approx(200e9, rel=0.01)
    assert whole.pages == pytest.approx(370e12, rel=0.01)
