"""Links between near-duplicates checked by the similarity of their n-grams, with the evidence kept.

The pass that made the keys left a sketch of every row. A task per shard sends the sketches of rows
that rows of other shards are linked to; a task per shard compares, and writes every pair with its
similarity and the decision next to the run. A task holds the sketches (4 bytes an n-gram) of its
own linked rows and those that one file holds for it, of one other shard or of some merged ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.execution.once import once
from pipelines.formats.writers import write_table
from pipelines.global_steps.connected_components import link_schema
from pipelines.global_steps.merged_files import Merger
from pipelines.operators import Sketch
from pipelines.records import Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_part, read_parts

COMPARED = "compared"  # the folder of evidence in a run
SKETCHES = pa.schema([("row", pa.int64()), ("hashes", pa.large_binary()), ("shift", pa.uint8())])
Ints = npt.NDArray[np.int64]
Sets = tuple[npt.NDArray[np.uint32], Ints, npt.NDArray[np.uint8]]  # hashes, borders, shifts
Rows = tuple[Ints, Sets]


class Check(Frozen):
    """Which links stay: those of at least this similarity."""

    least: float
    containment: bool


class CheckTask(Frozen):
    """One shard: what it sends (`links` by the shard of the other), or what it compares."""

    uri: str
    step: int
    key: str
    shard: int
    sketches: str | None
    links: tuple[str, ...]
    sent: tuple[str, ...] = ()
    rank: str
    check: Check


def sketch_columns(rows: Ints, sketch: Sketch) -> list[Any]:
    """Rows with their sketches, as the columns of SKETCHES."""
    return [rows, _binary(sketch.hashes, sketch.borders), sketch.shifts]


def check_links(
    store: Store,
    *,
    check: Check,
    step: int,
    state: str,
    links: Sequence[str],
    others: Sequence[str],
    rank: str,
    sketches: Sequence[str | None],
    merge: Merger,
) -> list[Done]:
    """Commits whose first files hold the links that are similar enough, one per shard."""

    def tasks(kind: str, names: Sequence[str], sent: Sequence[str]) -> list[CheckTask]:
        return [
            CheckTask(
                uri=store.uri,
                step=step,
                key=f"{kind}{step}-{shard:05d}-{digest([state, len(links)])[:16]}",
                shard=shard,
                sketches=sketches[shard],
                links=tuple(names),
                sent=tuple(sent),
                rank=rank,
                check=check,
            )
            for shard in range(len(sketches))
        ]

    done = merge.map_tasks(run_send, tasks("sketches", others, ()))
    names = [result.files[0].name for result in done if result.counts["rows"]]
    sent = merge("sketches", names, readers=len(sketches))
    return merge.map_tasks(run_compare, tasks("compared", links, sent))


@once
def run_send(task: CheckTask, store: Store) -> Done:
    """Write the sketches of rows that rows of other shards are linked to, by those shards."""
    row, _, other, _ = read_parts(store, task.links, task.shard, link_schema(task.rank))
    away = row >> ROW_BITS != task.shard
    pairs = np.unique(np.stack([other[away], row[away] >> ROW_BITS], axis=1), axis=0)
    name = attempt_name(f"work/sent-{task.shard:05d}", ".parts")
    with PartsWriter(store, name, SKETCHES) as out:
        for batch in _batches(store, task.sketches) if len(pairs) else ():
            rows = batch.column(0).to_numpy()
            begin = np.searchsorted(pairs[:, 0], rows[0])
            end = np.searchsorted(pairs[:, 0], rows[-1], side="right")
            here = pairs[begin:end]
            for shard in np.unique(here[:, 1]).tolist():
                positions = np.searchsorted(rows, here[here[:, 1] == shard, 0])
                some = batch.take(pa.array(positions))
                out.add(shard, [some.column(0).to_numpy(), some.column(1), some.column(2)])
    file = out.file()
    return Done(key=task.key, files=(file,), counts={"rows": file.num_rows or 0})


@once
def run_compare(task: CheckTask, store: Store) -> Done:
    """Write the links of this shard's rows that are similar enough, and all with what was found."""
    row, rank, other, other_rank = read_parts(store, task.links, task.shard, link_schema(task.rank))
    order = np.lexsort((other, row))  # a pair of several keys is compared once
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(row[order]) != 0) | (np.diff(other[order]) != 0)
    order = order[fresh]
    row, rank, other, other_rank = row[order], rank[order], other[order], other_rank[order]
    similar = np.full(len(row), np.nan)
    if len(row):
        near = other[other >> ROW_BITS == task.shard]
        rows, own = _sets(_batches(store, task.sketches), np.unique(np.concatenate([row, near])))
        _compare(task, similar, row, other, (rows, own), (rows, own))
        for name in task.sent:
            sent = _sets(read_part(store, name, task.shard, SKETCHES), None)
            _compare(task, similar, row, other, (rows, own), sent)
    assert not np.isnan(similar).any(), "a linked row without a sketch"
    stays = similar >= task.check.least
    links = [values[stays] for values in (row, rank, other, other_rank)]
    name = attempt_name(f"work/compared-{task.shard:05d}", ".parts")
    with PartsWriter(store, name, link_schema(task.rank)) as out:
        out.add(0, links)
    evidence = {"row": row, "other": other, "similarity": similar.astype(np.float32)}
    table = pa.table({**evidence, "similar": stays})
    stem = attempt_name(f"{COMPARED}/{task.step:03d}-{task.shard:05d}", ".parquet")
    counts = {"links": int(stays.sum()), "refused": int((~stays).sum())}
    return Done(key=task.key, files=(out.file(), write_table(store, stem, table)), counts=counts)


