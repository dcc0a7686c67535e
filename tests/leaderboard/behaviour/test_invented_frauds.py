"""Invented records, sketches and bundles; and honest variants of unusual names and sizes.

Each computes every hash and score anew after its change. Each is refused by its own rule, with
file, field, what was found, what was expected and what to do; the honest variants pass.
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from evals.metrics import bootstrap
from leaderboard.submissions.bundle import OverlapOf, write_zip
from pipelines.records import Control, File, Submission
from tests.leaderboard.frauds import (
    CONTROL,
    Change,
    altered,
    checked,
    control_of,
    controls,
    dated,
    known_of,
    manifested,
    put,
    record_of,
    refused,
    relisted,
    rewritten,
    steps,
)
from tests.leaderboard.made_up import make_folder, sha

# ---- records


def without_outputs(fields: dict[str, Any]) -> None:
    fields["outputs"] = []


RECORDS: dict[str, tuple[str, str, str, Change]] = {
    "a dataset of no files": ("form.record", "outputs", "dataset", without_outputs),
    "packed data of no files": ("form.record", "outputs", "packed", without_outputs),
    "a model of no files": ("form.record", "outputs", "model", without_outputs),
    "a million steps": (
        *("form.record", "steps", "dataset"),
        put("work", "pipeline", "steps", value=steps(20_000)),
    ),
    "an operator that turns direction": (
        *("form.record", "steps", "dataset"),
        put("work", "pipeline", "steps", value=[{"operator": "a\u202eb", "parameters": {}}]),
    ),
    "a step that is a number": (
        *("form.record", "steps", "dataset"),
        put("work", "pipeline", "steps", value=5),
    ),
    "a hundred thousand counts": (
        *("form.record", "counts", "dataset"),
        lambda fields: fields["counts"].update({f"x{n}": 1 for n in range(100_000)}),
    ),
    "a reason of two parts": (
        *("form.record", "counts", "dataset"),
        put("counts", "rejected/x", value=0),
    ),
    "a count beyond 60 bits": (
        *("form.record", "counts", "packed"),
        put("counts", "sequences", value=1 << 62),
    ),
    "a budget that was overrun": (
        *("lineage.recipe", "tokens", "model"),
        put("results", "tokens_seen", value=10**12),
    ),
    "steps that were overrun": (
        "lineage.recipe",
        "steps",
        "model",
        put("counts", "steps", value=9),
    ),
    "a larger learning rate": (
        *("lineage.recipe", "recipe", "model"),
        put("work", "recipe", "lr", value=1.0),
    ),
    "a recipe with one more option": (
        *("lineage.recipe", "recipe", "model"),
        put("work", "recipe", "teacher", value="a larger model"),
    ),
    "parameters that are fewer": (
        *("lineage.recipe", "params", "model"),
        put("counts", "params", value=1000),
    ),
    "training that cost nothing": (
        *("lineage.recipe", "flops", "model"),
        put("results", "flops", value=1.0),
    ),
    "flops that are a word": ("form.record", "flops", "model", put("results", "flops", value="x")),
    "a tokenizer of one's own": (
        *("lineage.recipe", "tokenizer", "packed"),
        put("work", "tokenizer", "name", value="mine"),
    ),
    "more documents than the dataset has": (
        *("lineage.dataset", "documents", "packed"),
        put("counts", "documents", value=10**9),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_refused_by_their_rule(name: str, tmp_path: Path) -> None:
    rule, field, kind, change = RECORDS[name]
    fault = refused(altered(make_folder(tmp_path), kind, change), rule, "")
    assert field in str(fault)


TIMES = {
    "a day that no calendar has": {"finished": "2026-02-31T10:00:00Z"},
    "a year that has not come": {"finished": "9998-01-01T10:00:00Z"},
    "a formula": {"finished": "=1+1"},
    "a word": {"started": "yesterday"},
    "an end before the start": {"finished": "2026-10-01T10:00:00Z"},
}


@pytest.mark.parametrize("name", TIMES)
def test_times_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    refused(dated(make_folder(tmp_path), **TIMES[name]), "form.record", "made_by")


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "another_task"},
        {"drop": 0.9},
        {"low": 0.4},
        {"num_items": -1},
        {"score": 7.0, "drop": 6.8, "high": 8.0},
    ],
)
def test_controls_that_do_not_add_up_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    made = controls(CONTROL | changes)
    refused(altered(make_folder(tmp_path), "scores", made), "form.record", "controls")


def test_controls_that_add_up_pass(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    own = control_of(folder)
    Control.model_validate(own)
    assert checked(altered(folder, "scores", controls(own))).faults == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"score": 1.0, "drop": 0.9, "low": 0.7, "high": 1.1}, "score"),
        ({"num_items": 64}, "context swapped"),
        ({"low": 0.0}, "context swapped"),  # an interval to one side
        ({"low": "drop", "high": "drop"}, "context swapped"),  # a point
    ],
)
def test_controls_of_other_questions_than_the_log_s_are_refused(
    changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    own = control_of(folder)
    own |= {key: own["drop"] if value == "drop" else value for key, value in changes.items()}
    refused(altered(folder, "scores", controls(own)), "arithmetic", field)


def test_controls_of_some_tasks_alone_are_told_to_the_reviewer(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder = altered(folder, "scores", controls(control_of(folder)))
    texts = [n.text for n in checked(folder).notices if n.rule == "honesty.controls"]
    assert any("no controls: heldout_next_sentence" in text for text in texts), texts


# ---- novelty


def repacked(folder: Path) -> Path:
    """The same answers as other bytes: another codec, groups of other sizes."""
    written = {}
    for path in sorted(folder.glob("questions/*/*/*.parquet")):
        log = pq.read_table(path)
        pq.write_table(log, path, compression="gzip", row_group_size=11)
        written[path.relative_to(folder).as_posix()] = path.read_bytes()
    return relisted(folder, written)


def foreign(folder: Path, team: str, method: str) -> Path:
    """An entry of another team whose dataset, packed data and models are its own by every hash."""
    for kind in ("dataset", "packed", "model"):

        def change(fields: dict[str, Any], kind: str = kind) -> None:
            for output in fields["outputs"]:
                output["sha256"] = sha(team, kind, output["sha256"])
            if kind == "dataset":
                fields["work"]["pipeline"]["steps"] += steps(3)

        folder = altered(folder, kind, change)
    record = record_of(folder)
    work = record.work.model_copy(update={"team": team, "method": method})
    own = Submission.seal(work=work, parents=record.parents, made_by=record.made_by)
    return rewritten(folder, own.model_copy(update={"chain": record.chain}))


@pytest.mark.parametrize("benchmark", ["dclm", "datacomp", "ambient"])
def test_the_answers_of_another_team_as_other_bytes_are_refused(
    benchmark: str, tmp_path: Path
) -> None:
    rows = 400 if benchmark == "datacomp" else 60
    options: dict[str, Any] = {"benchmark": benchmark, "rows": rows, "seeds": None}
    known = known_of(make_folder(tmp_path / "a", team="first", method="first", **options))
    thief = make_folder(tmp_path / "b", team="first", method="first", **options)
    thief = foreign(repacked(thief), "thieves", "brilliant")
    fault = refused(thief, "novelty.copy", "chain", known)
    assert "the answers of submission" in fault.found


def test_a_list_of_uids_without_its_sketch_is_refused(tmp_path: Path) -> None:
    """Without the sketch nobody sees that the list is another team's but for one uid."""
    folder = make_folder(tmp_path, benchmark="datacomp", rows=400)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    uid_list = manifest["uids"] | {"sketch": []}
    refused(manifested(folder, uids=uid_list), "form.uids", "uids.sketch")


