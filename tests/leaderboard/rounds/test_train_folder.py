from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.rounds.train_folder import claim, metric_lines
from pipelines.records import RecordError


def test_a_folder_belongs_to_one_training_run(tmp_path: Path) -> None:
    marker = tmp_path / "work.json"
    claim(marker, "a")
    claim(marker, "a")
    with pytest.raises(RecordError, match="holds another training run, unfinished"):
        claim(marker, "b")


def test_a_repeated_step_counts_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert metric_lines(path) == []
    path.write_text('{"step":2,"loss":5}\n{"step":1,"loss":9}\n{"step":2,"loss":4}\n{"step":3,"lo')
    assert metric_lines(path) == [{"step": 1, "loss": 9}, {"step": 2, "loss": 4}]
