"""Items of a suite in a dataset: what a submission says of them, and what it hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leaderboard.submissions.bundle import DocumentList, OverlapOf
from leaderboard.submissions.facts import KnownFacts
from tests.leaderboard.frauds import checked, column, only, rules_of
from tests.leaderboard.made_up import make_folder

# ---- overlap with the suite


def test_a_dataset_with_the_suites_items_has_two_scores(tmp_path: Path) -> None:
    """The model answers the 20 items that its dataset holds; of the other 40 it knows few."""

    def leaked(log: pa.Table) -> pa.Table:
        right = np.arange(len(log)) < 20
        gold = log["gold"].to_numpy()
        log = column(log, "predicted", pa.array(np.where(right, gold, 1 - gold), pa.int32()))
        return column(column(log, "correct", right), "credit", right.astype(float))

    answer = {
        "heldout_next_sentence": OverlapOf(num_items=60, found=tuple(range(20))),
        "heldout_ending": OverlapOf(num_items=60),
    }
    folder = make_folder(tmp_path, edit=only("multiple_choice", leaked), overlap=answer)
    verdict = checked(folder)
    assert verdict.faults == ()
    [notice] = [notice for notice in verdict.notices if notice.rule == "honesty.overlap"]
    assert notice.text == (
        "heldout_next_sentence: 20 of 60 items occur in the dataset; score 0.3333, without them "
        "0.0000"
    )
    assert verdict.measured is not None
    overlap = verdict.measured.row.overlap
    assert overlap is not None
    assert (overlap.num_items, overlap.num_found) == (120, 20)
    assert overlap.clean == pytest.approx(verdict.measured.row.headline.value)  # bits per byte


def test_a_dataset_with_the_suites_images_has_two_scores(tmp_path: Path) -> None:
    """Half of the retrieval rows occur in the dataset, and all of them are answered rightly."""

    def leaked(log: pa.Table) -> pa.Table:
        known = np.arange(len(log)) % 2 == 0
        gold = log["gold"].to_numpy()
        log = column(log, "predicted", np.where(known, gold, (gold + 1) % 200))
        return column(column(log, "rank", np.where(known, 0, 70)), "correct", known)

    folder = make_folder(
        tmp_path,
        benchmark="datacomp",
        rows=400,
        edit=only("image_retrieval", leaked),
        overlap={"emoji_retrieval": OverlapOf(num_items=400, found=tuple(range(0, 400, 2)))},
    )
    verdict = checked(folder)
    assert verdict.faults == ()
    [notice] = [notice for notice in verdict.notices if notice.rule == "honesty.overlap"]
    assert notice.text == (
        "emoji_retrieval: 200 of 400 items occur in the dataset; score 0.5000, without them 0.0000"
    )
    assert verdict.measured is not None
    overlap = verdict.measured.row.overlap
    assert overlap is not None
    assert (overlap.num_found, overlap.clean) == (200, 0.0)


def test_an_overlap_that_leaves_too_little_for_a_metric_has_no_second_score(tmp_path: Path) -> None:
    """All of one task occurs in the dataset; nothing of it is clean."""
    overlap = {"emoji_retrieval": OverlapOf(num_items=400, found=tuple(range(400)))}
    verdict = checked(make_folder(tmp_path, benchmark="datacomp", rows=400, overlap=overlap))
    assert verdict.measured is not None
    assert verdict.measured.row.overlap is not None
    assert verdict.measured.row.overlap.clean is None


def test_an_overlap_of_rows_that_are_not_there_is_refused(tmp_path: Path) -> None:
    for page in (OverlapOf(num_items=60, found=(999,)), OverlapOf(num_items=1, found=(1, 2))):
        answer = {"heldout_next_sentence": page}
        assert rules_of(make_folder(tmp_path, overlap=answer)) == {"arithmetic"}


@pytest.mark.parametrize(
    "message",
    [
        DocumentList(count=3, sketch=(5, 4, 3)),
        DocumentList(count=3, sketch=(4, 4)),
        DocumentList(count=1, sketch=(1, 2)),
        DocumentList(count=9),
    ],
)
def test_a_sketch_that_is_none_is_refused(message: DocumentList, tmp_path: Path) -> None:
    assert rules_of(make_folder(tmp_path, documents=message)) == {"form.documents"}


def test_losses_that_are_too_close_are_shown_to_the_reviewer(tmp_path: Path) -> None:
    first = checked(make_folder(tmp_path, team="first", method="first", seeds=(124, 125)))
    assert first.facts is not None
    moved = {
        "124": tuple(losses_ + 1e-4 for losses_ in first.facts.losses["124"]),
    }
    near = first.facts.model_copy(
        update={"losses": moved, "id": "0" * 32, "team": "second", "pipeline": "x", "logs": ()}
        | {"weights": (), "packed": (), "data": ()}
    )
    verdict = checked(
        make_folder(tmp_path, team="first", method="first", seeds=(124, 125)),
        KnownFacts((near,)),
    )
    assert any(notice.rule == "novelty.losses" for notice in verdict.notices)
