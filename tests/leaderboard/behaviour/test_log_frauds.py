"""Frauds in logs: evidence that contradicts itself, generators that saw the held-out images, seeds.

Each computes every hash and score anew after its change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.tasks import Task, load_task
from leaderboard.benchmark import INTERMEDIATE
from leaderboard.submissions.bundle import DocumentList, OverlapOf
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.shown_losses import check_evidence
from tests.leaderboard.frauds import (
    OPTIONS,
    altered,
    checked,
    column,
    known_of,
    manifested,
    only,
    refused,
)
from tests.leaderboard.made_up import Edit, make_folder
from tests.leaderboard.made_up_logs import log_of

pytestmark = pytest.mark.usefixtures("few_draws")

Change = Callable[[pa.Table], pa.Table]
Floats = Callable[[np.ndarray], np.ndarray]


def numbers(name: str, change: Floats) -> Change:
    return lambda log: column(log, name, change(log[name].to_numpy()))


def lists(name: str, values: list[Any], kind: pa.DataType) -> Change:
    return lambda log: column(log, name, pa.array(values * len(log), pa.list_(kind)))


# ---- what generators say


def as_reference(change: Floats) -> Change:
    def edit(log: pa.Table) -> pa.Table:
        held_out = np.array(log["reference"].to_pylist())
        made = change(held_out).astype(np.float32)
        return column(log, "features", pa.array(made.tolist(), pa.list_(pa.float32())))

    return edit


def noisy(rows: np.ndarray) -> np.ndarray:
    return rows + 0.01 * np.random.default_rng(0).standard_normal(rows.shape)


def shown(apart: int) -> Change:
    """Images beside neighbours that are further from them than the log's distance."""

    def edit(log: pa.Table) -> pa.Table:
        for name, value in (("image", 0), ("nearest", apart)):
            images = [[value] * 64 if row < 36 else None for row in range(len(log))]
            log = log.append_column(name, pa.array(images, pa.list_(pa.uint8())))
        return log

    return edit


