"""Deduplication by equal keys without a driver-side shuffle: key files, groups, verdicts.

A Dedup writes the keys of each shard into one file with P parts; one task per part groups equal
keys from all shards and writes which units are dropped, indexed by shard. No task holds more than
one shard's or one part's keys, and the result does not depend on the number of parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

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
from pipelines.global_steps.merged_files import Merger
from pipelines.operators import Keys
from pipelines.records import File, Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_parts, write_by
from pipelines.verdict import Verdict

VERDICT_SCHEMA = pa.schema([("row", pa.int64()), ("unit", pa.int64())])
FLUSH_KEYS = 1 << 20  # keys in memory; fewer would write each part in many small pieces


class KeyWriter:
    """Writes the keys of one shard by part; buffers at most about `FLUSH_KEYS` of them."""

    def __init__(self, store: Store, name: str, num_partitions: int) -> None:
        self.num_partitions = num_partitions
        self.rank = "uint8"  # the numpy type of the ranks
        self._store, self._name = store, name
        self._writer: PartsWriter | None = None
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._num_held = 0

    def add(self, keys: Keys, rows: npt.NDArray[np.int64]) -> None:
        """Add the keys of one batch with its row ids, (rows,). ValueError for another shape."""
        if keys.key.ndim != 2 or keys.key.shape[1] != 2 or keys.key.dtype != np.uint64:
            raise ValueError(
                f"keys must be (units, 2) uint64, got {keys.key.dtype}{keys.key.shape}"
            )
        route = keys.key[:, 0] if keys.route is None else keys.route
        columns: tuple[npt.NDArray[Any], ...]
        columns = (keys.key[:, 0], keys.key[:, 1], keys.rank, rows[keys.position], keys.unit)
        if keys.payload is not None:
            columns += (keys.payload,)
        columns += (route,)
        if self._writer is None:
            self._open(keys.rank.dtype, payload=keys.payload is not None)
        self._held.append(columns)
        self._num_held += len(route)
        if self._num_held >= FLUSH_KEYS:
            self._flush()

    def _open(self, rank: np.dtype[Any], *, payload: bool = False) -> None:
        self.rank = rank.str if rank.kind == "S" else rank.name
        self._writer = PartsWriter(self._store, self._name, key_schema(rank, payload=payload))

    def _flush(self) -> None:
        assert self._writer is not None
        *columns, route = (
            np.concatenate([columns[i] for columns in self._held])
            for i in range(len(self._held[0]))
        )
        where, begins = kernels.grouping.split(route, self.num_partitions)
        for part, (begin, end) in enumerate(pairwise(begins.tolist())):
            here = where[begin:end]
            taken = [column[here] for column in columns]
            self._writer.add(part, [_bytes(c) if c.ndim == 2 else c for c in taken])
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
        """Remove what was written."""
        if self._writer is not None:
            self._writer.__exit__(RuntimeError, RuntimeError("abandoned"), None)


def key_schema(rank: np.dtype[Any], *, payload: bool = False) -> pa.Schema:
    """The columns of key files. A rank is a number, or bytes that sort as the ranks do."""
    type_ = pa.binary(rank.itemsize) if rank.kind == "S" else pa.from_numpy_dtype(rank)
    fields = [
        ("high", pa.uint64()),
        ("low", pa.uint64()),
        ("rank", type_),
        ("row", pa.int64()),
        ("unit", pa.int32()),
    ]
    return pa.schema([*fields, ("payload", pa.large_binary())] if payload else fields)


def _bytes(rows: npt.NDArray[np.uint8]) -> pa.Array:
    """Rows of bytes as binary values."""
    offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)


class GroupTask(Frozen):
    """Group the keys of one part over all shards. `rank` is the type of the ranks."""

    uri: str
    step: int
    key: str
    part: int
    rank: str
    files: tuple[str, ...]

    @classmethod
    def of_parts(
        cls,
        store: Store,
        kind: str,
        *,
        step: int,
        state: str,
        num_partitions: int,
        rank: str,
        files: Sequence[str],
        **own: Any,
    ) -> list[Self]:
        """A task for each part; `kind` names their commits, `own` are a subclass's fields."""
        name = digest([state, num_partitions])[:16]
        return [
            cls(
                uri=store.uri,
                step=step,
                key=f"{kind}{step}-{part:04d}-{name}",
                part=part,
                rank=rank,
                files=tuple(files),
                **own,
            )
            for part in range(num_partitions)
        ]


@dataclass(frozen=True)
class GroupedKeys:
    """Keys of one part with equal ones adjacent; the unit that is kept is first in each group."""

    row: npt.NDArray[np.int64]
    unit: npt.NDArray[np.int32]
    rank: npt.NDArray[Any]
    same: npt.NDArray[np.bool_]  # whether the key equals the previous one

    @property
    def begins(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self.same)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.diff(np.append(self.begins, len(self.same)))

    @property
    def leader(self) -> npt.NDArray[np.int64]:
        """For each key, the position of the first of its group."""
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
    """Write which units of this part are dropped: all of each group of equal keys but the first."""
    key_groups = read_groups(store, task)
    lead = key_groups.leader[key_groups.same]
    duplicates = Duplicates(
        key_groups.row[key_groups.same],
        key_groups.unit[key_groups.same],
        key_groups.row[lead],
        key_groups.unit[lead],
    )
    files = write_verdict(store, duplicates, step=task.step, part=task.part)
    begins, sizes = key_groups.begins, key_groups.sizes
    groups = groups_of_sizes(
        sizes, key_groups.row[begins], key_groups.unit[begins], compared=len(key_groups.row)
    )
    return Done(key=task.key, files=files, stats=groups.model_dump())


def write_verdict(
    store: Store, duplicates: Duplicates, *, step: int, part: int
) -> tuple[File, File]:
    """The two files of a part's commit: dropped units, one part per shard; and pairs of duplicates.

    `verdict_of` reads the first, the report of duplicates the second.
    """
    order = np.lexsort((duplicates.unit, duplicates.row))
    rows, units = duplicates.row[order], duplicates.unit[order].astype(np.int64)
    name = attempt_name(f"work/verdict-{part:04d}", ".parts")
    dropped = write_by(store, name, VERDICT_SCHEMA, rows >> ROW_BITS, [rows, units])
    return dropped, write_duplicates(store, f"{DUPLICATES}/{step:03d}-{part:04d}", duplicates)


def read_verdict(
    store: Store, verdict: Verdict, shard: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and units of one shard that are dropped, sorted by row, then unit."""
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
    shards: int,
    map_tasks: MapTasks,
) -> tuple[Verdict, Groups]:
    """Group all keys, one task per part; returns the verdict and counts of the groups.

    `shards` will read the verdict.
    """
    merge = Merger(store, step, state, map_tasks)
    tasks = GroupTask.of_parts(
        store,
        "group",
        step=step,
        state=state,
        num_partitions=num_partitions,
        rank=rank,
        files=merge("keys", files, readers=num_partitions),
    )
    done = map_tasks(run_group, tasks)
    return verdict_of(done, merge, shards=shards), merge_groups([result.stats for result in done])


def verdict_of(done: Sequence[Done], merge: Merger, *, shards: int) -> Verdict:
    """The verdict in the first files of these commits, which `shards` tasks will read."""
    names = merge("verdict", [result.files[0].name for result in done], readers=shards)
    hash_ = digest([result.files[0].sha256 for result in done])
    return Verdict(hash=hash_, dropped=tuple(names))
