"""Evaluations of the model for a restored sample: from the logs to the row and the board."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from evals.tasks import RestorationTask, Task, load_task
from leaderboard.board.formats import board_csv
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.results import Row
from leaderboard.submissions.validate import check_bundle
from leaderboard.web.views import constant
from tests.leaderboard.made_up import make_folder


def row_of(folder: Path, **named: object) -> Row:
    made = make_folder(folder, team="a", method="m", **({"benchmark": "ambient"} | named))
    measured = check_bundle(open_bundle(made)).measured
    assert measured is not None
    return measured.row


def without(task: Task, log: pa.Table) -> pa.Table:
    return log.drop(["evaluations"]) if isinstance(task, RestorationTask) else log


def more_for_lines(task: Task, log: pa.Table) -> pa.Table:
    if task.name != "digits_restored_lines":
        return log
    at = log.schema.get_field_index("evaluations")
    return log.set_column(at, "evaluations", pa.array([float(2 * task.steps)] * len(log)))


def test_the_row_has_the_mean_over_tasks(tmp_path: Path) -> None:
    steps = load_task("digits_restored_lines").steps  # type: ignore[union-attr]
    plain = row_of(tmp_path / "plain")
    assert plain.evaluations == steps
    assert row_of(tmp_path / "more", edit=more_for_lines).evaluations == round(steps * 4 / 3, 2)
    assert f",{steps:.1f}\n" in board_csv([plain])
    assert constant([plain, plain])["evaluations"] == f"{steps} evaluations for a restored sample"


def test_old_logs_and_other_benchmarks_have_none(tmp_path: Path) -> None:
    old = row_of(tmp_path / "old", edit=without)
    assert old.evaluations is None
    assert row_of(tmp_path / "text", benchmark="dclm").evaluations is None
    assert constant([old, old])["evaluations"] == ""
