"""Counts of pool, dataset, files and packed data agree, and every rejected row has a reason.

This exposes a dataset of hand-picked rows under the name of a pipeline: the reasons of a real run
name its steps, and rows in minus rejected rows are the rows of the dataset.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leaderboard.submissions.bundle import RECORD
from leaderboard.submissions.case import Case
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.records import DatasetRecord, PoolRecord

REPEATED_ROWS = 100  # rows in files of equal bytes; tiny shards may legitimately be equal
SOFT_CAP = "soft_cap"  # keeps a row up to `most` times
SPLITTERS = frozenset(("split_lines", "repository_parts"))
"""Built-in operators that make several rows of one; participants' own operators may, too."""
UNITS = ("documents", "pairs", "images")  # names of a pool's rows, by benchmark
AT_READING = "rejected/0/read/"
"""Rows that the reader rejected, such as documents without text, before any step."""
SPREADS = 6  # standard deviations of the binomial count of clean images: exceeded once in 10^9
ROUNDED = 1.02  # a mixture estimates its rows from the sizes of its parts, within 2%


def counts(case: Case) -> Iterator[Fault]:
    """Faults where a count contradicts another count that determines or bounds it."""
    yield from _kinds(case)
    yield from _rows(case)
    yield from _files(case.dataset, given=case.track.pool == "given")
    yield from _packed(case)


def in_pool(pool: PoolRecord) -> int | None:
    """The number of rows in the pool's record; None when it has no count."""
    return next((pool.counts[unit] for unit in UNITS if unit in pool.counts), None)


def is_mixture(dataset: DatasetRecord) -> bool:
    """Whether a dataset is a mixture of others: its record lists shares instead of steps."""
    pipeline = dataset.work.pipeline
    return isinstance(pipeline.get("mix"), dict) and "steps" not in pipeline


def _kinds(case: Case) -> Iterator[Fault]:
    """Counts by kind add up to the total, and no kind exceeds the pool's."""
    for record in (case.pool, case.packed):
        for unit in ("documents", "samples", "pairs", "images"):
            kinds = {
                name: number
                for name, number in record.counts.items()
                if name.startswith(f"{unit}/")
            }
            if kinds and sum(kinds.values()) != record.counts.get(unit, 0):
                where = f"{record.kind} {record.id}: counts.{unit}"
                expected = Words(f"{sum(kinds.values()):,}, the sum over its kinds")
                yield fault(RECORD, where, record.counts.get(unit), expected)
    yield from _corruptions(case)


def _corruptions(case: Case) -> Iterator[Fault]:
    """Clean and corrupted images add up, in the pool and in the packed data."""
    pool, packed = case.pool.counts, case.packed.counts
    where = f"pool {case.pool.id}: counts.clean"
    if "clean" not in pool or "images" not in pool:
        if case.book.modality == "image" and case.track.pool == "given":
            expected = Words("how many of its images are clean, and how many there are")
            yield fault(RECORD, where, Words("nothing"), expected)
        return
    if pool["clean"] + pool.get("corrupted", 0) != pool["images"]:
        problem = Words(f"{pool['clean']:,} clean, {pool.get('corrupted', 0):,} corrupted")
        yield fault(RECORD, where, problem, Words(f"{pool['images']:,} together"))
    share = case.pool.work.parameters.get("clean_share")
    if isinstance(share, int | float) and 0 <= share <= 1:
        usual, spread = pool["images"] * share, math.sqrt(pool["images"] * share * (1 - share))
        if abs(pool["clean"] - usual) > SPREADS * spread + 1:
            expected = Words(f"about {usual:,.0f}, as its clean_share of {share:g} says")
            yield fault(RECORD, where, pool["clean"], expected)
    where = f"packed {case.packed.id}: counts"
    if packed.get("images") and not any(name.startswith("images/") for name in packed):
        hint = "pack again: the packed record says how many images have which corruption"
        yield fault(RECORD, where, Words("images of no kind"), Words("each kind counted"), hint)
    clean = packed.get("images/none", 0)
    limits = {"clean": clean, "corrupted": packed.get("images", 0) - clean}
    for name, number in limits.items():
        if number > pool.get(name, 0) and not case.dataset.work.external:
            expected = Words(f"at most the {pool.get(name, 0):,} of the pool")
            yield fault(RECORD, where, Words(f"{number:,} {name} images"), expected)


