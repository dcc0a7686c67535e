"""A third set of frauds: ties that were none, sketches of nothing, records that pages cannot hold.

Each computes every hash and score anew after its change. Each is refused by its own rule, with
file, field, what was found, what was expected and what to do; the honest variants pass.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.controls import hashed_rows
from evals.metrics import bootstrap
from evals.tasks import Task
from leaderboard.submissions.bundle import OverlapOf, write_zip
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.faults import Fault
from pipelines.records import Control, File, Record, Submission, parse_record
from tests.leaderboard.behaviour.test_frauds import checked, column, known_of, only
from tests.leaderboard.behaviour.test_scales import changed, put
from tests.leaderboard.made_up import STEPS, make_folder, sha

Change = Callable[[dict[str, Any]], None]


def rewritten(folder: Path, record: Submission) -> Path:
    """The folder with another record, its manifest in order."""
    data = record.to_json()
    (folder / "submission.json").write_bytes(data)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["submission"] = record.id
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    for file in manifest["files"]:
        if file["name"] == "submission.json":
            file |= entry
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    return folder


def record_of(folder: Path) -> Submission:
    record = parse_record((folder / "submission.json").read_bytes(), source="made up")
    assert isinstance(record, Submission)
    return record


def altered(folder: Path, kind: str, change: Change) -> Path:
    """One kind of record changed, everything behind it sealed again."""
    return rewritten(folder, changed(record_of(folder), kind, change))


def dated(folder: Path, **times: str) -> Path:
    """Other times in every record; they are no part of an id."""
    record = record_of(folder)

    def at(link: Record) -> Record:
        return link.model_copy(update={"made_by": link.made_by.model_copy(update=times)})

    chain = tuple(at(link) for link in record.chain)
    return rewritten(folder, record.model_copy(update={"chain": chain}))


def manifested(folder: Path, **fields: Any) -> Path:
    """The folder with other fields of its manifest."""
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest | fields))
    return folder


def refused(folder: Path, rule: str, field: str, known: KnownFacts = KnownFacts(())) -> Fault:
    """The fault of this rule; every fault says where, what, and what to do."""
    faults = checked(folder, known).faults
    assert faults, "it passed"
    assert {fault.rule for fault in faults} == {rule}, faults
    for fault in faults:
        assert all((fault.file, fault.found, fault.expected, fault.hint)), fault
    matching = [fault for fault in faults if field in f"{fault.file}: {fault.field}"]
    assert matching, faults
    return matching[0]


# ---- ties


OPTIONS = pa.list_(
    pa.struct(
        [
            ("context", pa.int32()),
            ("ids", pa.list_(pa.int32())),
            ("losses", pa.list_(pa.float32())),
            ("greedy", pa.list_(pa.int32())),
            ("mean_loss", pa.float32()),
        ]
    )
)


def with_options(log: pa.Table, losses: list[list[float]], ids: list[int]) -> pa.Table:
    """The log with the mean loss of each option, of one token each."""
    rows = [
        [
            {"context": 0, "ids": [id_], "losses": [x], "greedy": [id_], "mean_loss": x}
            for id_, x in zip(ids, own, strict=True)
        ]
        for own in losses
    ]
    return log.append_column("options", pa.array(rows, OPTIONS))


def tied(log: pa.Table, credit: float, *, evidence: bool = True, ids: list[int]) -> pa.Table:
    """A model of equal losses: it says that it chose the right option, and was paid `credit`."""
    gold = log["gold"].to_numpy()
    log = column(log, "predicted", pa.array(gold, pa.int32()))
    log = column(column(log, "correct", [True] * len(log)), "credit", [credit] * len(log))
    losses = [[2.0] * len(ids)] * len(log)
    return with_options(log, losses, ids) if evidence else log


def test_equal_losses_that_are_paid_in_full_are_refused(tmp_path: Path) -> None:
    edit = only("multiple_choice", lambda log: tied(log, 1.0, ids=[5, 6]))
    refused(make_folder(tmp_path, edit=edit), "arithmetic", "credit")


def test_ties_without_the_losses_that_tie_are_refused(tmp_path: Path) -> None:
    """Half a point for every question beats guessing one of four."""
    edit = only("multiple_choice", lambda log: tied(log, 0.5, evidence=False, ids=[5, 6]))
    refused(make_folder(tmp_path, edit=edit), "arithmetic", "credit")


def test_honest_ties_pass(tmp_path: Path) -> None:
    """Two options tie and share; where both are the same text they are one option."""

    def first(log: pa.Table, ids: list[int], credit: list[float]) -> pa.Table:
        log = column(log, "predicted", pa.array([0] * len(log), pa.int32()))
        right = log["gold"].to_numpy() == 0
        log = column(column(log, "correct", right), "credit", np.where(right, *credit))
        return with_options(log, [[2.0, 2.0]] * len(log), ids)

    for ids, credit in (([5, 6], [0.5, 0.5]), ([5, 5], [1.0, 0.0])):
        edit = only("multiple_choice", lambda log, i=ids, c=credit: first(log, i, c))
        assert checked(make_folder(tmp_path, edit=edit)).faults == ()


# ---- the answers


def numbers(name: str, values: Callable[[np.ndarray], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda log: column(log, name, values(log[name].to_numpy(zero_copy_only=False)))


def at_row(row: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        new = values.copy()
        new[row] = value
        return new

    return change


def nulls(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda log: column(log, name, pa.nulls(len(log), log[name].type))


ANSWERS: dict[str, tuple[str, str, str, Callable[[pa.Table], pa.Table]]] = {
    "a row beyond 64 bits of questions": (
        *("arithmetic", "row", "perplexity"),
        numbers("row", at_row(7, 2**62)),
    ),
    "a class of a billion": (
        *("arithmetic", "predicted", "image_classification"),
        numbers("predicted", at_row(7, 10**12)),
    ),
    "a negative class": (
        *("arithmetic", "predicted", "image_classification"),
        numbers("predicted", at_row(7, -1)),
    ),
    "a rank below the first": (
        *("arithmetic", "rank", "image_retrieval"),
        numbers("rank", at_row(7, -3)),
    ),
    "more tokens than bytes": (
        *("arithmetic", "num_tokens", "perplexity"),
        numbers("num_tokens", lambda values: values * 100),
    ),
    "tokens below zero": (
        *("arithmetic", "num_tokens", "perplexity"),
        numbers("num_tokens", lambda values: -values),
    ),
    "no losses at all": ("arithmetic", "nats", "perplexity", nulls("nats")),
    "rows without a verdict": ("arithmetic", "correct", "multiple_choice", nulls("correct")),
    "a credit that is no number": (
        *("arithmetic", "credit", "multiple_choice"),
        numbers("credit", at_row(7, np.nan)),
    ),
    "an option below the first": (
        *("arithmetic", "predicted", "multiple_choice"),
        lambda log: column(
            log, "predicted", pa.array(np.where(log["correct"], log["gold"], -5), pa.int32())
        ),
    ),
    "verdicts as words": (
        *("form.columns", "correct", "multiple_choice"),
        lambda log: column(log, "correct", ["true"] * len(log)),
    ),
    "losses as decimals": (
        *("form.columns", "nats", "perplexity"),
        lambda log: column(log, "nats", log["nats"].cast(pa.decimal128(30, 10))),
    ),
    "losses that are lists": (
        *("form.columns", "nats", "perplexity"),
        lambda log: column(log, "nats", [[float(x)] for x in log["nats"].to_pylist()]),
    ),
    "a table in a column": (
        *("form.columns", "category", "perplexity"),
        lambda log: column(log, "category", [{"a": [{"b": "x"}]}] * len(log)),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_refused_by_their_rule(name: str, tmp_path: Path) -> None:
    rule, field, kind, change = ANSWERS[name]
    benchmark = "datacomp" if kind.startswith("image_") else "dclm"
    rows = 400 if benchmark == "datacomp" else 60

    def later(task: Task, log: pa.Table) -> pa.Table:
        """Scores are those of the honest log: the platform itself scores none of these."""
        return log

    folder = make_folder(tmp_path, benchmark=benchmark, rows=rows, edit=later)
    refused(with_log(folder, kind, change), rule, field)


def with_log(folder: Path, kind: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    """The logs of a kind of task changed in the folder; record and manifest name the new bytes."""
    from evals.tasks import load_task

    written: dict[str, bytes] = {}
    for path in sorted(folder.glob("questions/*/*/*.parquet")):
        if load_task(path.parent.name).kind == kind:
            pq.write_table(change(pq.read_table(path)), path)
            written[path.relative_to(folder).as_posix()] = path.read_bytes()
    return relisted(folder, written)


def relisted(folder: Path, written: dict[str, bytes]) -> Path:
    """Manifest and scores with the hashes of files that were written again."""
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in written.items()}
    for file in manifest["files"]:
        if file["name"] in written:
            size = len(written[file["name"]])
            file |= {"sha256": hashes[file["name"]], "num_bytes": size}
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))

    def change(fields: dict[str, Any]) -> None:
        for output in fields["outputs"]:
            task = output["name"].split("/")[1]
            for name, sha256 in hashes.items():
                if name.split("/")[2] == task:
                    output |= {"sha256": sha256, "num_bytes": len(written[name])}

    return altered(folder, "scores", change)


# ---- parquet


def parquet_of(folder: Path, write: Callable[[pa.Table, Path], None]) -> Path:
    [path] = folder.glob("questions/124/heldout_bits_per_byte/*.parquet")
    write(pq.read_table(path), path)
    return relisted(folder, {path.relative_to(folder).as_posix(): path.read_bytes()})


def dictionary_bomb(log: pa.Table, path: Path) -> None:
    """A text of 4 MB, once in the file and in every row."""
    codes = pa.array(np.zeros(len(log), np.int32))
    texts = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * (4 << 20)]))
    pq.write_table(column(log, "category", texts.cast(pa.string())), path, compression="zstd")


def lying_footer(log: pa.Table, path: Path) -> None:
    """A footer that says another number of rows than the pages hold."""
    pq.write_table(log, path)
    data = path.read_bytes()
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    true, false = (bytes([0x16, 2 * (len(log) - less)]) for less in (0, 1))  # zigzag, 64 bits
    assert true in data[begin:]
    path.write_bytes(data[:begin] + data[begin:].replace(true, false))


def truncated(log: pa.Table, path: Path) -> None:
    pq.write_table(log, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-300:])


def doubled_column(log: pa.Table, path: Path) -> None:
    pq.write_table(pa.table([*log.columns, log["nats"]], [*log.column_names, "nats"]), path)


def extension(log: pa.Table, path: Path) -> None:
    """A column of a type that the reader would have to import something for."""
    kind = pa.uuid()
    storage = pa.array([b"0" * 16] * len(log), pa.binary(16))
    values = pa.ExtensionArray.from_storage(kind, storage)
    pq.write_table(log.append_column("token_of_trust", values), path)


PARQUET: dict[str, tuple[str, Callable[[pa.Table, Path], None]]] = {
    "a dictionary bomb": ("form.columns", dictionary_bomb),
    "a footer that lies": ("arithmetic", lying_footer),
    "half a file": ("form.bundle", truncated),
    "a column twice": ("form.columns", doubled_column),
    "a type of its own": ("form.columns", extension),
}


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_tricks_are_refused(name: str, tmp_path: Path) -> None:
    rule, write = PARQUET[name]
    faults = checked(parquet_of(make_folder(tmp_path), write)).faults
    assert {fault.rule for fault in faults} <= {rule, "form.columns", "form.bundle"}, faults
    assert faults


def test_row_groups_with_statistics_of_others_change_nothing(tmp_path: Path) -> None:
    """Statistics are never read: a log in groups of seven rows, without any, passes."""

    def write(log: pa.Table, path: Path) -> None:
        pq.write_table(log, path, row_group_size=7, write_statistics=False, compression="gzip")

    assert checked(parquet_of(make_folder(tmp_path), write)).faults == ()


# ---- records


def steps(count: int) -> list[dict[str, Any]]:
    return [{"operator": "word_count", "parameters": {"min_words": n}} for n in range(count)]


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


def controls(*made: dict[str, Any]) -> Change:
    def change(fields: dict[str, Any]) -> None:
        fields["results"]["controls"] = list(made)

    return change


CONTROL = {
    "task": "heldout_ending",
    "name": "context swapped",
    "num_items": 64,
    "score": 0.5,
    "control": 0.2,
    "drop": 0.3,
    "low": 0.1,
    "high": 0.5,
}


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


def control_of(
    folder: Path, *, task: str = "heldout_ending", drop: float | None = None
) -> dict[str, Any]:
    """A control whose score is that of the log, on the questions that a hash chooses."""
    [path] = folder.glob(f"questions/124/{task}/*.parquet")
    earned = pq.read_table(path)["credit"].to_numpy()
    rows = hashed_rows(sha("identity", task), len(earned), 60, what="control")
    score = float(earned[rows].mean())
    drop = score - 0.1 if drop is None else drop
    figures = {"score": score, "control": score - drop, "drop": drop}
    return (
        CONTROL | {"task": task, "num_items": 60, "low": drop - 0.2, "high": drop + 0.2} | figures
    )


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


# ---- names


NAMES = {
    "no filter": "names.baseline",
    "no-filter": "names.baseline",
    "no.filter": "names.baseline",
    "no\u2013filter": "names.baseline",
    "nofilter": "names.baseline",
    "NO_FILTER": "names.baseline",
    "n0_fi1ter": "names.baseline",
    "no_f\u00edlter": "names.baseline",
    "n\u00f8_filter": "names.baseline",
    "no_\u0192ilter": "names.baseline",
    "\u0274\u1d0f_\ua730\u026a\u029f\u1d1b\u1d07\u0280": "names.baseline",
    "n\u03bf_filter": "names.baseline",
    "\uff4e\uff4f_filter": "names.plain",
    "no_filter\u200d": "names.plain",
    "no_filter\ufe0f": "names.plain",
    "no_filter\u3164": "names.plain",
    "no_filter\u2800": "names.plain",
    "the \u0440latform": "names.plain",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_imitate_a_baseline_are_refused(name: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, method=name, steps=STEPS)
    rules = {fault.rule: fault for fault in checked(folder).faults}
    assert NAMES[name] in rules, rules
    assert rules[NAMES[name]].field == "work.method"


@pytest.mark.parametrize("twin", ["tearn A", "Team-A", "te\u00e4m A", "team  A ".strip(), "vvorks"])
def test_teams_that_imitate_another_are_refused(twin: str, tmp_path: Path) -> None:
    known = KnownFacts(
        (
            *known_of(make_folder(tmp_path, team="team A")).facts,
            *known_of(make_folder(tmp_path, team="works", chance=8)).facts,
        )
    )
    refused(make_folder(tmp_path, team=twin, chance=3), "names.plain", "work.team", known)


def test_an_address_with_a_name_in_front_is_refused(tmp_path: Path) -> None:
    url = "https://datacomp.ai@evil.example/paper"
    refused(make_folder(tmp_path, url=url), "form.claim", "work.url")


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


def test_there_are_twenty_of_each() -> None:
    frauds = len(ANSWERS) + len(PARQUET) + len(RECORDS) + len(TIMES) + len(NAMES)
    assert frauds >= 20
    assert len(HONEST) >= 20
