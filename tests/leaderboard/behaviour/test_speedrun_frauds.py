"""Speedruns that were tampered with: made-up curves, shifted steps, exchanged and missing logs.

Each entry is consistent from where it was changed on: records are sealed again, and the manifest
lists the files as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leaderboard.rules import load_benchmark
from leaderboard.submissions.bundle import write_zip
from leaderboard.submissions.validate import check
from pipelines.records import parse_record
from tests.leaderboard.frauds import (
    altered,
    checked,
    column,
    known_of,
    listed,
    manifested,
    record_of,
    refused,
    resealed,
    scored_again,
)
from tests.leaderboard.made_up import make_folder

pytestmark = pytest.mark.usefixtures("few_draws")
BOOKS = {"dclm": ("heldout_bits_per_byte", "124"), "datacomp": ("emoji_retrieval", "0")}
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(params=sorted(BOOKS))
def book(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def race(out: Path, **options: Any) -> Path:
    return make_folder(out, track="speedrun", **options)


def steps_of(folder: Path, seed: str) -> list[Path]:
    """The folders of the checkpoints of a seed, in the order of training."""
    return sorted((folder / "checkpoints" / seed).iterdir())


def with_logs(folder: Path, seed: str, number: int, change: Change) -> Path:
    """All logs of one checkpoint changed, and everything computed from them."""
    for path in steps_of(folder, seed)[number].glob("*/*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)
    return scored_again(folder)


def copied(source: Path, target: Path) -> None:
    """The logs of one checkpoint in place of another's."""
    for path in source.glob("*/*.parquet"):
        shutil.copy(path, target / path.relative_to(source))


def test_what_is_computed_again_from_true_logs_passes(book: str, tmp_path: Path) -> None:
    """The tools of these tests change nothing by themselves."""
    assert checked(scored_again(race(tmp_path, benchmark=book))).faults == ()


def test_a_made_up_curve_that_ends_at_the_true_score_is_refused(book: str, tmp_path: Path) -> None:
    """The fraud that once ranked: better scores on the way, in the manifest alone."""
    folder = race(tmp_path, benchmark=book)
    curves = orjson.loads((folder / "bundle.json").read_bytes())["curves"]
    for points in curves.values():
        for point in points[:-1]:
            point["value"] = points[-1]["value"]
    fault = refused(manifested(folder, curves=curves), "arithmetic", "curves.")
    assert fault.file == "bundle.json"
    assert "computed again" in fault.hint


def test_made_up_scores_of_checkpoints_are_refused(book: str, tmp_path: Path) -> None:
    """The same in the records, too: scores that the logs do not have."""
    folder = race(tmp_path, benchmark=book)
    last = parse_record(
        (steps_of(folder, BOOKS[book][1])[-1] / "scores.json").read_bytes(), source=""
    )
    resealed(folder, lambda *_: {"results": last.results})
    head = next(iter(last.results.aggregates.values()))
    curves = orjson.loads((folder / "bundle.json").read_bytes())["curves"]
    for points in curves.values():
        for point in points:
            point |= {"value": head.value, "stderr": head.stderr}
    fault = refused(manifested(folder, curves=curves), "arithmetic", "value")
    assert fault.file.startswith("checkpoints/")


def test_checkpoints_under_earlier_steps_are_refused(book: str, tmp_path: Path) -> None:
    """Steps shifted by one in every record, file and curve: the recipe says where they are."""
    folder = race(tmp_path, benchmark=book)

    def earlier(name: str) -> str:
        head, step, tail = name.partition("step-")
        return f"{head}{step}{int(tail[:8]) - 1:08d}{tail[8:]}" if step else name

    def change(fields: dict[str, Any]) -> None:
        fields["outputs"] = [f | {"name": earlier(f["name"])} for f in fields["outputs"]]

    seed = BOOKS[book][1]
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    for path in steps_of(folder, seed):
        path.rename(path.with_name(earlier(path.name)))
    for file in manifest["files"]:
        file["name"] = earlier(file["name"])
    for point in manifest["curves"][seed]:
        point["checkpoint"] = earlier(point["checkpoint"])
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    fault = refused(altered(folder, "model", change), "lineage.speedrun", "outputs")
    assert "those of the recipe" in fault.expected


