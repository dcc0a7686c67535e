"""Global steps without a gathering place: keys to partition files, groups to verdicts, exact cuts.

A Dedup writes the keys of each shard into one file with P parts; one task per part groups equal
keys from all shards and writes which units go, indexed by shard. A Select counts scores by their
leading bits, shard by shard, until the exact cut is known. Nothing here holds more than one
shard's or one part's keys, and the number of parts does not change what comes out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.global_steps.duplicate_record import (
    DUPLICATES,
    Duplicates,
    Groups,
    groups_of_sizes,
    merge_groups,
    write_duplicates,
)
from pipelines.operators import Keys, Select
from pipelines.records import File, Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.storage.base import Done, Store, attempt_name, open_store
from pipelines.storage.part_files import PartsWriter, read_parts, write_by

VERDICT_SCHEMA = pa.schema([("row", pa.int64()), ("unit", pa.int64())])
FLUSH_KEYS = 1 << 20
RADIX_BITS = 16
MAX_COUNTS = 512  # tasks of one level: each sends half a megabyte to the driver
NO_CUT = -1  # a threshold below every score: all stay


class Verdict(Frozen):
    """What a global step decided. `hash` changes whenever the decision does."""

    hash: str
    dropped: tuple[str, ...] = ()  # one file per part (Dedup)
    threshold: int | None = None  # order-preserving bits of the score at the cut (Select)
    keep_ties: bool = False
    budgets: tuple[int, ...] = ()  # per shard: weight of tied rows that may stay
    examples: tuple[tuple[int, int], ...] = ()  # row and unit whose text the report shows

    def cut(self, shard: int) -> Cut:
        assert self.threshold is not None, "this verdict is not a cut"
        budget = None if self.keep_ties else self.budgets[shard] if self.budgets else 0
        return Cut(self.threshold, budget)


# ---- Dedup


class KeyWriter:
    """Writes the keys of one shard, part by part; at most `FLUSH_KEYS` are held at a time."""

    def __init__(self, store: Store, name: str, num_partitions: int) -> None:
        self.num_partitions = num_partitions
        self.rank = "uint8"  # the numpy type of the ranks
        self._store, self._name = store, name
        self._writer: PartsWriter | None = None
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._num_held = 0

    def add(self, keys: Keys, rows: npt.NDArray[np.int64]) -> None:
        """Take the keys of one batch, whose rows have these identities."""
        if keys.key.ndim != 2 or keys.key.shape[1] != 2 or keys.key.dtype != np.uint64:
            raise ValueError(
                f"keys must be (units, 2) uint64, got {keys.key.dtype}{keys.key.shape}"
            )
        route = keys.key[:, 0] if keys.route is None else keys.route
        columns = (keys.key[:, 0], keys.key[:, 1], keys.rank, rows[keys.position], keys.unit, route)
        if self._writer is None:
            self._open(keys.rank.dtype)
        self._held.append(columns)
        self._num_held += len(route)
        if self._num_held >= FLUSH_KEYS:
            self._flush()

    def _open(self, rank: np.dtype[Any]) -> None:
        self.rank = rank.str if rank.kind == "S" else rank.name
        self._writer = PartsWriter(self._store, self._name, key_schema(rank))

    def _flush(self) -> None:
        assert self._writer is not None
        *columns, route = (
            np.concatenate([held[i] for held in self._held]) for i in range(len(self._held[0]))
        )
        where, begins = kernels.grouping.split(route, self.num_partitions)
        for part, (begin, end) in enumerate(pairwise(begins.tolist())):
            here = where[begin:end]
            self._writer.add(part, [column[here] for column in columns])
        self._held, self._num_held = [], 0

    def close(self) -> File:
        """Finish the file."""
        if self._writer is None:
            self._open(np.dtype(np.uint8))
        assert self._writer is not None
        with self._writer:
            if self._held:
                self._flush()
        return self._writer.file()

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.__exit__(RuntimeError, RuntimeError("abandoned"), None)


def key_schema(rank: np.dtype[Any]) -> pa.Schema:
    """The columns of key files. A rank is a number, or bytes that sort as the ranks do."""
    type_ = pa.binary(rank.itemsize) if rank.kind == "S" else pa.from_numpy_dtype(rank)
    return pa.schema(
        [
            ("high", pa.uint64()),
            ("low", pa.uint64()),
            ("rank", type_),
            ("row", pa.int64()),
            ("unit", pa.int32()),
        ]
    )


class GroupTask(Frozen):
    """Group the keys of one part over all shards. `rank` is the type of the ranks."""

    uri: str
    step: int
    key: str
    part: int
    rank: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class GroupedKeys:
    """Keys of one part, equal ones side by side, the one that stays in front of each group."""

    row: npt.NDArray[np.int64]
    unit: npt.NDArray[np.int32]
    rank: npt.NDArray[Any]
    same: npt.NDArray[np.bool_]  # has the key of the one before

    @property
    def begins(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self.same)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.diff(np.append(self.begins, len(self.same)))

    @property
    def leader(self) -> npt.NDArray[np.int64]:
        """For each key, the place of the first of its group."""
        return np.maximum.accumulate(np.where(self.same, 0, np.arange(len(self.same))))


def read_groups(store: Store, task: GroupTask) -> GroupedKeys:
    """The keys of one part from all shards. In a group the lowest rank, then row, then unit leads.

    Shards write their keys in the order of rows and units, and the files are in shard order.
    """
    schema = key_schema(np.dtype(task.rank))
    high, low, rank, row, unit = read_parts(store, task.files, task.part, schema)
    order = kernels.grouping.order(high, low)
    high, low, rank = high[order], low[order], rank[order]
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    del high, low
    if rank.dtype != np.uint8:
        ranked = np.lexsort((rank, np.cumsum(~same)))
        order, rank = order[ranked], rank[ranked]
    return GroupedKeys(row[order], unit[order], rank, same)


@once
def run_group(task: GroupTask, store: Store) -> Done:
    """Write which units of this part go: all of each group of equal keys but the first."""
    found = read_groups(store, task)
    lead = found.leader[found.same]
    gone = Duplicates(
        found.row[found.same], found.unit[found.same], found.row[lead], found.unit[lead]
    )
    files = (
        write_dropped(store, attempt_name(f"work/verdict-{task.part:04d}", ".parts"), gone),
        write_duplicates(store, f"{DUPLICATES}/{task.step:03d}-{task.part:04d}", gone),
    )
    begins, sizes = found.begins, found.sizes
    groups = groups_of_sizes(sizes, found.row[begins], found.unit[begins], compared=len(found.row))
    return Done(key=task.key, files=files, stats=groups.model_dump())


def write_dropped(store: Store, name: str, gone: Duplicates) -> File:
    """A file of the units that go, one part per shard."""
    order = np.lexsort((gone.unit, gone.row))
    rows, units = gone.row[order], gone.unit[order].astype(np.int64)
    return write_by(store, name, VERDICT_SCHEMA, rows >> ROW_BITS, [rows, units])


def read_verdict(
    store: Store, verdict: Verdict, shard: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and units of one shard that go, sorted by row."""
    rows, units = read_parts(store, verdict.dropped, shard, VERDICT_SCHEMA)
    order = np.lexsort((units, rows))
    return rows[order], units[order]