def _compare(
    task: CheckTask,
    similar: npt.NDArray[np.float64],
    row: Ints,
    other: Ints,
    own: Rows,
    theirs: Rows,
) -> None:
    """Fill in the similarity of the pairs whose other row is among these."""
    known = np.flatnonzero(np.isin(other, theirs[0]))
    if not len(known):
        return
    order = np.argsort(theirs[0])
    positions = order[np.searchsorted(theirs[0][order], other[known])]
    similar[known] = kernels.minhash.similarity(
        own[1],
        np.searchsorted(own[0], row[known]),
        theirs[1],
        positions,
        containment=task.check.containment,
    )


def _batches(store: Store, name: str | None) -> Iterable[pa.RecordBatch]:
    return () if name is None else read_part(store, name, 0, SKETCHES)


def _sets(batches: Iterable[pa.RecordBatch], chosen: Ints | None) -> Rows:
    """The rows of sketches, all or those that are chosen, with their sorted sets."""
    rows: list[Any] = [np.zeros(0, np.int64)]
    flats: list[Any] = [np.zeros(0, np.uint32)]
    sizes: list[Any] = [np.zeros(1, np.int64)]
    shifts: list[Any] = [np.zeros(0, np.uint8)]
    for batch in batches:
        if chosen is not None:
            batch = batch.filter(pa.array(np.isin(batch.column(0).to_numpy(), chosen)))
        if batch.num_rows:
            flat, borders = _hashes(batch.column(1))
            rows.append(batch.column(0).to_numpy())
            flats.append(flat[borders[0] : borders[-1]])
            sizes.append(np.diff(borders))
            shifts.append(batch.column(2).to_numpy())
    borders = np.cumsum(np.concatenate(sizes))
    flat, borders = kernels.minhash.sorted_sets(np.concatenate(flats), borders)
    return np.concatenate(rows), (flat, borders, np.concatenate(shifts))


def _binary(flat: npt.NDArray[np.uint32], borders: Ints) -> pa.Array:
    buffers = [None, pa.py_buffer(borders * 4), pa.py_buffer(np.ascontiguousarray(flat))]
    return pa.Array.from_buffers(pa.large_binary(), len(borders) - 1, buffers)


def _hashes(sets: pa.Array) -> tuple[npt.NDArray[np.uint32], Ints]:
    _, offsets, data = sets.buffers()
    borders = np.frombuffer(offsets, np.int64)[sets.offset : sets.offset + len(sets) + 1]
    return np.frombuffer(data, np.uint8, count=int(borders[-1])).view(np.uint32), borders // 4
