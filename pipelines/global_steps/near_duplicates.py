"""Groups of linked rows: rows that share any key are joined, and one of each group stays.

One task per part of the key files writes the links it sees: every row of a group of equal keys to
the group's first. Where the operator asks for it, rows are linked to some before them as well,
links are checked (`similarity`), and a row goes only if it has a checked link to one that stays.
One task joins up to `MAX_LINKS` links in memory; more are joined by parts
(`connected_components`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import kernels
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.global_steps import connected_components, dealt_links, similarity
from pipelines.global_steps.duplicate_record import (
    Duplicates,
    Groups,
    groups_of_sizes,
    merge_groups,
)
from pipelines.global_steps.group_keys import GroupTask, read_groups, verdict_of, write_verdict
from pipelines.global_steps.merged_files import Merger
from pipelines.job import Plan
from pipelines.operators import Dedup
from pipelines.records import Frozen, digest
from pipelines.schema import ROW_BITS
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import ALL, read_parts, write_by
from pipelines.verdict import Verdict

BEFORE = 3
"""Rows before it in a group of equal keys that a row is compared with, beside the group's first:
where the first is another page of the same template, the copy is often among them."""
MAX_LINKS = 50_000_000
"""Links that one process joins; a link takes at most about 250 bytes at the peak, so 12 GB."""


class JoinTask(Frozen):
    """Join links: all of them, or those of one part that hold whole groups."""

    uri: str
    step: int
    key: str
    part: int
    rank: str
    files: tuple[str, ...]
    checked: tuple[str, ...] | None = None  # the checked links, in the parts of their groups


class LinkTask(GroupTask):
    """Link the rows of one part. `before`: how many rows before it a row is linked to as well."""

    before: int = 0


@once
def run_links(task: LinkTask, store: Store) -> Done:
    """Write the links of one part, each once: a row, and the first row of a group it is in.

    Two files of the same links: by the shard of the row, and by the shard of the first.
    """
    groups = read_groups(store, task)
    later = np.flatnonzero(groups.same)
    earlier = groups.leader[later]
    pairs = [(later, earlier)]
    for distance in range(1, task.before + 1):
        near = later - distance > earlier  # the first itself is linked already
        pairs.append((later[near], later[near] - distance))
    here, lead = (np.concatenate([pair[n] for pair in pairs]) for n in range(2))
    row, rank = groups.row[here], groups.rank[here]
    first, first_rank = groups.row[lead], groups.rank[lead]
    order = np.lexsort((first, row))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(row[order]) != 0) | (np.diff(first[order]) != 0)
    order = order[fresh & (row[order] != first[order])]
    links = [values[order] for values in (row, rank, first, first_rank)]
    schema = connected_components.link_schema(task.rank)
    files = tuple(
        write_by(store, attempt_name(f"work/{stem}-{task.part:04d}", ".parts"), schema, by, links)
        for stem, by in (("links", links[0] >> ROW_BITS), ("firsts", links[2] >> ROW_BITS))
    )
    counts = {"links": len(order), "keys": len(groups.row)}
    return Done(key=task.key, files=files, counts=counts)


@once
def run_join(task: JoinTask, store: Store) -> Done:
    """Write which rows go: all of each group of linked rows but the lowest rank, then row.

    Of checked links, all rows that have one to a row that stays.
    """
    schema = connected_components.link_schema(task.rank)
    links = read_parts(store, task.files, task.part, schema)
    if task.checked is None:
        duplicates, groups = losers(*links)
    else:
        if task.part != ALL:
            links = read_parts(store, task.checked, task.part, schema)
        duplicates, groups = similar_losers(*links)
    # files are counted from 0: the one join of all links, whose part is -1, writes the file 0
    files = write_verdict(store, duplicates, step=task.step, part=task.part + 1)
    return Done(key=task.key, files=files, stats=groups.model_dump())


def losers(
    row: npt.NDArray[np.int64],
    rank: npt.NDArray[Any],
    first: npt.NDArray[np.int64],
    first_rank: npt.NDArray[Any],
) -> tuple[Duplicates, Groups]:
    """Rows that go with the row that stays for them, and the groups of linked rows."""
    rows, where, inverse = np.unique(
        np.concatenate([row, first]), return_index=True, return_inverse=True
    )
    ranks = np.concatenate([rank, first_rank])[where]
    group = kernels.components.connected(len(rows), inverse[: len(row)], inverse[len(row) :])
    order = np.lexsort((rows, ranks, group))
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(np.append(begins, len(rows)))
    best = rows[order[begins]]
    stays = np.zeros(len(rows), dtype=bool)
    stays[begins] = True
    dropped, kept = rows[order[~stays]], np.repeat(best, sizes)[~stays]
    nothing = np.zeros(len(dropped), dtype=np.int64)
    groups = groups_of_sizes(sizes, best, np.zeros(len(best), np.int64), compared=0)
    return Duplicates(dropped, nothing, kept, nothing), groups


def similar_losers(
    row: npt.NDArray[np.int64],
    rank: npt.NDArray[Any],
    other: npt.NDArray[np.int64],
    other_rank: npt.NDArray[Any],
) -> tuple[Duplicates, Groups]:
    """Rows that go, each with the row that stays and that it has a link to, of the lowest rank."""
    rows, where, inverse = np.unique(
        np.concatenate([row, other]), return_index=True, return_inverse=True
    )
    order = np.lexsort((rows, np.concatenate([rank, other_rank])[where]))
    position = np.empty(len(rows), np.int64)
    position[order] = np.arange(len(rows))
    left, right = position[inverse[: len(row)]], position[inverse[len(row) :]]
    stays_for = kernels.components.representatives(
        len(rows), np.maximum(left, right), np.minimum(left, right)
    )
    ordered = rows[order]
    dropped = np.flatnonzero(stays_for != np.arange(len(rows)))
    nothing = np.zeros(len(dropped), dtype=np.int64)
    sizes = np.bincount(stays_for, minlength=len(rows))
    kept = np.flatnonzero(sizes)
    groups = groups_of_sizes(sizes[kept], ordered[kept], np.zeros(len(kept), np.int64), compared=0)
    return Duplicates(ordered[dropped], nothing, ordered[stays_for[dropped]], nothing), groups


def find_linked(
    store: Store,
    *,
    plan: Plan,
    step: int,
    state: str,
    files: Sequence[str],
    sketches: Sequence[str | None],
    rank: str,
    compared: int,
    map_tasks: MapTasks,
) -> tuple[Verdict, Groups]:
    """Link the rows of equal keys part by part, check the links if asked to, then join them."""
    operator = plan.pipeline().steps[step].operator
    assert isinstance(operator, Dedup)
    least = operator.min_similarity()
    merge = Merger(store, step, state, map_tasks)
    shards = len(sketches)
    tasks = LinkTask.of_parts(
        store,
        "links",
        step=step,
        state=state,
        num_partitions=plan.num_partitions,
        rank=rank,
        files=merge("keys", files, readers=plan.num_partitions),
        before=0 if least is None else BEFORE,
    )
    done = map_tasks(run_links, tasks)
    links = sum(result.counts["links"] for result in done)
    names = [result.files[0].name for result in done]
    checked: tuple[str, ...] | None = None
    refused = 0
    if least is not None:
        compared_links = similarity.check_links(
            store,
            check=similarity.Check(least=least, containment=operator.containment()),
            step=step,
            state=state,
            links=merge("links", names, readers=shards),
            others=merge("firsts", [result.files[1].name for result in done], readers=shards),
            rank=rank,
            sketches=sketches,
            merge=merge,
        )
        links = sum(result.counts["links"] for result in compared_links)
        refused = sum(result.counts["refused"] for result in compared_links)
        names = [result.files[0].name for result in compared_links]
        checked = tuple(names)
    parts: Sequence[int] = [ALL]
    if links > MAX_LINKS:
        parts, names = connected_components.join_by_parts(
            store,
            state=state,
            step=step,
            files=names,
            rank=rank,
            num_partitions=-(-2 * links // MAX_LINKS),
            merge=merge,
        )
        if checked is not None:
            dealt = dealt_links.deal_links(
                store,
                state=state,
                step=step,
                links=checked,
                stars=names,
                rank=rank,
                num_partitions=len(parts),
                merge=merge,
            )
            checked = tuple(dealt)
    joins = [
        JoinTask(
            uri=store.uri,
            step=step,
            key=f"join{step}-{part + 1:04d}-{digest([state, len(parts)])[:16]}",
            part=part,
            rank=rank,
            files=tuple(names),
            checked=checked,
        )
        for part in parts
    ]
    joined = map_tasks(run_join, joins)
    groups = merge_groups([result.stats for result in joined])
    figures: dict[str, int] = {"units": compared}
    if least is not None:
        figures |= {"pairs": links + refused, "refused": refused}
    verdict = verdict_of(joined, merge, shards=shards)
    return verdict, groups.model_copy(update=figures)
