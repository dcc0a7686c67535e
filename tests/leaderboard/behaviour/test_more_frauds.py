"""A second set of frauds: seeds that are one seed, numbers that are none, counts that do not fit.

Those of records alone (files, funnel, packed rows, pool) are tried at every scale in test_scales.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from evals.tasks import Task
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.faults import HINTS
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard import made_up
from tests.leaderboard.frauds import checked, column, known_of, only, rules_of
from tests.leaderboard.made_up import make_folder
from tests.leaderboard.made_up_logs import log_of


def same_answers(task: Task, log: pa.Table) -> pa.Table:
    """The log of one seed for every seed."""
    return log_of(task, 0.5, len(log), np.random.default_rng(0))


def test_one_seeds_answers_for_two_seeds_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, seeds=(124, 125), edit=same_answers)
    [fault] = checked(folder).faults
    assert fault.rule == "novelty.copy"
    assert fault.found == "the answers of seed 124 again"


def test_one_seeds_model_for_two_seeds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = made_up._file

    def one_model(name: str, *about: object, **sizes: Any) -> Any:
        return (
            real(name, *about[:1], **sizes) if "checkpoint" in name else real(name, *about, **sizes)
        )

    monkeypatch.setattr(made_up, "_file", one_model)
    [fault] = checked(make_folder(tmp_path, seeds=(124, 125))).faults
    assert fault.rule == "novelty.copy"
    assert fault.found == "the trained model of seed 124 again"


@pytest.mark.parametrize(
    ("name", "value"), [("nats", np.nan), ("nats", np.inf), ("num_bytes", 0), ("num_bytes", -5)]
)
def test_losses_and_bytes_that_are_none_are_refused(
    name: str, value: float, tmp_path: Path
) -> None:
    def one_row(log: pa.Table) -> pa.Table:
        values = log[name].to_numpy().copy()
        values[3] = value
        return column(log, name, values)

    def build() -> Path:
        return make_folder(tmp_path, edit=only("perplexity", one_row))

    try:
        folder = build()
    except Exception:  # the platform's own code does not score such a log either
        return
    assert rules_of(folder) == {"arithmetic"}


@pytest.mark.parametrize("rows", [np.arange(60) - 1, np.arange(60) * 2, np.arange(60)[::-1] // 2])
def test_rows_that_are_not_each_once_are_refused(rows: np.ndarray, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, edit=only("perplexity", lambda log: column(log, "row", rows)))
    assert rules_of(folder) == {"arithmetic"}


def test_a_log_with_another_type_of_column_is_refused(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        edit=only("perplexity", lambda log: column(log, "row", np.arange(len(log)) + 0.0)),
    )
    assert rules_of(folder) == {"form.columns"}


def test_a_list_of_uids_of_another_length_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, benchmark="datacomp", rows=400)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["uids"]["count"] *= 2
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    assert rules_of(folder) == {"form.uids"}


def test_fewer_tries_than_the_board_has_seen_are_shown(tmp_path: Path) -> None:
    before = [make_folder(tmp_path, method=f"try {n}", chance=n) for n in range(3)]
    last = make_folder(tmp_path, method="the best", chance=9, tries=1)
    notices = checked(last, known_of(*before)).notices
    assert "1 tries are claimed; 3 other datasets of this team are here, or were withdrawn" in {
        n.text for n in notices
    }
    honest = make_folder(tmp_path, method="the best", chance=9, tries=4)
    notices = checked(honest, known_of(*before)).notices
    assert not any("other datasets" in n.text for n in notices)


def test_an_accepted_log_in_another_teams_entry_is_refused(tmp_path: Path) -> None:
    """Only the log of the headline is taken over; everything else is the thief's own."""
    first = make_folder(tmp_path, team="first", method="first", skill=0.9)
    stolen = log_of(
        next(t for t in made_up.suite_of("dclm", "tiny").load_tasks() if t.kind == "perplexity"),
        0.9,
        60,
        np.random.default_rng([0, 124, 0]),
    )
    thief = make_folder(
        tmp_path,
        team="second",
        method="second",
        chance=7,
        edit=only("perplexity", lambda log: stolen),
    )
    [fault] = checked(thief, known_of(first)).faults
    assert fault.rule == "novelty.copy"
    assert fault.found.startswith("the answers of submission")


def test_small_models_that_answer_no_word_rightly_are_no_copies(tmp_path: Path) -> None:
    """Logs of generated texts and single words may be equal by right: all of them wrong."""
    skills = {"benchmark": "dclm", "scale": "25m", "rows": 30}

    def words_wrong(task: Task, log: pa.Table) -> pa.Table:
        if task.kind not in ("generation", "language_modeling"):
            return log
        return column(log, "correct", [False] * len(log))

    first = make_folder(tmp_path, team="first", method="first", edit=words_wrong, **skills)
    second = make_folder(
        tmp_path, team="second", method="second", chance=3, edit=words_wrong, **skills
    )
    assert rules_of(second, known_of(first)) == set()


def test_every_fault_says_what_to_do(tmp_path: Path) -> None:
    broken = [
        make_folder(tmp_path, pool="a better pool"),
        make_folder(tmp_path, team="\u202eteam"),
        make_folder(tmp_path, seeds=(125,)),
        make_folder(tmp_path, changed={"track": "none"}),
        make_folder(
            tmp_path,
            edit=only("perplexity", lambda log: column(log, "nats", -log["nats"].to_numpy())),
        ),
    ]
    for folder in broken:
        faults = check_bundle(open_bundle(folder)).faults
        assert faults
        for fault in faults:
            assert fault.rule in HINTS
            assert all((fault.file, fault.field, fault.found, fault.expected, fault.hint)), fault


def test_an_entry_is_no_copy_of_itself(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, seeds=(124, 125))
    facts = known_of(folder)
    assert rules_of(folder, KnownFacts(facts.facts)) == set()
