"""Global steps without a gathering place: keys to partition files, groups to verdicts, exact cuts.

A Dedup writes the keys of each shard into one file with P parts; one task per part groups equal
keys from all shards and writes which units go, indexed by shard. A Select counts scores by their
leading bits, shard by shard, until the exact cut is known. Nothing here holds more than one
shard's or one part's keys, and the number of parts does not change what comes out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from pipelines.executors import MapTasks
from pipelines.operators import Keys, Select
from pipelines.records import Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.storage import Done, Store, attempt_name, commit, find_done, open_store

KEY_SCHEMA = pa.schema(
    [
        ("high", pa.uint64()),
        ("low", pa.uint64()),
        ("rank", pa.float64()),
        ("row", pa.int64()),
        ("unit", pa.int64()),
    ]
)
VERDICT_SCHEMA = pa.schema([("row", pa.int64()), ("unit", pa.int64())])
RADIX_BITS = 16
NO_CUT = -1  # a threshold below every score: all stay


class Verdict(Frozen):
    """What a global step decided. `hash` changes whenever the decision does."""

    hash: str
    dropped: tuple[str, ...] = ()  # one file per part (Dedup)
    threshold: int | None = None  # order-preserving bits of the score at the cut (Select)
    keep_ties: bool = False
    budgets: tuple[int, ...] = ()  # per shard: weight of tied rows that may stay

    def cut(self, shard: int) -> Cut:
        assert self.threshold is not None, "this verdict is not a cut"
        budget = None if self.keep_ties else self.budgets[shard] if self.budgets else 0
        return Cut(self.threshold, budget)


# ---- Dedup


class KeyWriter:
    """Collects the keys of one shard and writes them as P parts of one file."""

    def __init__(self, num_partitions: int) -> None:
        self.num_partitions = num_partitions
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, keys: Keys, rows: npt.NDArray[np.int64]) -> None:
        if keys.key.ndim != 2 or keys.key.shape[1] != 2 or keys.key.dtype != np.uint64:
            raise ValueError(
                f"keys must be (units, 2) uint64, got {keys.key.dtype}{keys.key.shape}"
            )
        self._parts.append(
            (keys.key[:, 0], keys.key[:, 1], keys.rank, rows[keys.position], keys.unit)
        )

    def write(self, store: Store, name: str) -> Any:
        columns = [
            np.concatenate([part[i] for part in self._parts])
            if self._parts
            else np.zeros(0, dtype=KEY_SCHEMA.field(i).type.to_pandas_dtype())
            for i in range(5)
        ]
        part_of = (columns[0] % np.uint64(self.num_partitions)).astype(np.int64)
        parts = {}
        for part in range(self.num_partitions):
            here = np.flatnonzero(part_of == part)
            parts[part] = pa.record_batch(
                [pa.array(column[here]) for column in columns], schema=KEY_SCHEMA
            )
        return write_indexed(store, name, parts, schema=KEY_SCHEMA)


class GroupTask(Frozen):
    """Group the keys of one part over all shards."""

    uri: str
    key: str
    part: int
    files: tuple[str, ...]


def run_group(task: GroupTask) -> Done:
    """Write which units of this part go: all of each group of equal keys but the first.

    First is the lowest rank, then the lowest row, then the lowest unit.
    """
    store = open_store(task.uri)
    standing = find_done(store, task.key)
    if standing is not None:
        return standing
    _, row, unit, same = grouped_keys(store, task.files, task.part)
    dropped_rows, dropped_units = row[same], unit[same]
    name = attempt_name(f"work/verdict-{task.part:04d}", ".arrow")
    file = write_dropped(store, name, dropped_rows, dropped_units)
    sizes = np.diff(np.append(np.flatnonzero(~same), len(same))) if len(same) else np.zeros(0, int)
    counts = {
        "units": len(row),
        "groups_of_duplicates": int((sizes > 1).sum()),
        "largest_group": int(sizes.max(initial=0)),
        "dropped_units": len(dropped_rows),
    }
    return commit(store, Done(key=task.key, files=(file,), counts=counts))


def grouped_keys(
    store: Store, files: Sequence[str], part: int
) -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.bool_],
]:
    """Rank, row and unit of one part's keys from all shards, those of equal keys side by side.

    Inside a group the lowest rank, then row, then unit stands first. The last array says which
    have the key of the one before.
    """
    batches = [batch for name in files if (batch := read_indexed(store, name, part)) is not None]
    table = pa.Table.from_batches(batches, schema=KEY_SCHEMA)
    high, low, rank, row, unit = (table.column(name).to_numpy() for name in KEY_SCHEMA.names)
    order = np.lexsort((unit, row, rank, low, high))
    high, low = high[order], low[order]
    same = np.zeros(len(order), dtype=bool)
    same[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    return rank[order], row[order], unit[order], same


def write_dropped(
    store: Store, name: str, rows: npt.NDArray[np.int64], units: npt.NDArray[np.int64]
) -> Any:
    """A file of the units that go, one part per shard."""
    order = np.lexsort((units, rows))
    rows, units = rows[order], units[order]
    shards = rows >> ROW_BITS
    borders = [*np.flatnonzero(np.diff(shards, prepend=-1)).tolist(), len(shards)]
    parts = {
        int(shards[start]): pa.record_batch(
            [pa.array(rows[start:stop]), pa.array(units[start:stop])],
            schema=VERDICT_SCHEMA,
        )
        for start, stop in pairwise(borders)
    }
    return write_indexed(store, name, parts, schema=VERDICT_SCHEMA)


def read_verdict(
    store: Store, verdict: Verdict, shard: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and units of one shard that go, sorted by row."""
    batches = [
        batch for name in verdict.dropped if (batch := read_indexed(store, name, shard)) is not None
    ]
    table = pa.Table.from_batches(batches, schema=VERDICT_SCHEMA)
    rows, units = table.column("row").to_numpy(), table.column("unit").to_numpy()
    order = np.lexsort((units, rows))
    return rows[order], units[order]


