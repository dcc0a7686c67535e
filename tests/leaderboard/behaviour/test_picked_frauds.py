"""Runs, tasks and entries that were picked, and models that their own records contradict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from evals.tasks import Task, load_task
from leaderboard.submissions.answers import choices_of
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.logs import check_rows
from leaderboard.submissions.shown_losses import check_evidence
from pipelines.records import PackedRecord
from tests.leaderboard.behaviour.test_stolen_answers import rescored
from tests.leaderboard.frauds import (
    Change,
    altered,
    checked,
    column,
    dated,
    known_of,
    put,
    record_of,
    refused,
    steps,
)
from tests.leaderboard.made_up import make_folder
from tests.leaderboard.made_up_logs import log_of

pytestmark = pytest.mark.usefixtures("few_draws")

# ---- what a model's record says of it


def second(change: Change) -> Change:
    """Change the record of the second model alone."""
    seen: list[None] = []

    def after_one(fields: dict[str, object]) -> None:
        seen.append(None)
        if len(seen) == 2:
            change(fields)

    return after_one


def of_bytes(number: int) -> Change:
    def change(fields: dict[str, list[dict[str, object]]]) -> None:
        fields["outputs"][0]["num_bytes"] = number

    return change


PARAMS = 100_000  # of the made-up generators
IMAGES = {"benchmark": "ambient", "seeds": (0, 1), "rows": 400}
RECORDS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a second seed with a larger model": (
        "counts.params",
        lambda folder: altered(
            make_folder(folder, **IMAGES), "model", second(put("counts", "params", value=120_000))
        ),
    ),
    "weights that hold an eighth of the parameters": (
        "outputs",
        lambda folder: altered(make_folder(folder, **IMAGES), "model", of_bytes(PARAMS // 2 - 1)),
    ),
    "a training loss below zero": (
        "results.loss",
        lambda folder: altered(make_folder(folder), "model", put("results", "loss", value=-0.1)),
    ),
    "a date before the platform": (
        "made_by.finished",
        lambda folder: dated(
            make_folder(folder), started="2025-12-30T10:00:00Z", finished="2025-12-31T10:00:00Z"
        ),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_contradicts_its_model_is_refused(name: str, tmp_path: Path) -> None:
    field, build = RECORDS[name]
    verdict = checked(build(tmp_path))
    assert [fault.rule for fault in verdict.faults if field in fault.field] != []
    assert {fault.rule for fault in verdict.faults} == {"form.record"}


def test_weights_at_four_bits_and_losses_of_nothing_pass(tmp_path: Path) -> None:
    small = altered(make_folder(tmp_path, **IMAGES), "model", of_bytes(PARAMS // 2))
    assert checked(altered(small, "model", put("results", "loss", value=0.0))).faults == ()


# ---- runs that were picked


def with_packed_of(folder: Path, other: Path) -> Path:
    """The entry with the packed data of another one: its pipeline takes out nothing else."""
    [packed] = [link for link in record_of(other).chain if isinstance(link, PackedRecord)]
    files = [file.model_dump() for file in packed.outputs]
    return altered(folder, "packed", put("outputs", value=files))


def withdrawn(known: KnownFacts) -> KnownFacts:
    state = {"accepted": False, "withdrawn": True}
    return KnownFacts(tuple(entry.model_copy(update=state) for entry in known.facts))


def notices(folder: Path, known: KnownFacts, rule: str) -> list[str]:
    verdict = checked(folder, known)
    assert verdict.faults == ()
    return [notice.text for notice in verdict.notices if notice.rule == rule]


def test_a_pipeline_that_changes_nothing_gives_no_second_training_run(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="a team", method="first")
    again = make_folder(tmp_path / "b", team="a team", method="again", steps=steps(3), chance=5)
    again = with_packed_of(again, first)
    fault = refused(again, "novelty.copy", "chain", known_of(first))
    assert "the packed data of your submission" in fault.found
    # Once the first is withdrawn it may come, and a person reads that it is a second run.
    [text] = notices(again, withdrawn(known_of(first)), "novelty.seeds")
    assert "seeds 124 of this data were sent before with other answers" in text


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_seed_that_was_trained_again_is_shown(taken_back: bool, tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="a team", method="first")
    lucky = make_folder(tmp_path / "b", team="a team", method="first", seeds=(124, 125), skill=0.6)
    known = withdrawn(known_of(first)) if taken_back else known_of(first)
    [text] = notices(lucky, known, "novelty.seeds")
    assert ("was withdrawn" in text) == taken_back


def test_seeds_that_are_added_to_the_same_answers_are_shown_nobody(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="a team", method="first")
    more = make_folder(tmp_path / "b", team="a team", method="first", seeds=(124, 125))
    assert notices(more, known_of(first), "novelty.seeds") == []
    assert notices(more, withdrawn(known_of(first)), "novelty.seeds") == []


def test_what_was_withdrawn_was_tried(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="a team", method="first", chance=5, steps=steps(3))
    second_ = make_folder(tmp_path / "b", team="a team", method="second", tries=1)
    [text] = [
        text
        for text in notices(second_, withdrawn(known_of(first)), "honesty.tries")
        if "claimed" in text
    ]
    assert "1 tries are claimed; 1 other datasets of this team are here, or were withdrawn" in text


def test_an_entry_of_another_team_is_no_less_theirs_when_it_was_withdrawn(tmp_path: Path) -> None:
    first = make_folder(tmp_path / "a", team="first", method="first")
    thief = make_folder(tmp_path / "b", team="thieves", method="brilliant")
    refused(thief, "novelty.copy", "chain", withdrawn(known_of(first)))
    # Its own team may send it again, as after a mistake in the method's name.
    renamed = make_folder(tmp_path / "c", team="first", method="a better name")
    assert checked(renamed, withdrawn(known_of(first))).faults == ()


# ---- answers that were picked

WORDS = {"scale": "rehearsal", "rows": 600}


def test_the_better_of_two_entries_by_task_is_refused(tmp_path: Path) -> None:
    a = make_folder(tmp_path / "a", team="first", method="first", **WORDS)
    b = make_folder(
        tmp_path / "b", team="second", method="second", chance=4, steps=steps(2), **WORDS
    )
    thief = make_folder(
        tmp_path / "c", team="thieves", method="brilliant", chance=9, steps=steps(3), **WORDS
    )
    for number, path in enumerate(sorted(a.glob("questions/*/*/*.parquet"))):
        name = path.relative_to(a)
        pq.write_table(pq.read_table((a, b)[number % 2] / name), thief / name, compression="gzip")
    fault = refused(rescored(thief), "novelty.copy", "chain", known_of(a, b))
    assert "the answers of" in fault.found


def flipped(log: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Three answers in a thousand are turned, and one of each task at least."""
    turned = rng.random(len(log)) < 0.003
    turned[rng.integers(len(log))] = True
    right = log["correct"].to_numpy(zero_copy_only=False) ^ turned
    if "predicted" in log.column_names:
        gold = log["gold"].to_numpy()
        log = column(log, "predicted", pa.array(np.where(right, gold, 1 - gold), pa.int32()))
        log = column(log, "credit", right.astype(np.float64))
    return column(log, "correct", right)


