from __future__ import annotations

import gzip

import orjson
import pytest

from evals.kinds import read_data
from evals.tasks import load_task
from evals.text.heldout import build_tiny_tasks
from pipelines.errors import DataError

TASKS = ("heldout_bits_per_byte", "heldout_next_sentence", "heldout_ending")
NOUNS = ["river", "teacher", "engine", "garden", "letter", "window", "captain", "village"]
VERBS = ["follows", "remembers", "describes", "repairs", "crosses", "watches", "carries"]


def documents(number):
    for doc in range(number):
        text = [
            f"The {NOUNS[(doc + i) % 8]} of the {NOUNS[(doc * 3 + i) % 8]} "
            f"{VERBS[(doc + 2 * i) % 7]} the {NOUNS[(doc + 5 * i) % 8]} near the old bridge."
            for i in range(6)
        ]
        yield {"id": f"d{doc:03}", "source": "s", "text": " ".join(text), "licence": "CC0-1.0"}


def write(path, rows):
    path.write_bytes(gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows), mtime=0))
    return path


def test_the_tasks_are_built_the_same_whatever_the_order_of_the_rows(tmp_path):
    rows = list(documents(30))
    first = write(tmp_path / "one.jsonl.gz", rows)
    second = write(tmp_path / "two.jsonl.gz", rows[::-1])
    for path, out in ((first, "a"), (first, "b"), (second, "c")):
        build_tiny_tasks(path, tmp_path / out, seed=7)
    for name in TASKS:
        file = load_task(name).file
        built = {(tmp_path / out / file).read_bytes() for out in "abc"}
        assert len(built) == 1


def test_another_seed_asks_other_questions(tmp_path):
    path = write(tmp_path / "one.jsonl.gz", documents(30))
    for seed in (1, 2):
        build_tiny_tasks(path, tmp_path / str(seed), seed=seed)
    file = load_task("heldout_ending").file
    assert (tmp_path / "1" / file).read_bytes() != (tmp_path / "2" / file).read_bytes()


def test_the_built_tasks_are_well_formed_and_verified(tmp_path):
    path = write(tmp_path / "one.jsonl.gz", documents(30))
    build_tiny_tasks(path, tmp_path / "out", seed=1)
    for name in TASKS:
        data = read_data(load_task(name), tmp_path / "out")
        assert data.verified
        assert len(data.items) >= 25


def test_the_right_option_follows_the_context_in_its_document(tmp_path):
    rows = {row["id"]: row["text"] for row in documents(30)}
    path = write(tmp_path / "one.jsonl.gz", documents(30))
    build_tiny_tasks(path, tmp_path / "out", seed=1)
    for name in ("heldout_next_sentence", "heldout_ending"):
        for item in read_data(load_task(name), tmp_path / "out").items:
            right = item.options[item.gold]
            assert any(f"{item.context} {right}" in text for text in rows.values())
            assert len(set(item.options)) == 4
            assert all(abs(len(o) - len(right)) <= 0.2 * len(right) for o in item.options)


def test_documents_are_cut_after_a_word(tmp_path):
    rows = [row | {"text": row["text"] * 4} for row in documents(8)]
    path = write(tmp_path / "one.jsonl.gz", rows)
    build_tiny_tasks(path, tmp_path / "out", seed=1)
    texts = [item.context for item in read_data(load_task(TASKS[0]), tmp_path / "out").items]
    for text in texts:
        assert len(text.encode()) <= 800
        assert any(row["text"].startswith(text + " ") for row in rows)


def test_repeated_ids_are_refused(tmp_path):
    path = write(tmp_path / "one.jsonl.gz", [*documents(2), *documents(1)])
    with pytest.raises(DataError, match=r"row 2: the id 'd000' appears twice"):
        build_tiny_tasks(path, tmp_path / "out", seed=1)


def test_too_little_text_is_refused(tmp_path):
    row = {"id": "a", "source": "s", "text": "Short.", "licence": "CC0-1.0"}
    path = write(tmp_path / "one.jsonl.gz", [row])
    with pytest.raises(DataError, match="give only 0 questions for next_sentence"):
        build_tiny_tasks(path, tmp_path / "out", seed=1)


def test_a_cut_off_file_is_refused(tmp_path):
    path = write(tmp_path / "one.jsonl.gz", documents(5))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        build_tiny_tasks(path, tmp_path / "out", seed=1)