def test_a_sketch_of_numbers_that_were_made_up_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, benchmark="datacomp", rows=400)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    uid_list = manifest["uids"] | {"sketch": list(range(256))}
    refused(manifested(folder, uids=uid_list), "form.uids", "uids.sketch")
    texts = make_folder(tmp_path / "texts")
    made = {"count": 100_000, "sketch": list(range(256))}
    refused(manifested(texts, documents=made), "form.documents", "documents.sketch")


# ---- overlap


def test_an_overlap_of_tasks_that_the_suite_lacks_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, overlap={"another_task": OverlapOf(num_items=3, found=(1,))})
    refused(folder, "form.manifest", "overlap.another_task")


def test_wrong_answers_that_are_called_overlap_are_told_to_the_reviewer(tmp_path: Path) -> None:
    """Whoever calls the questions that were answered wrong contaminated has a clean score of 1."""
    log = pq.read_table(
        next(make_folder(tmp_path).glob("questions/124/heldout_next_sentence/*.parquet"))
    )
    wrong = np.flatnonzero(~log["correct"].to_numpy(zero_copy_only=False))
    overlap = {"heldout_next_sentence": OverlapOf(num_items=60, found=tuple(wrong.tolist()))}
    verdict = checked(make_folder(tmp_path, overlap=overlap))
    texts = [notice.text for notice in verdict.notices if notice.rule == "honesty.overlap"]
    assert any("answered worse than the others" in text for text in texts), texts