def find_duplicates(
    store: Store,
    *,
    step: int,
    state: str,
    files: Sequence[str],
    rank: str,
    num_partitions: int,
    map_tasks: MapTasks,
) -> tuple[Verdict, Groups]:
    """Group all keys, one task per part; returns what goes, and the groups that were found."""
    tasks = [
        GroupTask(
            uri=store.uri,
            step=step,
            key=f"group{step}-{part:04d}-{digest([state, num_partitions])[:16]}",
            part=part,
            rank=rank,
            files=tuple(files),
        )
        for part in range(num_partitions)
    ]
    done = map_tasks(run_group, tasks)
    return verdict_of(done), merge_groups([one.stats for one in done])


def verdict_of(done: Sequence[Done]) -> Verdict:
    """The verdict that stands in the first file of each of these commits."""
    names = tuple(one.files[0].name for one in done)
    return Verdict(hash=digest([one.files[0].sha256 for one in done]), dropped=names)


# ---- Select


def ordered_bits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Unsigned integers that sort as the floats do (-0.0 counts as 0.0)."""
    bits = (scores + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


def score_of(bits: int) -> float:
    """The score whose ordered bits these are."""
    number = np.uint64(bits)
    top = np.uint64(1 << 63)
    value = number ^ top if number & top else ~number
    return float(np.array([value], np.uint64).view(np.float64)[0])


@dataclass
class Cut:
    """The cut of a Select inside one shard, applied batch after batch in order."""

    threshold: int
    budget: int | None  # weight of tied rows that may still stay; None: all of them
    _spent: int = 0

    def keep(
        self, scores: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        missing = np.isnan(scores)
        if self.threshold == NO_CUT:
            return ~missing
        bits = ordered_bits(np.where(missing, 0.0, scores))
        threshold = np.uint64(self.threshold)
        stays = bits > threshold
        tied = (bits == threshold) & ~missing
        if self.budget is None:
            stays |= tied
        else:
            spent = self._spent + np.cumsum(np.where(tied, weights, 0))
            stays |= tied & (spent <= self.budget)
            self._spent = int(spent[-1]) if len(spent) else self._spent
        return stays & ~missing


class CountTask(Frozen):
    """Weights of some shards' scores by the next bits, among those that begin with `prefix`."""

    uri: str
    scores: tuple[str, ...]
    weights: tuple[str | None, ...]
    level: int
    prefix: int


