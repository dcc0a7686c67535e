"""Logs of questions that were made up: ties, impossible answers, tricks of parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.tasks import Task
from tests.leaderboard.frauds import (
    checked,
    column,
    only,
    refused,
    relisted,
    with_log,
    with_options,
)
from tests.leaderboard.made_up import make_folder

# ---- ties


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


def late_lists(log: pa.Table, path: Path) -> None:
    """A list of eight million equal losses in the last row, which is few bytes in the file."""
    losses = [[0.5]] * (len(log) - 1) + [[0.5] * (8 << 20)]
    table = log.append_column("losses", pa.array(losses, pa.list_(pa.float32())))
    pq.write_table(table, path, compression="zstd")


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
    "a long list at the end": ("form.columns", late_lists),
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


PLAIN = pa.default_memory_pool()
COUNTED = pa.proxy_memory_pool(PLAIN)  # lives as long as what was allocated from it may


def test_texts_that_are_allowed_are_refused_by_their_sum_before_they_are_unpacked(
    tmp_path: Path,
) -> None:
    """20,000 times 64 KiB, and 64 KiB in the file: memory for all is not asked for."""

    def write(log: pa.Table, path: Path) -> None:
        codes = pa.array(np.zeros(20_000, np.int32))
        texts = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * (1 << 16)]))
        log = log.take(np.arange(20_000) % len(log))
        pq.write_table(column(log, "category", texts), path, store_schema=False)

    folder = parquet_of(make_folder(tmp_path), write)
    pa.set_memory_pool(COUNTED)
    try:
        [fault] = checked(folder).faults
    finally:
        pa.set_memory_pool(PLAIN)
    assert fault.rule == "form.columns"
    assert "bytes unpacked" in str(fault.found)
    assert 0 < COUNTED.max_memory() < 32 << 20


def test_row_groups_with_statistics_of_others_change_nothing(tmp_path: Path) -> None:
    """Statistics are never read: a log in groups of seven rows, without any, passes."""

    def write(log: pa.Table, path: Path) -> None:
        pq.write_table(log, path, row_group_size=7, write_statistics=False, compression="gzip")

    assert checked(parquet_of(make_folder(tmp_path), write)).faults == ()