# ---- bundles


def zip_of(folder: Path) -> Path:
    return write_zip(folder, folder.with_suffix(".zip"))


def test_a_name_that_leads_out_of_a_task_s_folder_is_refused(tmp_path: Path) -> None:
    path = zip_of(make_folder(tmp_path))
    for name in ("questions/124/../000000.parquet", "questions/124/./000000.parquet"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"anything")
        faults = checked(path).faults
        assert {fault.rule for fault in faults} == {"form.bundle"}, faults


def test_a_zip_that_names_another_file_inside_is_refused(tmp_path: Path) -> None:
    """The directory and the file's own header disagree about its name."""
    path = zip_of(make_folder(tmp_path))
    data = path.read_bytes()
    local = data.index(b"bundle.json")
    path.write_bytes(data[:local] + b"bundle.jsom" + data[local + 11 :])
    faults = checked(path).faults
    assert {fault.rule for fault in faults} == {"form.bundle"}, faults


def test_a_folder_with_a_link_is_refused(tmp_path: Path) -> None:
    """`leaderboard check FOLDER` follows no link out of the folder."""
    folder = make_folder(tmp_path)
    [path] = folder.glob("questions/124/heldout_ending/*.parquet")
    elsewhere = tmp_path / "elsewhere.parquet"
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(elsewhere)
    faults = checked(folder).faults
    assert faults
    assert {fault.rule for fault in faults} <= {"form.bundle", "form.manifest"}


def test_fields_that_no_rule_names_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    faults = checked(manifested(folder, payload="x" * 1000)).faults
    assert {fault.rule for fault in faults} == {"form.bundle"}


def test_files_of_one_hash_in_a_dataset_are_refused(tmp_path: Path) -> None:
    """A dataset that holds one shard twice says more rows than it has."""

    def twice(fields: dict[str, Any]) -> None:
        [first] = fields["outputs"]
        half = fields["counts"]["rows_out"] // 2
        copy = File(**first).model_copy(update={"name": "data/1.parquet", "num_rows": half})
        fields["outputs"] = [first | {"num_rows": half}, copy.model_dump()]

    refused(altered(make_folder(tmp_path), "dataset", twice), "lineage.dataset", "outputs")


# ---- honest variants

HONEST: dict[str, dict[str, Any]] = {
    "a dash in the team": {"team": "Team-7"},
    "a Greek letter of mathematics": {"method": "\u03bcP filter"},
    "a Greek word": {"method": "\u03c6\u03af\u03bb\u03c4\u03c1\u03bf"},
    "a Russian word": {"method": "\u0444\u0438\u043b\u044c\u0442\u0440"},
    "Latin and Chinese": {"method": "DCLM\u6570\u636e v2"},
    "Latin and Japanese": {"method": "fastText\u30d5\u30a3\u30eb\u30bf"},
    "Korean": {"team": "\ud55c\uad6d\ud300"},
    "Arabic": {"team": "\u0641\u0631\u064a\u0642"},
    "Hindi": {"team": "\u0926\u0932"},
    "an emoji": {"method": "filter \U0001f680"},
    "plus and hash": {"team": "C++ #1"},
    "numbers": {"method": "fineweb-edu 3.5 (top 10%)"},
    "an address with a port": {"url": "https://example.org:8443/a?b=c@d"},
    "many steps": {"steps": steps(200)},
    "one try": {"tries": 1},
    "all seeds of three": {"seeds": (124, 125, 126)},
    "a baseline with its own steps": {"method": "no_filter", "steps": []},
    "a name with a baseline inside": {"method": "like no_filter, shuffled"},
    "DataComp, large": {"benchmark": "datacomp", "scale": "large", "rows": 200},
    "DCLM, 3b": {"scale": "3b-1x"},
    "mixing with another pool": {"track": "mixing", "pool": "a pool of pages"},
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_variants_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "DataComp, large":  # 687,000 answers: 20 resamples of each task instead of 1,000
        monkeypatch.setattr("evals.run.bootstrap", partial(bootstrap, num_draws=20))
    verdict = checked(make_folder(tmp_path, **HONEST[name]))
    assert verdict.faults == ()
    assert verdict.measured is not None