def _rows(case: Case) -> Iterator[Fault]:
    """Rows in are at most the pool's; each rejected row was rejected by a step of the pipeline."""
    made = case.dataset
    if made.work.external or is_mixture(made):
        return
    name, steps = f"dataset {made.id}: counts", made.work.pipeline["steps"]
    rows_in, rows_out = made.counts["rows_in"], made.counts["rows_out"]
    available = in_pool(case.pool)
    if available is not None and rows_in > available:
        expected = Words(f"at most the {available:,} of the pool")
        yield fault(RECORD, f"{name}.rows_in", rows_in, expected)
    operators = [step["operator"] for step in steps]
    rejected = 0
    for reason, number in made.counts.items():
        if reason.startswith("rejected/"):
            rejected += number
            if not reason.startswith(AT_READING) and not _names_a_step(reason, operators):
                expected = Words(f"a reason of one of the {len(steps)} steps of the pipeline")
                yield fault(RECORD, name, reason, expected)
    left = rows_in - rejected - made.counts.get("errors", 0)
    most = left * _times_kept(steps)
    if left != rows_out and not left < rows_out <= most:
        expected = Words(f"{left:,}: what came in less what was rejected")
        yield fault(RECORD, f"{name}.rows_out", Words(f"{rows_out:,}"), expected)


def _times_kept(steps: Sequence[Mapping[str, Any]]) -> float:
    """The most rows that one row can become: splitters and participants' steps have no bound."""
    most = 1.0
    for step in steps:
        operator = step["operator"]
        if operator in SPLITTERS or ":" in operator:
            return math.inf
        if operator == SOFT_CAP:
            times = step.get("parameters", {}).get("most")
            most *= times if isinstance(times, int) and times > 0 else 1
    return most


def _names_a_step(reason: str, operators: list[str]) -> bool:
    """Whether `rejected/STEP/OPERATOR/REASON` names a step of the pipeline, counted from 1."""
    _, number, *operator, _ = reason.split("/")
    if not number.isdecimal() or not 1 <= int(number) <= len(operators):
        return False
    return operators[int(number) - 1] == "/".join(operator)


def _files(made: DatasetRecord, *, given: bool) -> Iterator[Fault]:
    """The rows of the files add up to the dataset's, and no file is listed twice."""
    hashes = Counter(file.sha256 for file in made.outputs)
    again = [file for file in made.outputs if hashes[file.sha256] > 1 and file.num_rows != 0]
    if given and sum(file.num_rows or 0 for file in again) >= REPEATED_ROWS:
        problem = Words(f"{len(again)} files of equal bytes, as {again[0].name}")
        yield fault(RECORD, f"dataset {made.id}: outputs", problem, Words("each shard once"))
    stored = [file.num_rows for file in made.outputs]
    in_files = sum(number for number in stored if number is not None)
    rows_out = made.counts.get("rows_out", 0)
    if stored and None not in stored and in_files != rows_out:
        expected = Words(f"{in_files:,}, as in its files")
        yield fault(RECORD, f"dataset {made.id}: counts.rows_out", rows_out, expected)


def _packed(case: Case) -> Iterator[Fault]:
    """Packed rows are at most, and except for pairs about all of, the dataset's rows."""
    made, packed = case.dataset, case.packed
    rows_out = made.counts.get("rows_out", 0)
    most = rows_out * ROUNDED if is_mixture(made) else rows_out
    for unit in ("documents", "samples", "images"):
        number = packed.counts.get(unit, 0)
        if number > most:
            expected = Words(f"at most the {rows_out:,} rows of the dataset")
            yield fault(RECORD, f"packed {packed.id}: counts.{unit}", number, expected)
    unit = UNITS[("text", "image_text", "image").index(case.book.modality)]
    unit = "samples" if unit == "pairs" else unit
    there = packed.counts.get(unit)
    if there == 0 or packed.counts.get(case.book.size_count) == 0:
        where = f"packed {packed.id}: counts"
        yield fault(RECORD, where, Words(f"no {unit} or nothing in them"), Words("what was packed"))
    # Images of pairs may be missing where URLs are dead: the reviewer sees how many.
    elif not is_mixture(made) and unit != "samples" and (there or 0) < (1 - LOST) * rows_out:
        expected = Words(f"the {rows_out:,} rows of the dataset: packing takes all of them")
        yield fault(RECORD, f"packed {packed.id}: counts.{unit}", there, expected)


LOST = 0.01
"""Fraction of rows that a run may lose to errors, at reading and in excluded shards, and still be
called the baseline."""


def lost(pool: PoolRecord, made: DatasetRecord) -> tuple[float, Mapping[str, int]]:
    """The fraction of the pool missing although no step rejected it, and its rows by cause."""
    available, rows_in = in_pool(pool), made.counts.get("rows_in", 0)
    unread = sum(number for name, number in made.counts.items() if name.startswith(AT_READING))
    parts = {"errors": made.counts.get("errors", 0), "refused at reading": unread}
    if available is not None:
        parts["never read"] = max(0, available - rows_in)
    whole = max(available or 0, rows_in, 1)
    return sum(parts.values()) / whole, parts
