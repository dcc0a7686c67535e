"""Groups of vectors: of each row that is as similar to one that stays, only that one stays.

Every row has one key, its cluster, so a part holds whole clusters and needs no other part. Rows are
looked at in the order of their ranks; a row goes if its vector's inner product with that of a row
that stays is high enough, and the nearest of those is recorded as its copy. A part's vectors are
in memory: rows / parts x 2 bytes a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.formats.writers import write_table
from pipelines.global_steps.duplicate_record import (
    Duplicates,
    Groups,
    groups_of_sizes,
    merge_groups,
)
from pipelines.global_steps.group_keys import GroupTask, key_schema, verdict_of, write_verdict
from pipelines.global_steps.merged_files import Merger
from pipelines.global_steps.similarity import COMPARED
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import numpy_of, read_part
from pipelines.verdict import Verdict

Vectors = npt.NDArray[np.float32]
BLOCK = 1024  # rows whose products with all that stay are in memory: 4 MB a thousand of those
DECIMALS = 5
"""Products are rounded before they are compared: sums of other orders (another library of linear
algebra, a GPU) differ by less than 1e-6 for unit vectors, so nearly all decisions are the same."""


class VectorTask(GroupTask):
    """Compare the vectors of one part, cluster by cluster."""

    least: float


class Part(NamedTuple):
    """The rows of a part in order of cluster, rank and row, and their vectors."""

    cluster: npt.NDArray[np.uint64]
    row: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]


@once
def run_vectors(task: VectorTask, store: Store) -> Done:
    """Write which rows of this part go, the rows they are copies of, and how similar they are."""
    part = _read(store, task)
    borders = np.flatnonzero(np.diff(part.cluster, prepend=part.cluster[:1], append=0))
    borders = np.unique(np.concatenate([[0], borders, [len(part.row)]]))
    dropped, kept, similar, sizes = [], [], [], []
    for begin, end in pairwise(borders.tolist()):
        copy_of, similarity = nearest_kept(part.vectors[begin:end], task.least)
        own = np.arange(end - begin)
        goes = np.flatnonzero(copy_of != own)
        dropped.append(part.row[begin:end][goes])
        kept.append(part.row[begin:end][copy_of[goes]])
        similar.append(similarity[goes])
        sizes.append(np.stack([part.row[begin:end], np.bincount(copy_of, minlength=len(own))]))
    nothing = np.zeros(0, np.int64)
    rows, stays_for = np.concatenate([nothing, *dropped]), np.concatenate([nothing, *kept])
    units = np.zeros(len(rows), np.int64)
    duplicates = Duplicates(rows, units, stays_for, units)
    evidence = {
        "row": rows,
        "other": stays_for,
        "similarity": np.concatenate([np.zeros(0, np.float32), *similar]),
        "similar": np.ones(len(rows), bool),
    }
    stem = attempt_name(f"{COMPARED}/{task.step:03d}-{task.part:05d}", ".parquet")
    files = (
        *write_verdict(store, duplicates, step=task.step, part=task.part),
        write_table(store, stem, pa.table(evidence)),
    )
    groups = np.concatenate([np.zeros((2, 0), np.int64), *sizes], axis=1)
    there = groups[1] > 0
    found_groups = groups_of_sizes(
        groups[1][there],
        groups[0][there],
        np.zeros(int(there.sum()), np.int64),
        compared=len(part.row),
    )
    return Done(key=task.key, files=files, stats=found_groups.model_dump())


def nearest_kept(
    vectors: npt.NDArray[np.float16], least: float
) -> tuple[npt.NDArray[np.int64], Vectors]:
    """For each row itself if it stays, else the most similar row that stays, and the similarity.

    Rows come in the order in which they may stay; `vectors` have length 1.
    """
    number = len(vectors)
    copy_of = np.arange(number)
    similarity = np.ones(number, np.float32)
    stays = np.zeros(number, bool)
    for begin in range(0, number, BLOCK):
        block = vectors[begin : begin + BLOCK].astype(np.float32)
        best = np.full(len(block), -np.inf, np.float32)
        nearest_row = np.zeros(len(block), np.int64)
        before = np.flatnonzero(stays[:begin])
        for start in range(0, len(before), BLOCK):
            some = before[start : start + BLOCK]
            products = np.round(block @ vectors[some].astype(np.float32).T, DECIMALS)
            nearest = products.argmax(axis=1)
            highest = products[np.arange(len(block)), nearest]
            better = highest > best
            best[better], nearest_row[better] = highest[better], some[nearest[better]]
        own = np.round(block @ block.T, DECIMALS)
        inside = np.zeros(len(block), bool)
        for at in range(len(block)):
            kept = np.flatnonzero(inside[:at])
            if len(kept):
                nearest_in = kept[own[at, kept].argmax()]
                if own[at, nearest_in] > best[at]:
                    best[at], nearest_row[at] = own[at, nearest_in], begin + nearest_in
            inside[at] = best[at] < least
        stays[begin : begin + len(block)] = inside
        goes = np.flatnonzero(~inside)
        copy_of[begin + goes] = nearest_row[goes]
        similarity[begin + goes] = np.minimum(best[goes], 1)  # float16 is 1 only nearly
    return copy_of, similarity


def _read(store: Store, task: VectorTask) -> Part:
    schema = key_schema(np.dtype(task.rank), payload=True)
    batches = [batch for name in task.files for batch in read_part(store, name, task.part, schema)]
    rows = sum(batch.num_rows for batch in batches)
    if not rows:
        return Part(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, 1), np.float16))
    table = pa.Table.from_batches(batches, schema=schema)
    cluster = table["low"].to_numpy()
    rank, row = numpy_of(table["rank"]), table["row"].to_numpy()
    order = np.lexsort((row, rank, cluster))
    flat = [np.frombuffer(chunk.buffers()[2], np.uint8) for chunk in table["payload"].chunks]
    vectors = np.concatenate(flat).view(np.float16).reshape(rows, -1)
    return Part(cluster[order], row[order], vectors[order])


def find_similar(
    store: Store,
    *,
    step: int,
    state: str,
    files: Sequence[str],
    rank: str,
    least: float,
    num_partitions: int,
    shards: int,
    map_tasks: MapTasks,
) -> tuple[Verdict, Groups]:
    """Compare all vectors, one task per part; returns what goes, and the groups.

    `shards` will read the verdict.
    """
    merge = Merger(store, step, state, map_tasks)
    tasks = VectorTask.of_parts(
        store,
        "vectors",
        step=step,
        state=state,
        num_partitions=num_partitions,
        rank=rank,
        files=merge("keys", files, readers=num_partitions),
        least=least,
    )
    done = map_tasks(run_vectors, tasks)
    return verdict_of(done, merge, shards=shards), merge_groups([result.stats for result in done])
