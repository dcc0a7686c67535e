"""The identity of data, and what a log repeats of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from evals.images.synthetic import write_synthetic_images
from evals.kinds import kind_of, read_data
from evals.nulls import NullModel
from evals.pinning import make_pin, write_pins
from evals.pins import pin_of, pins, truth_of
from evals.suite import load_suite
from evals.tasks import EvalError, load_task
from pipelines.errors import DataError
from tests.evals.helpers import make_task, write_rows

ROWS = [{"query": f"q{n}", "choices": ["yes", "no"], "gold": n % 2} for n in range(5)]


def test_identity_is_of_the_rows_and_not_of_the_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    first = read_data(make_task(), tmp_path)
    spaced = b"\n\n".join(orjson.dumps(dict(reversed(row.items()))) for row in ROWS)
    (tmp_path / "t.jsonl").write_bytes(spaced)
    other = read_data(make_task(), tmp_path)
    assert first.sha256 != other.sha256
    assert first.identity == other.identity
    lines = [[None, f"q{n}", [], ["yes", "no"], "", [], "", n % 2, []] for n in range(5)]
    by_hand = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    assert first.identity == hashlib.sha256(by_hand).hexdigest()


@pytest.mark.parametrize(
    "change", [{"gold": 1}, {"query": "q0 "}, {"choices": ["no", "yes"]}, {"query": "Q0"}]
)
def test_another_answer_or_text_is_another_identity(
    change: dict[str, object], tmp_path: Path
) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    first = read_data(make_task(), tmp_path).identity
    write_rows(tmp_path / "t.jsonl", [ROWS[0] | change, *ROWS[1:]])
    same = change == {"query": "q0 "}  # fields are stripped when they are read
    assert (read_data(make_task(), tmp_path).identity == first) is same


def test_one_image_or_label_of_a_dataset_changes_its_identity(tmp_path: Path) -> None:
    task = load_task("cifar10")
    collected = set()
    for name, seed, shards in (("a", 1, 2), ("b", 1, 3), ("c", 2, 2)):
        write_synthetic_images([task], tmp_path / name, seed=seed, images=12, shards=shards)
        collected.add(read_data(task, str(tmp_path / name)).identity)
    assert len(collected) == 2  # how many tars there are does not matter, one other image does
    folder = tmp_path / "a" / task.file / "test" / "0.tar"
    data = folder.read_bytes()
    label = data.index(b".cls")
    start = 512 * (label // 512 + 1)
    assert data[start : start + 1].isdigit()
    folder.write_bytes(data[:start] + b"9" + data[start + 1 :])
    from evals.images.image_tasks import read_images

    read_images.cache_clear()
    assert read_data(task, str(tmp_path / "a")).identity not in collected


def test_a_pin_says_what_every_log_of_the_data_repeats(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    task = make_task(shots=2)
    pin = make_pin(task, tmp_path)
    assert (pin.rows, pin.identity) == (5, read_data(task, tmp_path).identity)
    for null in ("random", "first_option"):
        log = kind_of(task).answer(
            task, read_data(task, tmp_path), [3, 1, 0, 4, 2], NullModel(null), window=64
        )
        assert truth_of(task.kind, log) == pin.truth
    turned = log.set_column(log.schema.get_field_index("gold"), "gold", log["predicted"])
    assert truth_of(task.kind, turned) != pin.truth


def test_a_pin_is_never_of_other_bytes_than_the_recorded_ones(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    with pytest.raises(DataError, match="the task records 000000"):
        make_pin(make_task(sha256="0" * 64), tmp_path)


def test_a_truth_is_the_hash_of_one_json_list_per_row() -> None:
    """However the columns are written: plain ones at once, others row by row."""
    plain: dict[str, list[object]] = {
        "row": [2, 0, 1],
        "key": ["a b", "", None],
        "gold": [7, None, -1],
        "metadata": [[1, -2], [], [3]],
    }
    for odd in (
        {},
        {"key": ['"', "é", "\n"]},
        {"key": ["\\", "\x7f", " "]},
        {"metadata": [[1], None, []]},
    ):
        columns = plain | odd
        rows = sorted(zip(*columns.values(), strict=True))
        lines = [orjson.dumps(list(columns)), *(orjson.dumps(row) for row in rows)]
        by_hand = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
        parts = [pa.table(columns).slice(start, 2) for start in (0, 2)]
        assert truth_of("image_classification", pa.concat_tables(parts)) == by_hand, odd


@pytest.mark.parity
def test_the_pins_are_those_of_the_reference_data(fixtures: Path) -> None:
    folder = fixtures / "dclm-eval" / "local_data"
    checked = 0
    for name, pin in pins().items():
        task = load_task(name)
        if (folder / task.file).is_file() and (task.rows or 0) <= 1000:
            assert make_pin(task, folder) == pin, name
            checked += 1
    assert checked or not folder.is_dir()


def test_pins_are_written_and_read_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", ROWS)
    pin = make_pin(make_task(), tmp_path)
    write_pins([("b", pin), ("a", pin)], tmp_path / "pins.yaml")
    lines = (tmp_path / "pins.yaml").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["a", "b"]


def test_every_ranked_tiny_task_is_pinned() -> None:
    """A row on the packages' own data is not marked as one on data that nobody pinned."""
    for suite in ("dclm/tiny", "datacomp/tiny"):
        for task in load_suite(suite).tasks:
            pin = pin_of(task)
            assert pin is not None
            assert pin.rows > 100


def test_a_generators_task_is_not_pinned(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="digits_frechet cannot be pinned"):
        make_pin(load_task("digits_frechet"), tmp_path)
