"""Groups of linked rows: rows that share any key are joined, and one of each group stays.

One task per part of the key files writes the links it sees (every row of a group of equal keys to
the group's first). One task then joins all links into groups in memory, up to `MAX_LINKS`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.executors import MapTasks
from pipelines.operators import PipelineError
from pipelines.partitions import (
    GroupTask,
    Verdict,
    grouped_keys,
    read_indexed,
    write_dropped,
    write_indexed,
)
from pipelines.records import Frozen, digest
from pipelines.storage import Done, Store, attempt_name, commit, find_done, open_store

LINK_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("rank", pa.float64()),
        ("first", pa.int64()),
        ("first_rank", pa.float64()),
    ]
)
MAX_LINKS = 50_000_000
"""Links that one process joins; a link takes at most about 250 bytes at the peak, so 12 GB."""


class JoinTask(Frozen):
    """Join the links of all parts."""

    uri: str
    key: str
    files: tuple[str, ...]


def run_links(task: GroupTask) -> Done:
    """Write the links of one part: each row of a group of equal keys, and the group's first."""
    store = open_store(task.uri)
    standing = find_done(store, task.key)
    if standing is not None:
        return standing
    rank, row, _, same = grouped_keys(store, task.files, task.part)
    leader = np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))[same]
    row, rank, first, first_rank = row[same], rank[same], row[leader], rank[leader]
    order = np.lexsort((first, row))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(row[order]) != 0) | (np.diff(first[order]) != 0)
    order = order[fresh & (row[order] != first[order])]
    columns = [pa.array(values[order]) for values in (row, rank, first, first_rank)]
    batch = pa.record_batch(columns, schema=LINK_SCHEMA)
    name = attempt_name(f"work/links-{task.part:04d}", ".arrow")
    file = write_indexed(store, name, {0: batch}, schema=LINK_SCHEMA)
    return commit(store, Done(key=task.key, files=(file,), counts={"links": len(order)}))


def run_join(task: JoinTask) -> Done:
    """Write which rows go: all of each group of linked rows but the lowest rank, then row."""
    store = open_store(task.uri)
    standing = find_done(store, task.key)
    if standing is not None:
        return standing
    batches = [batch for name in task.files if (batch := read_indexed(store, name, 0)) is not None]
    table = pa.Table.from_batches(batches, schema=LINK_SCHEMA)
    row, rank, first, first_rank = (table.column(name).to_numpy() for name in LINK_SCHEMA.names)
    gone, group_sizes = _losers(row, rank, first, first_rank)
    name = attempt_name("work/verdict-linked", ".arrow")
    file = write_dropped(store, name, gone, np.zeros(len(gone), dtype=np.int64))
    counts = {
        "units": int(group_sizes.sum()),
        "groups_of_duplicates": len(group_sizes),
        "largest_group": int(group_sizes.max(initial=0)),
        "dropped_units": len(gone),
    }
    return commit(store, Done(key=task.key, files=(file,), counts=counts))


def _losers(
    row: npt.NDArray[np.int64],
    rank: npt.NDArray[np.float64],
    first: npt.NDArray[np.int64],
    first_rank: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that go, and the size of each group."""
    both = np.concatenate([row, first])
    rows, where, inverse = np.unique(both, return_index=True, return_inverse=True)
    ranks = np.concatenate([rank, first_rank])[where]
    if not len(rows):
        return rows, np.zeros(0, dtype=np.int64)
    group = kernels.components.connected(len(rows), inverse[: len(row)], inverse[len(row) :])
    order = np.lexsort((rows, ranks, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    stays = np.zeros(len(rows), dtype=bool)
    stays[order[begins]] = True
    return rows[~stays], np.diff(np.append(begins, len(rows)))


def find_linked(
    store: Store,
    *,
    state: str,
    files: Sequence[str],
    num_partitions: int,
    map_tasks: MapTasks,
) -> Verdict:
    """Link the rows of equal keys part by part, then join the links.

    Raises PipelineError where there are more links than one process joins.
    """
    tasks = [
        GroupTask(
            uri=store.uri,
            key=f"links-{part:04d}-{digest([state, num_partitions])[:16]}",
            part=part,
            files=tuple(files),
        )
        for part in range(num_partitions)
    ]
    done = map_tasks(run_links, tasks)
    links = sum(one.counts["links"] for one in done)
    if links > MAX_LINKS:
        raise PipelineError(
            f"{links} links between near-duplicates are more than the {MAX_LINKS} that one process "
            "joins: put exact_dedup before this step, or use fewer bands or more rows per band "
            "(joining the groups by partitions is planned, not there yet)"
        )
    join = JoinTask(
        uri=store.uri,
        key=f"join-{digest([state])[:16]}",
        files=tuple(one.files[0].name for one in done),
    )
    [joined] = map_tasks(run_join, [join])
    file = joined.files[0]
    return Verdict(hash=digest([file.sha256]), dropped=(file.name,))
