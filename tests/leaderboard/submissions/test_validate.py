"""The validator: a bundle is refused for each rule by itself, and every refusal says where."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from leaderboard.submissions import uids
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.faults import BundleError
from leaderboard.submissions.validate import check_bundle
from pipelines.records import ScoresRecord, Submission, parse_record
from tests.leaderboard.made_up import make_folder, make_zip

TASK = "questions/124/heldout_ending/000000.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "x")
    return tmp_path / "x"


def faults(folder: Path) -> list[str]:
    try:
        return [str(fault) for fault in check_bundle(open_bundle(folder)).faults]
    except BundleError as error:
        return [str(fault) for fault in error.faults]


def listed(folder: Path, name: str) -> None:
    """Bring the manifest up to date with a file that was changed."""
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    data = (folder / name).read_bytes()
    for file in manifest["files"]:
        if file["name"] == name:
            file |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))


def resealed(folder: Path, change: Callable[[ScoresRecord], dict[str, Any]]) -> None:
    """Forge with care: change the scores, and compute every id anew."""
    path = folder / "submission.json"
    record = parse_record(path.read_bytes(), source="x")
    chain, parents = list(record.chain), {}
    for index, first in enumerate(chain):
        if isinstance(first, ScoresRecord):
            fields = {
                "work": first.work,
                "parents": first.parents,
                "outputs": first.outputs,
                "counts": first.counts,
                "results": first.results,
                "made_by": first.made_by,
            }
            chain[index] = ScoresRecord.seal(**(fields | change(first)))
            parents["scores/124"] = chain[index].id
    forged = Submission.seal(work=record.work, parents=parents, made_by=record.made_by)
    forged = forged.model_copy(update={"chain": tuple(chain)})
    path.write_bytes(forged.to_json())
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["submission"] = forged.id
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    listed(folder, "submission.json")


def test_a_whole_bundle_has_no_faults_and_a_row(whole: Path) -> None:
    checked = check_bundle(open_bundle(whole))
    assert checked.faults == ()
    assert checked.measured is not None
    row = checked.measured.row
    assert (row.method, row.team, row.scale) == ("a method", "a team", "tiny")
    assert set(checked.measured.draws) == {"bits_per_byte", "cloze"}
    assert row.flops == 6.0 * row.params * row.budget.seen


def test_an_edited_record_is_refused(folder: Path) -> None:
    data = (folder / "submission.json").read_bytes()
    (folder / "submission.json").write_bytes(data.replace(b'"a method"', b'"my method"', 1))
    [fault] = faults(folder)
    assert "submission.json" in fault
    assert "the record was edited" in fault


def test_a_changed_log_is_refused_by_the_manifest(folder: Path) -> None:
    data = bytearray((folder / TASK).read_bytes())
    data[100] ^= 1
    (folder / TASK).write_bytes(data)
    [fault] = faults(folder)
    assert fault.startswith(f"{TASK}: sha256: found ")


def test_a_changed_log_and_manifest_are_refused_by_the_record(folder: Path) -> None:
    table = pq.read_table(folder / TASK)
    pq.write_table(table.set_column(5, "correct", pa.array([True] * len(table))), folder / TASK)
    listed(folder, TASK)
    [fault] = faults(folder)
    assert "questions/124/heldout_ending: sha256: found 1 files of other bytes" in fault


def test_answers_turned_right_are_refused(folder: Path) -> None:
    """A log that claims more than it shows, with every hash computed anew."""
    table = pq.read_table(folder / TASK)
    wrong = len(table) - pc.sum(table["correct"]).as_py()
    pq.write_table(table.set_column(5, "correct", pa.array([True] * len(table))), folder / TASK)
    listed(folder, TASK)
    digest = hashlib.sha256((folder / TASK).read_bytes()).hexdigest()

    def change(scores: ScoresRecord) -> dict[str, Any]:
        outputs = [
            output.model_copy(update={"sha256": digest})
            if "heldout_ending" in output.name
            else output
            for output in scores.outputs
        ]
        return {"outputs": outputs}

    resealed(folder, change)
    messages = faults(folder)
    assert f"correct: found {wrong} rows (first: row " in messages[0]
    assert "where it differs from predicted = gold" in messages[0]


def test_a_raised_score_is_refused_with_both_values(folder: Path) -> None:
    def change(scores: ScoresRecord) -> dict[str, Any]:
        tasks = list(scores.results.tasks)
        tasks[1] = tasks[1].model_copy(update={"value": 0.99})
        return {"results": scores.results.model_copy(update={"tasks": tuple(tasks)})}

    resealed(folder, change)
    [fault] = faults(folder)
    assert "heldout_next_sentence: value: found 0.99, expected 0." in fault
    assert fault.endswith("computed again from the questions")


def test_a_raised_aggregate_is_refused(folder: Path) -> None:
    def change(scores: ScoresRecord) -> dict[str, Any]:
        aggregates = dict(scores.results.aggregates)
        first = aggregates["bits_per_byte"]
        aggregates["bits_per_byte"] = first.model_copy(update={"value": 0.5})
        return {"results": scores.results.model_copy(update={"aggregates": aggregates})}

    resealed(folder, change)
    [fault] = faults(folder)
    assert "bits_per_byte.value: found 0.5, expected 2." in fault


def test_an_edited_suite_is_refused(folder: Path) -> None:
    def change(scores: ScoresRecord) -> dict[str, Any]:
        parameters = orjson.loads(orjson.dumps(scores.work.parameters))
        parameters["suite"]["aggregates"][0]["higher_is_better"] = True
        return {"work": scores.work.model_copy(update={"parameters": parameters})}

    resealed(folder, change)
    assert "found an edited suite, expected suite tiny version 1 as installed" in faults(folder)[0]


def test_unverified_data_is_refused(folder: Path) -> None:
    def change(scores: ScoresRecord) -> dict[str, Any]:
        tasks = tuple(task.model_copy(update={"verified": False}) for task in scores.work.tasks)
        return {"work": scores.work.model_copy(update={"tasks": tasks})}

    resealed(folder, change)
    assert "task heldout_bits_per_byte: found unverified data" in faults(folder)[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", "huge", "work.scale: found 'huge', expected one of tiny"),
        ("track", "byod", "work.track: found 'byod', expected one of filtering, mixing"),
        ("benchmark", "imagenet", "unknown benchmark 'imagenet'"),
        ("benchmark_version", "0", "work.benchmark_version: found '0', expected '1'"),
        ("method", "  ", "work.method: found '  ', expected a name"),
        ("method", "x" * 121, "expected at most 120 characters"),
        ("team", "a\x1b[31mred", "expected a text without control characters"),
        ("url", "javascript:alert(1)", "expected an address that starts with https://"),
    ],
)
def test_a_wrong_claim_is_refused(field: str, value: str, message: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path, changed={field: value})
    assert any(message in fault for fault in faults(path)), faults(path)


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    (folder / "questions/124/heldout_ending/000001.parquet").write_bytes(b"PAR1")
    assert faults(folder) == [
        "bundle.json: files: found questions/124/heldout_ending/000001.parquet is not listed, "
        "expected every file; make the bundle again with `submit`; nothing in it may be edited"
    ]


def test_a_missing_log_is_refused(folder: Path) -> None:
    (folder / TASK).unlink()
    assert faults(folder) == [
        f"bundle.json: files: found {TASK}, which is not there, expected its bytes; make the "
        "bundle again with `submit`; nothing in it may be edited"
    ]


def test_a_question_asked_twice_is_refused(folder: Path) -> None:
    table = pq.read_table(folder / TASK)
    twice = table.set_column(0, "row", pa.array([0] * len(table)))
    pq.write_table(twice, folder / TASK)
    listed(folder, TASK)
    digest = hashlib.sha256((folder / TASK).read_bytes()).hexdigest()
    resealed(
        folder,
        lambda scores: {
            "outputs": [
                output.model_copy(update={"sha256": digest}) if "ending" in output.name else output
                for output in scores.outputs
            ]
        },
    )
    assert any("row: found a question twice" in fault for fault in faults(folder))


def test_a_place_that_is_no_address_is_refused(folder: Path) -> None:
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["dataset"]["location"] = "file:///etc/passwd"
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    assert "dataset.location: found 'file:///etc/passwd'" in faults(folder)[0]


# ---- lists of uids


def ids(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    array = np.empty(number, uids.RECORDS)
    for half in ("f0", "f1"):
        array[half] = rng.integers(0, 1 << 64, number, dtype=np.uint64)
    return np.sort(array)


def test_a_uid_list_is_told_by_count_hash_and_a_sample(tmp_path: Path) -> None:
    records = ids(50_000)
    np.save(tmp_path / "list.npy", records)
    uid_list = uids.describe(uids.open_uids(str(tmp_path / "list.npy")))
    assert uid_list.count == 50_000
    assert uid_list.sha256 == hashlib.sha256(records.tobytes()).hexdigest()
    sample = uids.choose(records, uid_list.sha256)
    assert sample.num_rows == 10_000
    chosen = set(zip(sample["high"].to_pylist(), sample["low"].to_pylist(), strict=True))
    assert len(chosen) == 10_000
    assert chosen <= {(int(high), int(low)) for high, low in records.tolist()}


def test_the_hash_of_the_file_is_that_of_what_numpy_saves(tmp_path: Path) -> None:
    records = ids(1000)
    np.save(tmp_path / "list.npy", records)
    written = hashlib.sha256((tmp_path / "list.npy").read_bytes()).hexdigest()
    assert uids.npy_sha256(records) == written


def test_the_sample_depends_on_the_list_and_not_on_how_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = ids(3000)
    first = uids.choose(records, "ab" * 32, 100)
    monkeypatch.setattr(uids, "AT_ONCE", 257)
    assert uids.choose(records, "ab" * 32, 100) == first
    assert uids.choose(records, "cd" * 32, 100) != first


def test_an_unsorted_list_is_refused_with_its_place() -> None:
    records = ids(100)
    records[[40, 41]] = records[[41, 40]]
    with pytest.raises(ValueError, match="uid 41 of the list is less than the one before"):
        uids.describe(records)