def run_count(task: CountTask) -> npt.NDArray[np.int64]:
    """Counts over the shards, shape (65536,); at level 4 for each shard the weight at `prefix`."""
    store = open_store(task.uri)
    found = [
        _count_shard(store, task, scores, weights)
        for scores, weights in zip(task.scores, task.weights, strict=True)
    ]
    if task.level == 64 // RADIX_BITS:
        return np.concatenate(found)
    return np.sum(found, axis=0, dtype=np.int64)


def _count_shard(
    store: Store, task: CountTask, scores_name: str, weights_name: str | None
) -> npt.NDArray[np.int64]:
    scores = _load(store, scores_name)
    weights = None if weights_name is None else _load(store, weights_name)
    there = ~np.isnan(scores)
    bits = ordered_bits(scores[there])
    if weights is not None:
        weights = weights[there]
    known = RADIX_BITS * task.level
    if known:
        match = (bits >> np.uint64(64 - known)) == np.uint64(task.prefix)
        bits = bits[match]
        weights = None if weights is None else weights[match]
    if task.level == 64 // RADIX_BITS:
        total = len(bits) if weights is None else int(weights.sum())
        return np.array([total], dtype=np.int64)
    digits = (bits >> np.uint64(64 - known - RADIX_BITS)) & np.uint64((1 << RADIX_BITS) - 1)
    length = 1 << RADIX_BITS
    if weights is None:
        return np.bincount(digits.astype(np.int64), minlength=length)
    counts = np.zeros(length, dtype=np.int64)
    np.add.at(counts, digits.astype(np.int64), weights)
    return counts


def find_cut(
    operator: Select,
    *,
    uri: str,
    scores: Sequence[str],
    weights: Sequence[str | None],
    amount: int,
    map_tasks: MapTasks,
) -> Verdict:
    """The exact cut over all shards. `amount` is the whole pool in units of `of`, NaN rows too."""
    target = operator.total
    if target is None:
        assert operator.fraction is not None
        target = int(amount * operator.fraction)
    if operator.ties == "reference" and target >= amount:
        raise ValueError(
            f"ties: reference has no row at index {target} of {amount}: use a smaller fraction"
        )
    reach = operator.ties == "keep"  # stop where the target is reached, not where it is passed
    above, prefix = 0, 0
    for level in range(64 // RADIX_BITS):
        counts = _count(uri, scores, weights, level, prefix, map_tasks)
        if level == 0 and amount and weights[0] is None and not counts.any():
            raise ValueError(
                f"none of the {amount:,} rows has a score; is the column filled in this pool?"
            )
        sums = above + np.cumsum(counts[::-1])
        over = np.flatnonzero(sums >= target if reach else sums > target)
        if not len(over):
            assert level == 0, "a level must hold what the level above counted"
            if operator.ties == "reference":  # the n-th score is NaN: nothing compares to it
                return _verdict(threshold=(1 << 64) - 1, keep_ties=False, budgets=())
            return _verdict(threshold=NO_CUT, keep_ties=True, budgets=())
        digit = len(counts) - 1 - int(over[0])
        above = int(sums[over[0]] - counts[digit])
        prefix = prefix << RADIX_BITS | digit
    if operator.ties in ("keep", "reference"):
        return _verdict(threshold=prefix, keep_ties=True, budgets=())
    left = target - above
    budgets = []
    tasks = _tasks(uri, scores, weights, 64 // RADIX_BITS, prefix)
    for tied in np.concatenate(map_tasks(run_count, tasks)).tolist():
        budgets.append(max(left, 0))
        left -= tied
    return _verdict(threshold=prefix, keep_ties=False, budgets=tuple(budgets))


def _verdict(*, threshold: int, keep_ties: bool, budgets: tuple[int, ...]) -> Verdict:
    hash_ = digest([str(threshold), keep_ties, list(budgets)])
    return Verdict(hash=hash_, threshold=threshold, keep_ties=keep_ties, budgets=budgets)


def _tasks(
    uri: str, scores: Sequence[str], weights: Sequence[str | None], level: int, prefix: int
) -> list[CountTask]:
    size = -(-len(scores) // MAX_COUNTS)
    return [
        CountTask(
            uri=uri,
            scores=tuple(scores[first : first + size]),
            weights=tuple(weights[first : first + size]),
            level=level,
            prefix=prefix,
        )
        for first in range(0, len(scores), size)
    ]


def _count(
    uri: str,
    scores: Sequence[str],
    weights: Sequence[str | None],
    level: int,
    prefix: int,
    map_tasks: MapTasks,
) -> npt.NDArray[np.int64]:
    counts: Iterable[npt.NDArray[np.int64]] = map_tasks(
        run_count, _tasks(uri, scores, weights, level, prefix)
    )
    return np.sum(list(counts), axis=0, dtype=np.int64)


def _load(store: Store, name: str) -> npt.NDArray[Any]:
    with store.open(name) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)