def test_the_logs_of_a_later_checkpoint_are_refused(book: str, tmp_path: Path) -> None:
    folder, seed = race(tmp_path, benchmark=book), BOOKS[book][1]
    steps = steps_of(folder, seed)
    copied(steps[-1], steps[1])
    fault = refused(scored_again(folder), "novelty.copy", "scores.json")
    assert f"the answers of {steps[1].name} of seed {seed} again" in fault.found


def test_the_logs_of_the_final_model_are_refused(book: str, tmp_path: Path) -> None:
    folder, (task, seed) = race(tmp_path, benchmark=book), BOOKS[book]
    first = steps_of(folder, seed)[0]
    shutil.copy(folder / "questions" / seed / task / "000000.parquet", first / task)
    fault = refused(scored_again(folder), "novelty.copy", first.name)
    assert "the final model" in fault.found


def test_the_same_logs_in_other_bytes_are_refused(book: str, tmp_path: Path) -> None:
    folder, seed = race(tmp_path, benchmark=book), BOOKS[book][1]
    steps = steps_of(folder, seed)
    copied(steps[-1], steps[1])

    def other_way_round(log: pa.Table) -> pa.Table:
        return log.take(np.arange(len(log))[::-1])

    refused(with_logs(folder, seed, 1, other_way_round), "novelty.copy", "scores.json")


def test_the_same_losses_with_a_little_noise_are_refused(tmp_path: Path) -> None:
    folder = race(tmp_path)
    steps = steps_of(folder, "124")
    copied(steps[-1], steps[1])
    rng = np.random.default_rng(0)

    def noisy(log: pa.Table) -> pa.Table:
        return column(log, "nats", log["nats"].to_numpy() * (1 + 1e-5 * rng.random(len(log))))

    fault = refused(with_logs(folder, "124", 1, noisy), "novelty.copy", "scores.json")
    assert "plus a little noise" in fault.found


def test_the_logs_of_another_seed_are_refused(tmp_path: Path) -> None:
    folder = race(tmp_path, seeds=(124, 125))
    own, other = steps_of(folder, "124"), steps_of(folder, "125")
    copied(other[-1], own[2])
    fault = refused(scored_again(folder), "novelty.copy", "scores.json")
    assert "again" in fault.found


def test_the_scores_of_another_seed_as_they_are_are_refused(tmp_path: Path) -> None:
    """Their record names its model."""
    folder = race(tmp_path, seeds=(124, 125))
    own, other = steps_of(folder, "124")[2], steps_of(folder, "125")[2]
    copied(other, own)
    shutil.copy(other / "scores.json", own)
    written = {p.relative_to(folder).as_posix(): p.read_bytes() for p in own.rglob("*.*")}
    fault = refused(listed(folder, dict(written)), "form.checkpoints", "parents.model")
    assert "of another model or checkpoint" in fault.found


def test_the_logs_of_another_dataset_are_refused(book: str, tmp_path: Path) -> None:
    """Of an entry that the board knows: of one's own, and of another team's."""
    seed = BOOKS[book][1]
    better = race(tmp_path / "better", benchmark=book, chance=1, skill=0.7, method="better")
    for team in ("a team", "thieves"):
        folder = race(tmp_path / team, benchmark=book, chance=2, team=team)
        copied(steps_of(better, seed)[4], steps_of(folder, seed)[4])
        scored_again(folder)
        fault = refused(folder, "novelty.copy", "chain", known_of(better))
        assert "the answers of" in fault.found


