"""The command line, end to end with a small random Hugging Face model."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from dclm.results import dclm_tasks
from evals.__main__ import app
from evals.text.heldout import build_tiny_tasks
from pipelines.console import main
from tests.evals.helpers import make_task, write_rows

ROOT = Path(__file__).parents[2]
NOUNS = ["river", "teacher", "engine", "garden", "letter", "window", "captain", "village"]
VERBS = ["follows", "remembers", "describes", "repairs", "crosses", "watches", "carries"]


def evals(capsys, *arguments):
    """Run one command; its exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        main(app, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A saved model, the data of the tiny suite, and one finished evaluation."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    root = tmp_path_factory.mktemp("evals")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=256
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(root / "model")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>"
    ).save_pretrained(root / "model")
    rows = []
    for doc in range(8):
        sentences = [
            f"The {NOUNS[(doc + i) % 8]} of the {NOUNS[(doc * 3 + i) % 8]} "
            f"{VERBS[(doc + 2 * i) % 7]} the {NOUNS[(doc + 5 * i) % 8]} near the old bridge."
            for i in range(4)
        ]
        text = " ".join(sentences)
        rows.append({"id": f"d{doc}", "source": "s", "text": text, "licence": "CC0-1.0"})
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (root / "heldout.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    write_rows(root / "set/part.jsonl", rows)
    build_tiny_tasks(root / "heldout.jsonl.gz", root / "data", seed=1)
    with pytest.raises(SystemExit) as stop:
        main(app, run_arguments(root))
    assert stop.value.code == 0
    return root


def run_arguments(root):
    suite, data, out = ("--suite", "dclm/tiny"), ("--data", root / "data"), ("--out", root / "out")
    return [str(a) for a in ("run", root / "model", *suite, *data, *out, "--device", "cpu")]


def test_a_second_run_prints_the_finished_record(world, capsys):
    code, out, _ = evals(capsys, *run_arguments(world), "--json")
    assert code == 0
    record = orjson.loads(out)
    assert record == orjson.loads((world / "out/record.json").read_bytes())
    assert set(record["results"]["aggregates"]) == {"bits_per_byte", "cloze"}


def test_scores_are_shown_with_their_errors(world, capsys):
    code, out, _ = evals(capsys, "show", world / "out")
    assert code == 0
    assert "heldout_bits_per_byte  bits per byte" in out
    assert "bits_per_byte" in out
    assert "lower" in out


def test_single_questions_are_shown(world, capsys):
    tokenizer = world / "model/tokenizer.json"
    code, out, _ = evals(
        capsys, "show", world / "out", "heldout_ending", "--limit", 1, "--tokenizer", tokenizer
    )
    assert code == 0
    assert out.startswith("heldout_ending, row 0\n\nThe ")
    assert "* chosen, + right" in out
    code, out, _ = evals(capsys, "show", world / "out", "heldout_bits_per_byte", "--limit", 1)
    assert "bits per byte over" in out


def test_wrong_answers_are_shown_as_json(world, capsys):
    code, out, _ = evals(capsys, "show", world / "out", "heldout_ending", "--wrong", "--json")
    assert code == 0
    assert all(entry["correct"] is False for entry in orjson.loads(out))


def test_a_run_compared_with_itself_does_not_differ(world, capsys):
    code, out, _ = evals(capsys, "compare", world / "out", world / "out", "--json")
    assert code == 0
    assert [d["difference"] for d in orjson.loads(out)] == [0, 0, 0]


def test_a_good_data_folder_passes(world, capsys):
    code, out, _ = evals(capsys, "check", world / "data", "--suite", "dclm/tiny")
    assert code == 0
    assert "3 of 3 tasks of dclm/tiny can run" in out


def test_an_incomplete_data_folder_is_bad_data(tmp_path, capsys):
    code, out, _ = evals(capsys, "check", tmp_path, "--suite", "light")
    assert code == 3
    assert "error    hellaswag_zeroshot: there is no file" in out
    assert "0 of 2 tasks of light can run" in out


def test_items_are_written_as_a_table(world, tmp_path, capsys):
    file = tmp_path / "items.parquet"
    code, _, _ = evals(capsys, "items", "dclm/tiny", "--data", world / "data", "--out", file)
    assert code == 0
    assert pq.read_table(file).column_names == ["task", "item", "text"]


def test_overlap_finds_the_documents_that_the_items_are_made_from(world, tmp_path, capsys):
    matches = tmp_path / "matches.jsonl"
    code, out, _ = evals(
        capsys,
        *("overlap", world / "set", "dclm/tiny", "--data", world / "data"),
        *("--run", world / "out", "--json", "--matches", matches, "--workers", 2),
    )
    assert code == 0
    lines = [orjson.loads(line) for line in matches.read_bytes().splitlines()]
    copies = {line["item"] for line in lines if line["score"] == 1}
    assert copies >= set(range(8))
    report = {entry["task"]: entry for entry in orjson.loads(out)}
    documents = report["heldout_bits_per_byte"]
    assert documents["num_found"] == documents["num_items"] == 8
    assert documents["score_without"] is None


def test_aggregates_are_computed_from_an_evaluation_file(tmp_path, capsys):
    icl = dict.fromkeys(dclm_tasks(), 1.0)
    value = {"name": "n", "uuid": "u", "model": "m", "eval_metrics": {"icl": icl}}
    (tmp_path / "e.json").write_bytes(orjson.dumps(value))
    code, out, _ = evals(capsys, "aggregate", tmp_path / "e.json", "--json")
    assert code == 0
    assert orjson.loads(out)["Core_v2"] == 1.0


def test_made_up_data_is_written_for_a_suite(tmp_path, capsys, monkeypatch):
    from evals.suite import Suite

    task = make_task("copa", rows=3, file="copa.jsonl")
    monkeypatch.setattr(Suite, "load_tasks", lambda self: [task])
    code, out, _ = evals(capsys, "synthetic", "light", "--out", tmp_path)
    assert code == 0
    assert "made up" in out
    assert len((tmp_path / "copa.jsonl").read_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "nowhere"), 3, "holds no record.json"),
        (("check", "nowhere"), 2, "there is no folder nowhere"),
        (("check", ".", "--suite", "none"), 2, "suite 'none' is unknown"),
        (("aggregate", "nowhere.json"), 2, "there is no file nowhere.json"),
        (("convert", "nowhere.txt", "--out", "x"), 3, "there is no file nowhere.txt"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_have_their_exit_codes(capsys, arguments, code, message):
    actual, _, err = evals(capsys, *arguments)
    assert actual == code
    assert message in err


def test_importing_evals_loads_no_heavy_library():
    script = (
        "import sys, evals.run, evals.text.language, evals.text.perplexity, evals.__main__; "
        "print([m for m in ('torch', 'transformers', 'ray', 'boto3', 'numba') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert process.stdout.strip() == "[]"
