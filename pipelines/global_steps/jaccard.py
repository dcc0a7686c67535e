"""Links between near-duplicates checked by the true Jaccard similarity of their shingles.

A task per shard sends the shingle hashes of the rows that led a group to the shards of the rows
that are linked to them, once per shard; a task per shard compares. A task holds the shingles (8
bytes each) of its own linked rows and those that one other shard sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.global_steps.connected_components import link_schema
from pipelines.job import Held, Plan, loaded
from pipelines.operators import Dedup
from pipelines.records import Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.sources import held_rows
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_part, read_parts

SHINGLES = pa.schema([("row", pa.int64()), ("shingles", pa.large_binary())])
Ints = npt.NDArray[np.int64]


class CheckTask(Frozen):
    """One shard: what it sends (`links` by the shard of the first), or what it compares."""

    plan: Plan
    step: int
    key: str
    shard: int
    input: Held
    links: tuple[str, ...]
    shingles: tuple[str, ...] = ()
    rank: str

    @property
    def uri(self) -> str:
        return self.plan.output_uri


def check_links(
    store: Store,
    *,
    plan: Plan,
    step: int,
    state: str,
    links: Sequence[str],
    firsts: Sequence[str],
    rank: str,
    inputs: Sequence[Held],
    map_tasks: MapTasks,
) -> list[Done]:
    """Commits whose first files hold the links that are similar enough, one per shard."""

    def tasks(kind: str, names: Sequence[str], shingles: Sequence[str]) -> list[CheckTask]:
        return [
            CheckTask(
                plan=plan,
                step=step,
                key=f"{kind}{step}-{shard:05d}-{digest([state, plan.num_partitions])[:16]}",
                shard=shard,
                input=inputs[shard],
                links=tuple(names),
                shingles=tuple(shingles),
                rank=rank,
            )
            for shard in range(len(inputs))
        ]

    sent = map_tasks(run_send, tasks("shingles", firsts, ()))
    names = [result.files[0].name for result in sent if result.counts["rows"]]
    return map_tasks(run_compare, tasks("compared", links, names))


@once
def run_send(task: CheckTask, store: Store) -> Done:
    """Write the shingles of rows that others are linked to, by the shard of those others."""
    row, _, first, _ = read_parts(store, task.links, task.shard, link_schema(task.rank))
    pairs = np.unique(np.stack([first, row >> ROW_BITS], axis=1), axis=0)  # first, for shard
    name = attempt_name(f"work/shingles-{task.shard:05d}", ".parts")
    with PartsWriter(store, name, SHINGLES) as out:
        for batch, flat, borders in _shingled(task, store, pairs[:, 0]):
            sets = _binary(flat, borders)
            begin = np.searchsorted(pairs[:, 0], batch.rows[0])
            end = np.searchsorted(pairs[:, 0], batch.rows[-1], side="right")
            here = pairs[begin:end]
            for shard in np.unique(here[:, 1]).tolist():
                rows = here[here[:, 1] == shard, 0]
                places = np.searchsorted(batch.rows, rows)
                out.add(shard, [rows, sets.take(pa.array(places))])
    file = out.file()
    return Done(key=task.key, files=(file,), counts={"rows": file.num_rows or 0})


@once
def run_compare(task: CheckTask, store: Store) -> Done:
    """Write the links of this shard's rows whose similarity is high enough."""
    least = _operator(task).min_similarity()
    assert least is not None
    links = read_parts(store, task.links, task.shard, link_schema(task.rank))
    row, _, first, _ = links
    rows, flat, borders = _own(task, store, np.unique(row))
    similar = np.zeros(len(row), dtype=bool)
    for name in task.shingles:
        for batch in read_part(store, name, task.shard, SHINGLES):
            theirs = batch.column(0).to_numpy()
            known = np.isin(first, theirs)
            order = np.argsort(theirs)
            other = order[np.searchsorted(theirs[order], first[known])]
            data, offsets = _hashes(batch.column(1))
            similar[known] = (
                kernels.minhash.jaccard(
                    flat, borders, np.searchsorted(rows, row[known]), data, offsets, other
                )
                >= least
            )
    order = np.flatnonzero(similar)
    order = order[np.unique(np.stack([row, first], axis=1)[order], axis=0, return_index=True)[1]]
    with PartsWriter(
        store, attempt_name(f"work/compared-{task.shard:05d}", ".parts"), link_schema(task.rank)
    ) as out:
        out.add(0, [values[order] for values in links])
    counts = {"links": len(order), "refused": int((~similar).sum())}
    return Done(key=task.key, files=(out.file(),), counts=counts)


def _operator(task: CheckTask) -> Dedup:
    pipeline = task.plan.pipeline()
    operator = loaded(pipeline.steps[task.step], pipeline.assets)
    assert isinstance(operator, Dedup)
    return operator


def _shingled(
    task: CheckTask, store: Store, rows: Ints
) -> Iterator[tuple[Batch, npt.NDArray[np.uint64], Ints]]:
    """The wanted rows of the shard with their shingles, batch by batch."""
    if not len(rows):
        return
    columns = _operator(task).reads()
    for batch in held_rows(task.input, store, task.plan, task.shard, columns=columns):
        batch = batch.keep(np.isin(batch.rows, rows))
        if batch.num_rows:
            yield batch, *_operator(task).shingles(batch)


def _own(task: CheckTask, store: Store, rows: Ints) -> tuple[Ints, npt.NDArray[np.uint64], Ints]:
    document_rows: list[Any] = [np.zeros(0, np.int64)]
    flats: list[Any] = [np.zeros(0, np.uint64)]
    sizes: list[Any] = [np.zeros(1, np.int64)]
    for batch, flat, borders in _shingled(task, store, rows):
        document_rows.append(batch.rows)
        flats.append(flat)
        sizes.append(np.diff(borders))
    return np.concatenate(document_rows), np.concatenate(flats), np.cumsum(np.concatenate(sizes))


def _binary(flat: npt.NDArray[np.uint64], borders: Ints) -> pa.Array:
    buffers = [None, pa.py_buffer(borders * 8), pa.py_buffer(np.ascontiguousarray(flat))]
    return pa.Array.from_buffers(pa.large_binary(), len(borders) - 1, buffers)


def _hashes(sets: pa.Array) -> tuple[npt.NDArray[np.uint64], Ints]:
    _, offsets, data = sets.buffers()
    borders = np.frombuffer(offsets, np.int64)[sets.offset : sets.offset + len(sets) + 1]
    size = int(borders[-1])
    return np.frombuffer(data, np.uint8, count=size).view(np.uint64), borders // 8