def test_a_log_without_some_questions_is_refused(book: str, tmp_path: Path) -> None:
    folder, seed = race(tmp_path, benchmark=book), BOOKS[book][1]

    def easiest(log: pa.Table) -> pa.Table:
        return log.slice(0, len(log) // 2)

    for path in steps_of(folder, seed)[1].glob("*/*.parquet"):
        pq.write_table(easiest(pq.read_table(path)), path)
    faults = checked(scored_again(folder)).faults
    assert faults
    assert {fault.rule for fault in faults} <= {"form.columns", "arithmetic"}
    assert all("step-" in f"{fault.file} {fault.field}" for fault in faults)


def test_an_entry_without_logs_has_one_message(book: str, tmp_path: Path) -> None:
    """As bundles were before logs were sent."""
    folder = race(tmp_path, benchmark=book)
    names = [path.relative_to(folder).as_posix() for path in (folder / "checkpoints").rglob("*.*")]
    shutil.rmtree(folder / "checkpoints")
    listed(folder, dict.fromkeys(names))
    curves = orjson.loads((folder / "bundle.json").read_bytes())["curves"]
    for curve in (curves, {}):  # also without `submit --curve`
        faults = checked(manifested(folder, curves=curve)).faults
        assert len(faults) == 1
        assert faults[0].rule == "lineage.speedrun"
        assert "no logs of step-" in faults[0].found
        assert "make the bundle again with `speedrun --submit`" in faults[0].hint
    assert check(record_of(folder), load_benchmark(book)) == []  # the record alone shows nothing


def test_one_checkpoint_without_logs_is_refused(tmp_path: Path) -> None:
    folder = race(tmp_path)
    left_out = steps_of(folder, "124")[3]
    names = [path.relative_to(folder).as_posix() for path in left_out.rglob("*.*")]
    shutil.rmtree(left_out)
    fault = refused(listed(folder, dict.fromkeys(names)), "lineage.speedrun", "checkpoints")
    assert f"no logs of {left_out.name} of seed 124" in fault.found


def test_scores_without_their_logs_are_refused(tmp_path: Path) -> None:
    folder = race(tmp_path)
    [path] = steps_of(folder, "124")[3].glob("*/*.parquet")
    name = path.relative_to(folder).as_posix()
    path.unlink()
    refused(listed(folder, {name: None}), "arithmetic", path.parent.parent.name)


def test_checkpoints_are_measured_by_the_speedruns_suite(tmp_path: Path) -> None:
    def other(scores: Any, *_: Any) -> dict[str, Any]:
        return {"work": scores.work.model_copy(update={"suite": "tiny"})}

    refused(resealed(race(tmp_path / "a"), other), "lineage.speedrun", "suite")

    def edited(scores: Any, *_: Any) -> dict[str, Any]:
        suite = scores.work.parameters["suite"] | {"window": 4096}
        return {"work": scores.work.model_copy(update={"parameters": {"suite": suite}})}

    refused(resealed(race(tmp_path / "b"), edited), "lineage.speedrun", "parameters.suite")


def test_checkpoints_are_asked_on_the_data_of_the_final_scores(tmp_path: Path) -> None:
    def other(scores: Any, *_: Any) -> dict[str, Any]:
        refs = [ref.model_copy(update={"identity": "0" * 64}) for ref in scores.work.tasks]
        return {"work": scores.work.model_copy(update={"tasks": tuple(refs)})}

    refused(resealed(race(tmp_path), other), "lineage.speedrun", "task heldout_bits_per_byte")


def test_right_answers_of_other_data_are_refused(tmp_path: Path) -> None:
    """Fewer bits a byte, by more bytes than the data has."""

    def longer(log: pa.Table) -> pa.Table:
        return column(log, "num_bytes", log["num_bytes"].to_numpy() * 4)

    refused(with_logs(race(tmp_path), "124", 0, longer), "arithmetic", "step-00000045")


def test_null_models_and_other_settings_are_refused(tmp_path: Path) -> None:
    def null(scores: Any, *_: Any) -> dict[str, Any]:
        parameters = scores.work.parameters | {"model": {"null": "uniform"}}
        return {"work": scores.work.model_copy(update={"parameters": parameters})}

    refused(resealed(race(tmp_path), null), "form.checkpoints", "model")


def test_scores_from_before_the_model_are_refused(tmp_path: Path) -> None:
    def before(scores: Any, *_: Any) -> dict[str, Any]:
        times = {"started": "2026-10-01T10:00:00Z", "finished": "2026-10-01T11:00:00Z"}
        return {"made_by": scores.made_by.model_copy(update=times)}

    refused(resealed(race(tmp_path), before), "form.checkpoints", "made_by.finished")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 200_000, b'{"kind": "scores"}', b" " * (1 << 21)]
)
def test_scores_that_are_none_are_refused(data: bytes, tmp_path: Path) -> None:
    folder = race(tmp_path)
    path = steps_of(folder, "124")[0] / "scores.json"
    path.write_bytes(data)
    name = path.relative_to(folder).as_posix()
    refused(listed(folder, {name: data}), "form.checkpoints", name)


