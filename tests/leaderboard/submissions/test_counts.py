"""How many rows a dataset may have where a step keeps rows several times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leaderboard.rules import load_benchmark
from leaderboard.submissions.validate import check
from pipelines.records import Submission, parse_record
from tests.leaderboard.behaviour.test_scales import changed
from tests.leaderboard.made_up import make_folder

DRAWN: dict[str, Any] = {"operator": "soft_cap", "parameters": {"by": "quality", "most": 3}}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Submission:
    """A dataset of pairs of which a last step keeps six in ten, each once."""
    folder = tmp_path_factory.mktemp("drawn") / "s"
    made = make_folder(folder, benchmark="datacomp", rows=20, method="drawn", steps=[DRAWN])
    return read(made)


def read(folder: Path) -> Submission:
    record = parse_record((folder / "submission.json").read_bytes(), source="made up")
    assert isinstance(record, Submission)
    return record


@pytest.mark.parametrize(
    ("times", "most", "passes"),
    [(3, 3, True), (3.01, 3, False), (0.9, 3, False), (2, "many", False), (2, 1, False)],
)
def test_rows_are_kept_at_most_as_often_as_the_step_says(
    drawn: Submission, times: float, most: object, *, passes: bool
) -> None:
    def change(fields: dict[str, Any]) -> None:
        rows = round(fields["counts"]["rows_out"] * times)
        fields["counts"]["rows_out"] = rows
        fields["outputs"][0]["num_rows"] = rows
        fields["work"]["pipeline"]["steps"][0]["parameters"]["most"] = most

    def packed(fields: dict[str, Any]) -> None:
        fields["counts"]["samples"] = 1000

    record = changed(changed(drawn, "dataset", change), "packed", packed)
    faults = [
        fault for fault in check(record, load_benchmark("datacomp")) if "rows_out" in fault.field
    ]
    assert not faults if passes else "what came in less what was rejected" in str(faults[0])
