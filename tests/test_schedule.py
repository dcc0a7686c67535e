"""The order in which a whole run deals its files to processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests import schedule
from tests.conftest import pytest_ignore_collect

SHARED = [
    "tests/pipelines/dedup/test_embedding.py",
    "tests/pipelines/formats/test_mix.py",
]
LONG = "tests/leaderboard/web/test_app.py"
QUICK = "tests/test_schedule.py"


def test_long_units_come_first_and_stay_whole() -> None:
    paths = [QUICK, SHARED[0], SHARED[0], LONG, SHARED[1], LONG]
    order = [paths[index] for index in schedule.longest_first(paths)]
    units = [schedule.unit_of(path) for path in order]
    assert sorted(units[:5]) == sorted(["ray"] * 3 + [LONG] * 2)
    assert units[0] == units[1]
    assert units[5] == QUICK
    assert [path for path in order if path in SHARED] == [SHARED[0], SHARED[0], SHARED[1]]


def test_durations_name_files_that_exist() -> None:
    """A file that was renamed would be started last: correct its line."""
    for path in schedule.durations():
        assert (schedule.ROOT / path).is_file(), path


def test_a_quick_run_leaves_out_what_is_listed() -> None:
    for quick, expected in ((True, True), (False, None)):
        config: Any = SimpleNamespace(getoption=lambda _, quick=quick: quick)
        assert pytest_ignore_collect(schedule.ROOT / LONG, config) is expected
        assert pytest_ignore_collect(schedule.ROOT / QUICK, config) is None