def test_an_edited_record_is_refused(tmp_path: Path) -> None:
    folder = race(tmp_path)
    path = steps_of(folder, "124")[0] / "scores.json"
    value = orjson.loads(path.read_bytes())
    value["counts"]["questions"] += 1
    path.write_bytes(orjson.dumps(value))
    name = path.relative_to(folder).as_posix()
    refused(listed(folder, {name: path.read_bytes()}), "form.checkpoints", name)


def test_files_that_no_checkpoint_needs_are_refused(tmp_path: Path) -> None:
    """Of a step that the model has not, of another seed, of a seed in another spelling.

    In place of a checkpoint of its own: beyond their number nothing is read.
    """
    for number, name in enumerate(("124/step-00000007", "999/step-00000045", "0124/step-00000045")):
        folder = race(tmp_path / str(number))
        first, more = steps_of(folder, "124")[0], folder / "checkpoints" / name
        written: dict[str, bytes | None] = {
            path.relative_to(folder).as_posix(): None for path in first.rglob("*.*")
        }
        more.parent.mkdir(exist_ok=True)
        first.rename(more)
        written |= {p.relative_to(folder).as_posix(): p.read_bytes() for p in more.rglob("*.*")}
        faults = checked(listed(folder, written)).faults
        assert {fault.rule for fault in faults} <= {"form.files", "form.manifest"}
        assert any(f"checkpoints/{name}" in f"{fault.file} {fault.found}" for fault in faults)


def test_more_checkpoints_than_the_recipe_has_are_refused_unread(tmp_path: Path) -> None:
    folder = race(tmp_path)
    written: dict[str, bytes | None] = {}
    for number in range(3000):
        name = f"checkpoints/124/step-{number + 10_000:08d}/scores.json"
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"[")
        written[name] = b"["
    fault = refused(listed(folder, written), "form.checkpoints", "checkpoints")
    assert (fault.found, fault.expected) == (
        "3,015 checkpoints",
        "at most 15, as the recipe has",
    )


def test_other_tracks_take_no_logs_of_checkpoints(tmp_path: Path) -> None:
    source, folder = race(tmp_path / "a"), make_folder(tmp_path / "b")
    shutil.copytree(source / "checkpoints", folder / "checkpoints")
    written = {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in (folder / "checkpoints").rglob("*.*")
    }
    refused(listed(folder, dict(written)), "form.files", "checkpoints/124")


def test_a_huge_log_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """More rows than the data has; a page of zeros; a column that no rule names."""

    def longer(log: pa.Table) -> pa.Table:
        rows = 400_000
        return pa.table(
            {"row": np.arange(rows), "num_bytes": [100] * rows, "num_tokens": [20] * rows}
            | {"nats": np.random.default_rng(0).random(rows) + 60.0}
            | {"category": pa.nulls(rows, pa.string())}
        )

    folder = race(tmp_path / "rows")
    assert checked(with_logs(folder, "124", 0, longer)).faults != ()

    def zeros(log: pa.Table) -> pa.Table:
        pages = pa.array([b"\0" * (1 << 20)] * len(log), pa.binary())
        return log.append_column("page", pages)

    folder = race(tmp_path / "zeros")
    refused(with_logs(folder, "124", 0, zeros), "form.columns", "step-00000045")


def test_a_zip_of_an_entry_is_read_as_its_folder(tmp_path: Path) -> None:
    folder = race(tmp_path)
    path = write_zip(folder, tmp_path / "x.zip")
    assert checked(path).faults == ()
    with_logs(folder, "124", 0, lambda log: log.slice(0, 10))
    assert checked(write_zip(folder, tmp_path / "y.zip")).faults != ()