def test_answers_of_another_scale_are_shown_and_an_own_model_is_not(tmp_path: Path) -> None:
    large = make_folder(
        tmp_path / "a", team="first", method="first", scale="1b-1x", rows=100, skill=0.7
    )
    thief = make_folder(
        *(tmp_path / "b",),
        team="thieves",
        method="brilliant",
        chance=9,
        steps=steps(3),
        scale="400m-1x",
        rows=100,
    )
    known = known_of(large)
    assert notices(thief, known, "novelty.answers") == []
    rng = np.random.default_rng(0)
    for path in sorted(large.glob("questions/*/*/*.parquet")):
        log = flipped(pq.read_table(path), rng)
        pq.write_table(log, thief / path.relative_to(large), compression="gzip")
    [text] = notices(rescored(thief), known, "novelty.answers")
    assert "'first' of 'first'" in text


def choices(predicted: np.ndarray, gold: np.ndarray) -> pa.Table:
    right = predicted == gold
    return pa.table(
        {
            "row": np.arange(len(gold)),
            "predicted": pa.array(predicted, pa.int32()),
            "gold": pa.array(gold, pa.int32()),
            "correct": right,
            "credit": right.astype(np.float64),
        }
    )


def test_small_models_that_always_choose_one_option_are_no_copies() -> None:
    task, gold = load_task("hellaswag_zeroshot"), np.arange(600) % 2
    assert choices_of(task, choices(np.ones(600, int), gold)) == ""
    mostly = np.where(np.arange(600) % 6 == 0, 0, 1)  # five of six
    assert choices_of(task, choices(mostly, gold)) == ""
    varied = np.where(np.arange(600) % 3 == 0, 0, 1)
    assert choices_of(task, choices(varied, gold)) != ""
    assert choices_of(task, choices(varied[:400], gold[:400])) == ""  # short: may agree by chance


@pytest.mark.filterwarnings("error")
def test_a_missing_choice_is_the_same_on_every_processor() -> None:
    """A NaN as a whole number is what the processor makes of it."""
    task = load_task("arc_easy")
    rng = np.random.default_rng(1)
    gold, answers = rng.integers(0, 4, 600), rng.integers(0, 4, 600)
    missing = pa.array(answers, mask=np.arange(600) % 7 == 0)
    lowest = pc.fill_null(missing, -(1 << 63))
    logs = [
        pa.table({"row": np.arange(600), "predicted": column, "correct": answers == gold})
        for column in (missing, lowest)
    ]
    assert choices_of(task, logs[0]) == choices_of(task, logs[1]) != ""


# ---- logs


def faults_of(task: Task, log: pa.Table) -> list[str]:
    return [fault.field for fault in (*check_rows("x", task, log), *check_evidence("x", task, log))]


def test_a_right_answer_has_a_text() -> None:
    task = load_task("gsm8k_cot")
    log = pa.table({"row": [0, 1, 2], "correct": [True, False, True]})
    texts = log.append_column("generated", pa.array(["42", "", "7\n"]))
    assert faults_of(task, texts) == []
    for blank in (" \n", None):
        assert faults_of(task, column(texts, "generated", ["42", "", blank])) == ["generated"]


@pytest.mark.parametrize(
    ("name", "value"), [("race", 7), ("gender", 2), ("age", -1), ("toxic", 2**40)]
)
def test_what_is_said_of_an_image_is_a_class(name: str, value: int) -> None:
    task = load_task("fairface")
    log = log_of(task, 0.5, 20, np.random.default_rng(0))
    assert faults_of(task, log) == []
    said = log[f"predicted_{name}"].to_pylist()
    assert faults_of(task, column(log, f"predicted_{name}", [value, *said[1:]])) == [
        f"predicted_{name}"
    ]
