"""Cheats in the logs of image generators, each caught; logs are consistent from the edit on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evals.tasks import Task
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.made_up import make_folder

Change = Callable[[pa.Table], pa.Table]


def with_values(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(log: pa.Table) -> pa.Table:
        values = make(log[name].to_numpy())
        return log.set_column(log.schema.get_field_index(name), name, pa.array(values))

    return change


def rules_and_fields(
    tmp_path: Path, kind: str, change: Change, known: KnownFacts = KnownFacts(())
) -> set[tuple[str, str]]:
    def edit(task: Task, log: pa.Table) -> pa.Table:
        return change(log) if task.kind == kind else log

    options = {"benchmark": "ambient", "team": "cheat", "method": "m", "chance": 1}
    folder = make_folder(tmp_path / "cheat", edit=edit, **options)
    faults = check_bundle(open_bundle(folder), known=known).faults
    return {(fault.rule, fault.field) for fault in faults}


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        ("image_clip", lambda log: log.slice(0, 5), "row"),  # the best five clips
        ("image_sampling", lambda log: log.slice(0, 32), "row"),
        ("image_restoration", lambda log: log.slice(0, 63), "row"),
        ("image_generation", lambda log: log.slice(0, 63), "row"),
        ("image_restoration", with_values("error", lambda x: -x), "error"),
        ("image_clip", with_values("moved", lambda x: -x), "moved"),
        ("image_restoration", with_values("evaluations", lambda x: 2 * x + 1), "evaluations"),
        ("image_restoration", with_values("evaluations", lambda x: x * np.nan), "evaluations"),
    ],
)
def test_rows_left_out_and_distances_below_zero_are_refused(
    kind: str, change: Change, field: str, tmp_path: Path
) -> None:
    assert rules_and_fields(tmp_path, kind, change) == {("arithmetic", field)}


def test_what_the_zero_filled_images_cost_is_the_data_s(tmp_path: Path) -> None:
    """A score is over it: made ten times as large, every model restores ten times as well."""
    honest = make_folder(tmp_path / "honest", benchmark="ambient", team="first", method="first")
    facts = check_bundle(open_bundle(honest)).facts
    assert facts is not None
    known = KnownFacts((facts.model_copy(update={"accepted": True}),))
    plain = rules_and_fields(tmp_path / "a", "image_restoration", lambda log: log, known)
    assert plain == set()
    larger = with_values("unaided", lambda x: 10 * x)
    caught = rules_and_fields(tmp_path / "b", "image_restoration", larger, known)
    assert {rule for rule, _ in caught} == {"arithmetic"}