GENERATORS: dict[str, tuple[str, str, Change]] = {
    "features of the held-out images": (
        *("image_generation", "features"),
        as_reference(lambda rows: rows),
    ),
    "the same with a little noise": ("image_generation", "features", as_reference(noisy)),
    "the same in another order": (
        *("image_generation", "features"),
        as_reference(lambda rows: rows[::-1]),
    ),
    "an error that its square does not allow": (
        *("image_restoration", "mse"),
        numbers("error", lambda values: values * 0.01),
    ),
    "no error of few steps": (
        "image_sampling",
        "errors",
        lists("errors", [[0.0] * 3], pa.float64()),
    ),
    "an error that falls like a stone": (
        *("image_sampling", "errors"),
        lists("errors", [[0.5, 0.1, 1e-9]], pa.float64()),
    ),
    "frames that do not differ": ("image_clip", "moved", numbers("moved", lambda x: 0 * x)),
    "frames that differ more than images can": (
        *("image_clip", "independent"),
        numbers("independent", lambda x: 1e3 * x),
    ),
    "images that are not as near as the log says": ("image_memorisation", "nearest", shown(200)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_numbers_that_one_model_cannot_have_are_refused(name: str, tmp_path: Path) -> None:
    kind, field, change = GENERATORS[name]
    refused(
        make_folder(tmp_path, benchmark="ambient", edit=only(kind, change)), "arithmetic", field
    )


def test_images_nearer_to_held_out_ones_are_told_to_the_reviewer(tmp_path: Path) -> None:
    change = numbers("heldout_distance", lambda values: values * 1e-3)
    edit = only("image_memorisation", change)
    notices = checked(make_folder(tmp_path, benchmark="ambient", edit=edit)).notices
    assert [notice for notice in notices if notice.rule == "honesty.generated"]


# ---- evidence


def option(ids: list[int], losses: list[float], greedy: list[int]) -> dict[str, Any]:
    mean = sum(losses) / len(losses)
    return {"context": 0, "ids": ids, "losses": losses, "greedy": greedy, "mean_loss": mean}


def words(greedy: int, loss: float, *, right: bool) -> Change:
    def edit(log: pa.Table) -> pa.Table:
        said = [[option([5], [loss], [greedy])]] * len(log)
        log = column(log, "correct", [right] * len(log))
        return log.append_column("options", pa.array(said, OPTIONS))

    return edit


def choices(own: list[float], other: list[float], greedy: int) -> Change:
    """The chosen option's losses, and those of each other one."""

    def edit(log: pa.Table) -> pa.Table:
        rows = []
        for chosen in log["predicted"].to_pylist():
            rows.append(
                [
                    option([5 + n, 6], own if n == chosen else other, [5 + n, greedy])
                    for n in range(2)
                ]
            )
        return log.append_column("options", pa.array(rows, OPTIONS))

    return edit


def paid_by_others(log: pa.Table) -> pa.Table:
    """One token of a document far below 0, and the sum as it was."""
    losses = [
        [-50.0, *[(nats + 50.0) / (count - 1)] * (count - 1)]
        for count, nats in zip(log["num_tokens"].to_pylist(), log["nats"].to_pylist(), strict=True)
    ]
    return log.append_column("losses", pa.array(losses, pa.list_(pa.float32())))


def all_in_top5(log: pa.Table) -> pa.Table:
    return column(log, "in_top5", [True] * len(log))


def long_top5(log: pa.Table) -> pa.Table:
    classes = [[best, *(k for k in range(8) if k != best)] for best in log["predicted"].to_pylist()]
    return column(all_in_top5(log), "top5", pa.array(classes, pa.list_(pa.int64())))


PAIRS = {"benchmark": "datacomp", "rows": 400}
EVIDENCE: dict[str, tuple[str, str, str, Change, dict[str, Any]]] = {
    "a token below 0 in an option": (
        *("arithmetic", "options", "multiple_choice"),
        choices([-6.0, 8.0], [4.0, 4.0], 6),
        {},
    ),
    "a cheap option whose token is not the likeliest": (
        *("arithmetic", "options", "multiple_choice"),
        choices([0.1, 0.1], [4.0, 4.0], 7),
        {},
    ),
    "a token below 0 in a document": ("arithmetic", "losses", "perplexity", paid_by_others, {}),
    "the right class among five that do not have it": (
        *("arithmetic", "top5", "image_classification"),
        all_in_top5,
        PAIRS,
    ),
    "five classes that are eight": ("arithmetic", "top5", "image_classification", long_top5, PAIRS),
    "margins turned round": (
        *("arithmetic", "margin", "image_classification"),
        numbers("margin", lambda values: 0.1 - values),
        PAIRS,
    ),
    "margins left out, so that nothing can be compared": (
        *("form.columns", "margin", "image_classification"),
        lambda log: log.drop_columns(["margin"]),
        PAIRS,
    ),
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_evidence_that_contradicts_the_answers_is_refused(name: str, tmp_path: Path) -> None:
    rule, field, kind, change, options = EVIDENCE[name]
    refused(make_folder(tmp_path, edit=only(kind, change), **options), rule, field)


@pytest.mark.parametrize(
    ("greedy", "loss", "right", "field"),
    [
        (9, 1.0, True, "correct"),  # said, though it was not the likeliest
        (5, 50.0, True, "options"),  # the likeliest at no probability
        (9, 0.1, False, "options"),  # nearly sure, though not the likeliest
        (5, 0.1, True, ""),
        (9, 0.9, False, ""),
    ],
)
def test_a_word_was_said_where_its_tokens_are_the_likeliest(
    greedy: int, loss: float, right: bool, field: str
) -> None:
    log = log_of(load_task("lambada_openai"), 0.5, 30, np.random.default_rng(0))
    log = words(greedy, loss, right=right)(log)
    fields = {fault.field for fault in check_evidence("log", load_task("lambada_openai"), log)}
    assert fields == ({field} if field else set())


def test_choices_whose_tokens_fit_pass(tmp_path: Path) -> None:
    edit = only("multiple_choice", choices([0.1, 0.1], [0.7, 4.0], 6))
    assert checked(make_folder(tmp_path, edit=edit)).faults == ()


def test_errors_of_other_images_than_another_task_has_are_refused(tmp_path: Path) -> None:
    """Three tasks restore the same images, whose mean square both errors together give."""

    def edit(task: Task, log: pa.Table) -> pa.Table:
        if task.name != "digits_restored_pixels":
            return log
        return column(log, "mse", 0.5 * log["mse"].to_numpy())

    refused(make_folder(tmp_path, benchmark="ambient", edit=edit), "arithmetic", "mse, row 0")


# ---- seeds


def one_seed(noise: float) -> Edit:
    """The answers of one seed for every seed, with `noise` added each time."""
    calls = [0]

    def edit(task: Task, log: pa.Table) -> pa.Table:
        calls[0] += 1
        log = log_of(task, 0.5, len(log), np.random.default_rng(0))
        if "nats" in log.column_names:
            return column(log, "nats", log["nats"].to_numpy() + calls[0] * noise)
        generated = pa.array([str(calls[0])] * len(log))  # other bytes
        return log.append_column("generated", generated)

    return edit


@pytest.mark.parametrize(("noise", "words_"), [(0.0, "the answers of"), (1e-3, "the losses of")])
def test_one_seed_is_not_two_however_it_is_stored(
    noise: float, words_: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, seeds=(124, 125), edit=one_seed(noise))
    if not noise:
        folder = restored_otherwise(folder)
    fault = refused(folder, "novelty.copy", "scores")
    assert fault.found.startswith(f"{words_} seed 124")


def restored_otherwise(folder: Path) -> Path:
    """The files of the second seed in another codec, the record with their hashes."""
    hashes = {}
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    for path in sorted(folder.glob("questions/125/*/*.parquet")):
        pq.write_table(pq.read_table(path), path, compression="gzip", row_group_size=11)
        name = path.relative_to(folder).as_posix()
        data = path.read_bytes()
        hashes[path.parent.name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_bytes": len(data),
        }
        for file in manifest["files"]:
            if file["name"] == name:
                file |= hashes[path.parent.name]
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    seen: list[int] = []

    def change(fields: dict[str, Any]) -> None:
        seen.append(1)
        if len(seen) == 2:
            for output in fields["outputs"]:
                output |= hashes[output["name"].split("/")[1]]

    return altered(folder, "scores", change)


def test_an_entry_of_equal_seeds_does_not_hide_near_copies(tmp_path: Path) -> None:
    """What two seeds of one dataset differ by is asked of accepted entries, and of most of them."""
    first = checked(make_folder(tmp_path, team="first", method="first", seeds=(124, 125))).facts
    assert first is not None
    own = {"logs": (), "weights": (), "packed": (), "data": (), "answers": (), "pipeline": "x"}
    moved = {"124": tuple(x + 1e-4 for x in first.losses["124"])}
    near = first.model_copy(update={"losses": moved, "id": "0" * 32, "team": "b", **own})
    twins = dict.fromkeys(("124", "125"), first.losses["124"])
    poison = first.model_copy(update={"losses": twins, "id": "1" * 32, "team": "c", **own})
    known = KnownFacts((near, poison))
    again = make_folder(tmp_path, team="first", method="first", seeds=(124, 125))
    rules = {n.rule for n in checked(again, known).notices if near.id in n.ids}
    assert "novelty.losses" in rules


# ---- the manifest


@pytest.mark.parametrize(
    ("overlap", "task"),
    [
        (OverlapOf(num_items=10**12, found=(1,)), "heldout_ending"),
        (OverlapOf(num_items=60, found=(1,) * 50), "heldout_ending"),
    ],
)
def test_an_overlap_of_more_than_there_is_is_refused(
    overlap: OverlapOf, task: str, tmp_path: Path
) -> None:
    refused(make_folder(tmp_path, overlap={task: overlap}), "arithmetic", f"overlap.{task}")


@pytest.mark.parametrize("task", ["digits_frechet", "digits_few_steps"])
def test_an_overlap_of_all_but_one_image_has_no_second_score(task: str, tmp_path: Path) -> None:
    """One row has no covariance; the check continues."""
    overlap = {task: OverlapOf(num_items=64, found=tuple(range(63)))}
    verdict = checked(make_folder(tmp_path, benchmark="ambient", overlap=overlap))
    assert verdict.faults == ()
    assert verdict.measured is not None


def test_more_documents_than_rows_are_refused_and_few_are_told(tmp_path: Path) -> None:
    many = DocumentList(count=10**9, sketch=(1,))
    refused(make_folder(tmp_path, documents=many), "form.documents", "documents.count")
    few = DocumentList(count=3, sketch=(1 << 60, 1 << 61, 1 << 62))
    notices = checked(make_folder(tmp_path / "few", documents=few)).notices
    assert any("the sketch is of 3 documents" in notice.text for notice in notices)


@pytest.mark.parametrize("point", [{"value": -1e300}, {"checkpoint": "step-99999999"}])
def test_a_curve_beyond_the_training_run_is_refused(point: dict[str, Any], tmp_path: Path) -> None:
    named = {"checkpoint": "step-00000001", "value": 3.0, "stderr": 0.1} | point

    def kept(fields: dict[str, Any]) -> None:
        name = f"{INTERMEDIATE}/{named['checkpoint']}.safetensors"
        fields["outputs"].append(fields["outputs"][0] | {"name": name, "num_bytes": 9})

    folder = altered(make_folder(tmp_path), "model", kept)
    refused(manifested(folder, curves={"124": [named]}), "form.curves", "curves.124")


# ---- honest ones


def rounded_otherwise(log: pa.Table) -> pa.Table:
    """Features as another machine computes them: float32 that differ in the last digits."""
    rng = np.random.default_rng(7)
    held_out = np.array(log["reference"].to_pylist())
    held_out = held_out * (1 + 1e-6 * rng.standard_normal(held_out.shape))
    values = held_out.astype(np.float32).tolist()
    return column(log, "reference", pa.array(values, pa.list_(pa.float32())))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_features_of_another_machine_are_those_of_the_same_images(
    seeds: tuple[int, ...], tmp_path: Path
) -> None:
    known = known_of(make_folder(tmp_path / "a", benchmark="ambient", team="first", method="first"))
    calls = [0]

    def edit(task: Task, log: pa.Table) -> pa.Table:
        calls[0] += task.kind == "image_generation"
        second = task.kind == "image_generation" and calls[0] == len(seeds)
        return rounded_otherwise(log) if second else log

    options: dict[str, Any] = {"benchmark": "ambient", "team": "second", "method": "second"}
    folder = make_folder(tmp_path / "b", seeds=seeds, chance=4, edit=edit, **options)
    assert checked(folder, known).faults == ()


def test_features_of_other_images_are_refused(tmp_path: Path) -> None:
    known = known_of(make_folder(tmp_path / "a", benchmark="ambient", team="first", method="first"))

    def other(log: pa.Table) -> pa.Table:
        values = np.array(log["features"].to_pylist())[:, ::-1] * 0.8
        return column(log, "reference", pa.array(values.tolist(), pa.list_(pa.float32())))

    options: dict[str, Any] = {"benchmark": "ambient", "team": "second", "method": "second"}
    folder = make_folder(tmp_path / "b", chance=4, edit=only("image_generation", other), **options)
    refused(folder, "arithmetic", "reference, row 0", known)