def find_duplicates(
    store: Store,
    *,
    state: str,
    files: Sequence[str],
    num_partitions: int,
    map_tasks: MapTasks,
) -> Verdict:
    """Group all keys, one task per part."""
    tasks = [
        GroupTask(
            uri=store.uri,
            key=f"group-{part:04d}-{digest([state, num_partitions])[:16]}",
            part=part,
            files=tuple(files),
        )
        for part in range(num_partitions)
    ]
    done = map_tasks(run_group, tasks)
    names = tuple(one.files[0].name for one in done)
    return Verdict(hash=digest([one.files[0].sha256 for one in done]), dropped=names)


# ---- files of several parts


def write_indexed(
    store: Store, name: str, parts: Mapping[int, pa.RecordBatch], *, schema: pa.Schema
) -> Any:
    """An Arrow file of one batch per part; its metadata says which part each batch is."""
    index = orjson.dumps(sorted(parts)).decode()
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, schema.with_metadata({"parts": index})) as writer:
        for part in sorted(parts):
            writer.write_batch(parts[part])
    with store.create(name) as out:
        out.write(buffer.getbuffer())
    return out.file(num_rows=sum(batch.num_rows for batch in parts.values()))


def read_indexed(store: Store, name: str, part: int) -> pa.RecordBatch | None:
    """One part of a file that `write_indexed` made; only its bytes are read."""
    with store.open(name) as file:
        reader = pa.ipc.open_file(file)
        parts = orjson.loads(reader.schema.metadata[b"parts"])
        if part not in parts:
            return None
        batch = reader.get_batch(parts.index(part))
        return batch.replace_schema_metadata(None)


# ---- Select


def ordered_bits(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Unsigned integers that sort as the floats do (-0.0 counts as 0.0)."""
    bits = (scores + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))


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
    """Weights of one shard's scores by the next bits, among those that begin with `prefix`."""

    uri: str
    scores: str
    weights: str | None
    level: int
    prefix: int


def run_count(task: CountTask) -> npt.NDArray[np.int64]:
    """Counts of shape (65536,); at level 4 the weight of scores equal to `prefix`, shape (1,)."""
    store = open_store(task.uri)
    scores = _load(store, task.scores)
    weights = None if task.weights is None else _load(store, task.weights)
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
    for tied in map_tasks(run_count, tasks):
        budgets.append(max(left, 0))
        left -= int(tied[0])
    return _verdict(threshold=prefix, keep_ties=False, budgets=tuple(budgets))


def _verdict(*, threshold: int, keep_ties: bool, budgets: tuple[int, ...]) -> Verdict:
    hash_ = digest([str(threshold), keep_ties, list(budgets)])
    return Verdict(hash=hash_, threshold=threshold, keep_ties=keep_ties, budgets=budgets)


def _tasks(
    uri: str, scores: Sequence[str], weights: Sequence[str | None], level: int, prefix: int
) -> list[CountTask]:
    return [
        CountTask(uri=uri, scores=name, weights=weight, level=level, prefix=prefix)
        for name, weight in zip(scores, weights, strict=True)
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
