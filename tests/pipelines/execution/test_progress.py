"""What a log says of a long step: a line every half minute, and a summary."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipelines.execution import progress


def test_a_log_gets_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(progress, "console", Console(file=log, highlight=False, width=200))
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.step("pass 1 of 2", total=100, unit="shards") as step:
        for _ in range(90):
            clock[0] += 1
            step.advance()
        step.at(95, extra="loss 2.5")
        clock[0] += 30
        step.at(100, extra="loss 2.4")
    assert log.getvalue().splitlines() == [
        "pass 1 of 2: 30 of 100 shards, 30 s, 1 shards/s, about 70 s left",
        "pass 1 of 2: 60 of 100 shards, 60 s, 1 shards/s, about 40 s left",
        "pass 1 of 2: 90 of 100 shards, 90 s, 1 shards/s, about 10 s left",
        "pass 1 of 2: 100 of 100 shards, 120 s, 0.833 shards/s, about 0 s left  loss 2.4",
        "pass 1 of 2: 100 shards, 120.0 s, 0.833 shards/s",
    ]


def test_a_short_step_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=log, highlight=False, width=200))
    with progress.step("join", total=3, unit="files") as step:
        step.advance(3)
    assert log.getvalue().count("\n") == 1
