"""Submissions that were tampered with: the tools that the tests of frauds share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from evals.aggregate import aggregate_suite
from evals.controls import hashed_rows
from evals.run import score_task
from evals.suite import load_suite
from evals.tasks import load_task
from leaderboard.submissions.bundle import (
    BundleError,
    open_bundle,
)
from leaderboard.submissions.facts import KnownFacts
from leaderboard.submissions.faults import Fault
from leaderboard.submissions.validate import Checked, check_bundle
from pipelines.installed import folder as folder_of
from pipelines.records import (
    Record,
    ScoresRecord,
    ScoresResults,
    Submission,
    digest,
    parse_record,
)
from tests.leaderboard.made_up import Edit, sha

SECONDS = 60  # of the processor, for one check


def checked(folder: Path, known: KnownFacts = KnownFacts(())) -> Checked:
    began = time.process_time()
    try:
        actual = check_bundle(open_bundle(folder), known=known)
    except BundleError as error:
        actual = Checked(error.faults, None)
    assert time.process_time() - began < SECONDS
    return actual


def rules_of(folder: Path, known: KnownFacts = KnownFacts(())) -> set[str]:
    return {fault.rule for fault in checked(folder, known).faults}


def column(log: pa.Table, name: str, values: Any) -> pa.Table:
    return log.set_column(log.schema.get_field_index(name), name, pa.array(values))


def only(kind: str, change: Callable[[pa.Table], pa.Table]) -> Edit:
    """Change the logs of one kind of task."""
    return lambda task, log: change(log) if task.kind == kind else log


def known_of(*folders: Path) -> KnownFacts:
    """A board on which these entries were accepted."""
    facts = []
    for folder in folders:
        verdict = checked(folder).facts
        assert verdict is not None
        facts.append(verdict.model_copy(update={"accepted": True}))
    return KnownFacts(tuple(facts))


Change = Callable[[dict[str, Any]], None]


def changed(record: Submission, kind: str, change: Change) -> Submission:
    """The submission with one kind of record changed, everything behind it sealed again."""
    new: dict[str, str] = {}
    chain: list[Record] = []
    for item in record.chain:
        fields: dict[str, Any] = {
            "work": item.work.model_dump(mode="json"),
            "parents": {role: new.get(id_, id_) for role, id_ in item.parents.items()},
            "outputs": [file.model_dump() for file in item.outputs],
            "counts": dict(item.counts),
            "results": deepcopy(item.results)
            if item.kind != "scores"
            else item.results.model_dump(mode="json"),
        }
        if item.kind == kind:
            change(fields)
        made = type(item).seal(
            work=type(item.work).model_validate(fields["work"]),
            parents=fields["parents"],
            outputs=[type(item.outputs[0])(**file) for file in fields["outputs"]],
            counts=fields["counts"],
            results=type(item).model_fields["results"].annotation.model_validate(fields["results"])
            if item.kind == "scores"
            else fields["results"],
            made_by=item.made_by,
        )
        new[item.id] = made.id
        chain.append(made)
    parents = {role: new[id_] for role, id_ in record.parents.items()}
    made_up = Submission.seal(work=record.work, parents=parents, made_by=record.made_by)
    return made_up.model_copy(update={"chain": tuple(chain)})


def put(*path: str, value: Any) -> Change:
    """Set one value of a record."""

    def change(fields: dict[str, Any]) -> None:
        target = fields
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value

    return change


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
    rewritten(folder, changed(record_of(folder), kind, change))
    return resealed(folder)


CheckpointChange = Callable[[ScoresRecord, int, str], dict[str, Any]]


def resealed(folder: Path, change: CheckpointChange = lambda *_: {}) -> Path:
    """Scores of checkpoints with other arguments of `seal`, of the models that the record has.

    `change(scores, seed, checkpoint)` returns those that differ.
    """
    models = {link.work.seed: link.id for link in record_of(folder).chain if link.kind == "model"}
    written = {}
    for path in sorted(folder.glob("checkpoints/*/*/scores.json")):
        scores = parse_record(path.read_bytes(), source="made up")
        seed, checkpoint = int(path.parent.parent.name), path.parent.name
        fields = {
            "work": scores.work,
            "parents": {"model": digest([models[seed], checkpoint])},
            "outputs": scores.outputs,
            "counts": scores.counts,
            "results": scores.results,
            "made_by": scores.made_by,
        }
        made = ScoresRecord.seal(**(fields | change(scores, seed, checkpoint)))
        path.write_bytes(made.to_json())
        written[path.relative_to(folder).as_posix()] = path.read_bytes()
    return listed(folder, written)


def scored_again(folder: Path) -> Path:
    """Scores, hashes and curve of every checkpoint computed from the logs that are there."""
    curves: dict[str, list[dict[str, Any]]] = {}
    written: dict[str, bytes | None] = {}

    def again(scores: ScoresRecord, seed: int, checkpoint: str) -> dict[str, Any]:
        inside = folder / "checkpoints" / str(seed) / checkpoint
        name = f"{scores.work.suite}.yaml"
        suite = load_suite(folder_of(scores.work.benchmark) / "suites" / name)
        outputs = sorted(scores.outputs, key=lambda output: output.name)
        tasks, draws, sealed = [], {}, []
        for ref in scores.work.tasks:
            parts = sorted((inside / ref.name).iterdir())
            score, draws[ref.name] = score_task(
                load_task(ref.name), pa.concat_tables(map(pq.read_table, parts))
            )
            tasks.append(score)
            own = [output for output in outputs if output.name.split("/")[1] == ref.name]
            for output, path in zip(own, parts, strict=True):
                data = written[path.relative_to(folder).as_posix()] = path.read_bytes()
                sha256 = hashlib.sha256(data).hexdigest()
                change = {"sha256": sha256, "num_bytes": len(data)}
                sealed.append(output.model_copy(update=change))
        results = ScoresResults(tasks=tuple(tasks), aggregates=aggregate_suite(suite, tasks, draws))
        head = results.aggregates[suite.headline]
        point = {"checkpoint": checkpoint, "value": head.value, "stderr": head.stderr}
        curves.setdefault(str(seed), []).append(point)
        counts = {"questions": sum(score.num_items for score in tasks)}
        return {"outputs": sealed, "results": results, "counts": counts}

    resealed(folder, again)
    return manifested(listed(folder, written), curves=curves)


def listed(folder: Path, written: dict[str, bytes | None]) -> Path:
    """The manifest with files that were written again, added, or (None) removed."""
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    files = {file["name"]: file for file in manifest["files"]}
    for name, data in written.items():
        files.pop(name, None)
        if data is not None:
            sha256 = hashlib.sha256(data).hexdigest()
            files[name] = {"name": name, "sha256": sha256, "num_bytes": len(data)}
    return manifested(folder, files=[files[name] for name in sorted(files)])


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


def with_log(folder: Path, kind: str, change: Callable[[pa.Table], pa.Table]) -> Path:
    """The logs of a kind of task changed in the folder; record and manifest name the new bytes."""
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


def steps(count: int) -> list[dict[str, Any]]:
    return [{"operator": "word_count", "parameters": {"min_words": n}} for n in range(count)]


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
