"""Connected components: join links into groups when one process cannot hold them.

Alternating large-star and small-star steps (Kiveris et al. 2014, Connected Components in MapReduce
and Beyond): a large-star links each greater neighbour of a row to the least row of its
neighbourhood, a small-star each lesser neighbour. Neither changes what is connected; when a round
changes nothing, every group is a star around its least row. A task holds the links of the rows of
one part, so memory is bounded by one part's links, or by the rows of the largest group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.execution.once import once
from pipelines.global_steps.merged_files import Merger
from pipelines.records import File, Frozen, digest
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import ALL, PartsWriter, read_parts

MAX_ROUNDS = 200  # the algorithm needs about log^2 of the rows: reaching this is a bug
Ints = npt.NDArray[np.int64]


class StarTask(Frozen):
    """One step over the links of one part: first `scatter`, then `large` and `small` in turn."""

    uri: str
    step: int
    key: str
    kind: Literal["scatter", "large", "small"]
    part: int
    rank: str
    num_partitions: int
    files: tuple[str, ...]


def rank_type(rank: str) -> pa.DataType:
    """The Arrow type of ranks of this numpy type."""
    type_ = np.dtype(rank)
    return pa.binary(type_.itemsize) if type_.kind == "S" else pa.from_numpy_dtype(type_)


def link_schema(rank: str) -> pa.Schema:
    """Two linked rows with their ranks. The file's part is that of `row`."""
    type_ = rank_type(rank)
    return pa.schema(
        [("row", pa.int64()), ("rank", type_), ("other", pa.int64()), ("other_rank", type_)]
    )


def join_by_parts(
    store: Store,
    *,
    state: str,
    step: int,
    files: Sequence[str],
    rank: str,
    num_partitions: int,
    merge: Merger,
) -> tuple[range, list[str]]:
    """Turn links into stars, in `num_partitions` parts; returns the parts and their files.

    In the result a part has whole groups: a link from each row to the least row of its group.
    """

    def run(
        kind: Literal["scatter", "large", "small"], number: int, names: list[str]
    ) -> list[Done]:
        parts = range(len(names)) if kind == "scatter" else range(num_partitions)
        tasks = [
            StarTask(
                uri=store.uri,
                step=step,
                key=f"stars{step}-{number:03d}{kind}-{part:04d}-"
                f"{digest([state, num_partitions])[:16]}",
                kind=kind,
                part=part,
                rank=rank,
                num_partitions=num_partitions,
                files=(names[part],) if kind == "scatter" else tuple(names),
            )
            for part in parts
        ]
        return merge.map_tasks(run_star, tasks)

    def names_of(done: Sequence[Done]) -> list[str]:
        return [result.files[0].name for result in done]

    scattered = names_of(run("scatter", 0, list(files)))
    names = merge("stars", scattered, readers=num_partitions)
    previous = ""
    for number in range(1, MAX_ROUNDS):
        large = run("large", number, names)
        current = digest([result.stats for result in large])  # of the step's input links
        if current == previous:
            return range(num_partitions), [result.files[1].name for result in large]
        previous = current
        names = names_of(run("small", number, names_of(large)))
    raise AssertionError(f"groups are not joined after {MAX_ROUNDS} rounds")


@once
def run_star(task: StarTask, store: Store) -> Done:
    """Run one step over one part and write its links for the next step."""
    schema = link_schema(task.rank)
    part = ALL if task.kind == "scatter" else task.part
    row, rank, other, other_rank = _once(*read_parts(store, task.files, part, schema))
    stem = f"work/stars-{task.kind}-{task.part:04d}"
    if task.kind == "scatter":
        both = _both_ways(row, rank, other, other_rank)
        return Done(key=task.key, files=(_write(store, stem, both, task),))
    begins = np.flatnonzero(np.diff(row, prepend=-1))
    sizes = np.diff(np.append(begins, len(row)))
    least, least_rank = other[begins], other_rank[begins]  # others are sorted inside a row
    own = row[begins] < least
    least = np.where(own, row[begins], least)
    least_rank = np.where(own, rank[begins], least_rank)
    star, star_rank = np.repeat(least, sizes), np.repeat(least_rank, sizes)
    if task.kind == "large":
        greater = other > row
        made = (other[greater], other_rank[greater], star[greater], star_rank[greater])
        lesser = ~greater  # each link once: from its greater row
        stats = {"links": int(lesser.sum()), "sum": _sum(row[lesser], other[lesser])}
        whole = (row[greater], rank[greater], other[greater], other_rank[greater])
        files = (
            _write(store, stem, made, task),
            _write(store, f"{stem}-groups", whole, task),
        )
        return Done(key=task.key, files=files, stats=stats)
    far = other != star  # links to lesser rows, of which the least is the star
    made = (
        np.concatenate([other[far], row[begins]]),
        np.concatenate([other_rank[far], rank[begins]]),
        np.concatenate([star[far], least]),
        np.concatenate([star_rank[far], least_rank]),
    )
    return Done(key=task.key, files=(_write(store, stem, _both_ways(*made), task),))


def _once(row: Ints, rank: Any, other: Ints, other_rank: Any) -> tuple[Ints, Any, Ints, Any]:
    """The links sorted by row, then other, without repeated ones."""
    order = np.lexsort((other, row))
    row, other = row[order], other[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(row) != 0) | (np.diff(other) != 0)
    return row[fresh], rank[order][fresh], other[fresh], other_rank[order][fresh]


def _both_ways(row: Ints, rank: Any, other: Ints, other_rank: Any) -> tuple[Ints, Any, Ints, Any]:
    return (
        np.concatenate([row, other]),
        np.concatenate([rank, other_rank]),
        np.concatenate([other, row]),
        np.concatenate([other_rank, rank]),
    )


def _sum(row: Ints, other: Ints) -> str:
    """A checksum of links that does not depend on their order."""
    mixed = kernels.grouping.mixed(row.view(np.uint64), other.view(np.uint64))
    return str(int(mixed.sum(dtype=np.uint64)))


def _write(store: Store, stem: str, links: tuple[Any, ...], task: StarTask) -> File:
    return write_hashed(store, stem, link_schema(task.rank), links[0], links, task.num_partitions)


def write_hashed(
    store: Store,
    stem: str,
    schema: pa.Schema,
    rows: Ints,
    columns: Sequence[npt.NDArray[Any]],
    num_partitions: int,
) -> File:
    """Write columns to a file of `num_partitions` parts; a row's hash decides its part."""
    route = kernels.grouping.mixed(rows.view(np.uint64), np.zeros(len(rows), np.uint64))
    where, begins = kernels.grouping.split(route, num_partitions)
    with PartsWriter(store, attempt_name(stem, ".parts"), schema) as out:
        for part in range(num_partitions):
            here = where[begins[part] : begins[part + 1]]
            out.add(part, [values[here] for values in columns])
    return out.file()
