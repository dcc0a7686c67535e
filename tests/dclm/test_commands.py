"""The commands of DCLM: results for a person or a machine, one line for an error, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import data_sets
import orjson
import pytest
import yaml

from dclm.recipe import Recipe, num_steps
from leaderboard.rounds.commands import command_line
from leaderboard.rounds.train_log import read_metrics
from pipelines.console import main
from pipelines.records import ModelRecord, PackedRecord, parse_record

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A dataset, and a recipe of 10 steps in a file."""
    folder = tmp_path_factory.mktemp("commands")
    recipe = data_sets.recipe(folder, tokens=10 * 8 * 32)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    data_sets.dataset(folder / "dataset", data_sets.sentences(300, seed=3))
    return folder, recipe


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a `dclm` command."""
    with pytest.raises(SystemExit) as ended:
        main(command_line("dclm"), [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def packed(capsys: pytest.CaptureFixture[str], folder: Path, out: Path, *options: str) -> Path:
    where = ("--dataset", folder / "dataset", "--recipe", folder / "recipe.yaml", "--out", out)
    code, _, error = call(capsys, "pack", "--scale", "tiny", *where, "--workers", 1, *options)
    assert code == 0, error
    return out


def test_plan_answers_a_person_and_a_machine(capsys) -> None:
    code, text, error = call(capsys, "plan", "--scale", "1b-1x", "--gpus", "8", "--mfu", "0.4")
    assert (code, error) == (0, "")
    # 6 x 1,439,795,200 x 28,795,904,000 / (0.4 x 989e12 x 8) s = 21.8 h
    assert "22 (175 GPU-hours, about $437)" in text
    code, text, _ = call(capsys, "plan", "--scale", "1b-1x", "--gpus", "8", "--json")
    assert code == 0
    assert orjson.loads(text)["num_steps"] == 54_923


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--scale", "7b-1x", "--gpus", "1"), 2, "needs 126 GB a GPU for a single sequence"),
        (("--scale", "1b-1x", "--gpus", "7"), 2, "does not divide over 7 GPUs; use 4"),
        (("--scale", "1b-1x", "--gpus", "8", "--gpu", "x1"), 2, "unknown GPU 'x1'"),
        (("--scale", "1b-1x", "--gpus", "8", "--packed", "none"), 3, "/none/record.json; name the"),
        (("--scale", "2b", "--gpus", "8"), 3, "there is no recipe '2b'; expected one of 100m, "),
    ],
)
def test_plan_refuses_what_cannot_work(capsys, options, code: int, message: str) -> None:
    result, text, error = call(capsys, "plan", *options)
    assert (result, text) == (code, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_model_is_packed_planned_trained_and_exported(capsys, words, tmp_path: Path) -> None:
    folder, _ = words
    data = packed(capsys, folder, tmp_path / "packed")
    named = ("--scale", "tiny", "--recipe", folder / "recipe.yaml", "--packed", data)
    code, text, _ = call(capsys, "plan", *named, "--gpus", "1", "--json")
    sequences = parse_record((data / "record.json").read_bytes(), source="").counts["sequences"]
    assert code == 0
    assert orjson.loads(text)["passes"] == pytest.approx(80 / sequences)
    model = tmp_path / "model"
    code, text, error = call(capsys, "train", *named, "--out", model, "--seed", 1, "--json")
    assert code == 0, error
    record = parse_record(orjson.dumps(orjson.loads(text)), source="output")
    assert isinstance(record, ModelRecord)
    assert record.work.seed == 1
    assert len(orjson.loads((model / "chain.json").read_bytes())) == 2, "dataset, packing"
    code, text, _ = call(capsys, "train", *named, "--out", model, "--seed", 1, "--json")
    assert code == 0
    assert orjson.loads(text)["id"] == record.id, "trained before"
    code, _, error = call(capsys, "train", *named, "--out", model, "--seed", 0)
    assert (code, "is of other work" in error) == (3, True)
    code, text, _ = call(capsys, "export", model, "--to", "hf", "--out", tmp_path / "hf")
    assert code == 0
    assert "config.json, model.safetensors, tokenizer.json" in text
    code, text, _ = call(capsys, "export", model, "--to", "hf", "--out", tmp_path / "hf")
    assert code == 3


def test_options_of_pack_are_in_the_record(capsys, words, tmp_path: Path) -> None:
    folder, _ = words
    out = packed(capsys, folder, tmp_path / "a", "--layout", "open_lm", "--mode", "reference")
    record = parse_record((out / "record.json").read_bytes(), source="record")
    assert isinstance(record, PackedRecord)
    assert (record.work.layout, record.work.mode) == ("open_lm", "reference")
    # Another layout into the same folder is other work, and is not taken for done.
    where = ("--dataset", folder / "dataset", "--recipe", folder / "recipe.yaml", "--out", out)
    code, _, error = call(capsys, "pack", "--scale", "tiny", *where, "--workers", 1)
    assert (code, "is of other work" in error) == (3, True)


def test_shards_without_a_record_are_registered_and_trained_on(
    capsys, words, tmp_path: Path
) -> None:
    folder, recipe = words
    out = packed(capsys, folder, tmp_path / "a", "--layout", "open_lm")
    for name in ("record.json", "chain.json"):
        (out / name).unlink()
    for path in (out / "data").glob("*.tar"):
        path.rename(out / path.name)
    named = ("--scale", "tiny", "--recipe", folder / "recipe.yaml")
    code, text, error = call(capsys, "register-shards", out, *named)
    assert code == 0, error
    assert text.startswith("packed ")
    model = tmp_path / "model"
    code, _, error = call(capsys, "train", *named, "--packed", out, "--out", model)
    assert code == 0, error
    assert len(read_metrics(model / "metrics.jsonl")) == num_steps(recipe)
    code, _, error = call(capsys, "register-shards", out, *named)
    assert (code, "exists already" in error) == (3, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "2"), "this machine has no GPU"),
        (("--gpus", "2", "--processes", "2"), "not both"),
    ],
)
def test_launch_options_that_do_not_fit_are_refused(capsys, tmp_path, options, message) -> None:
    where = ("--scale", "tiny", "--packed", tmp_path / "packed", "--out", tmp_path / "model")
    code, _, error = call(capsys, "train", *where, *options)
    assert (code, message in error) == (2, True)


@pytest.mark.slow
def test_under_torchrun_only_the_first_process_prints(capsys, words, tmp_path: Path) -> None:
    folder, recipe = words
    data = packed(capsys, folder, tmp_path / "packed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", "2", "-m", "dclm", "train", "--scale", "tiny"]
    where = ["--recipe", folder / "recipe.yaml", "--packed", data, "--out", tmp_path / "model"]
    run = subprocess.run(
        [*command, *map(str, where)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("model ") == 1
    assert run.stderr.count("train seed 0: 10 steps") == 1
    assert len(read_metrics(tmp_path / "model" / "metrics.jsonl")) == num_steps(recipe)


@pytest.mark.slow
def test_one_command_trains_in_two_processes_as_in_one(capsys, words, tmp_path: Path) -> None:
    folder, _ = words
    data = packed(capsys, folder, tmp_path / "packed")
    named = ("--scale", "tiny", "--recipe", folder / "recipe.yaml", "--packed", data)
    losses = []
    for name, options in (("one", ()), ("two", ("--processes", "2"))):
        code, text, error = call(capsys, "train", *named, "--out", tmp_path / name, *options)
        assert code == 0, error
        assert text.startswith("model ")
        losses.append([row.loss for row in read_metrics(tmp_path / name / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.s3
@pytest.mark.slow
def test_a_model_is_trained_from_and_into_a_bucket(capsys, words, tmp_path, bucket, monkeypatch):
    from leaderboard.rounds.mirror import local_model
    from pipelines.storage.open import open_store

    folder, recipe = words
    monkeypatch.setenv("CURATION_SCRATCH", str(tmp_path / "scratch"))
    named = ("--scale", "tiny", "--recipe", folder / "recipe.yaml")
    data, model = f"{bucket}/packed", f"{bucket}/model"
    for command in (
        ("pack", *named, "--dataset", folder / "dataset", "--out", data),
        ("train", *named, "--packed", data, "--out", model),
    ):
        code, _, error = call(capsys, *command)
        assert code == 0, error
    names = {entry.name for entry in open_store(model).list()}
    assert {"record.json", "chain.json", "checkpoint.safetensors", "metrics.jsonl"} <= names
    assert not {name for name in names if name.startswith(("partial", "snapshot"))}
    copy = Path(local_model(model))
    assert (copy / "checkpoint.safetensors").stat().st_size > 4 * recipe.model.num_params
    code, _, error = call(capsys, "train", *named, "--packed", data, "--out", model)
    assert code == 0, error  # it was trained before
