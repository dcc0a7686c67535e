"""Move links to the parts that hold their groups, so that each part reads only its own links.

Three passes of tasks, each of which reads its own part once: links are written to the part of their
row; rows with the least row of their group (from the stars of `connected_components`) to the part
of the row; there the two are joined, and each link is written to the part of its group. Bytes are
linear in the links.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.execution.once import once
from pipelines.global_steps.connected_components import link_schema, write_hashed
from pipelines.global_steps.merged_files import Merger
from pipelines.records import Frozen, digest
from pipelines.storage.base import Store
from pipelines.storage.commits import Done
from pipelines.storage.part_files import ALL, read_parts

Ints = npt.NDArray[np.int64]
LABELS = pa.schema([("row", pa.int64()), ("group", pa.int64())])


class DealTask(Frozen):
    """One pass over one file of links, or over one part of links or stars."""

    uri: str
    step: int
    key: str
    kind: Literal["spread", "label", "deal"]
    part: int
    rank: str
    num_partitions: int
    files: tuple[str, ...]
    labels: tuple[str, ...] = ()


def deal_links(
    store: Store,
    *,
    state: str,
    step: int,
    links: Sequence[str],
    stars: Sequence[str],
    rank: str,
    num_partitions: int,
    merge: Merger,
) -> list[str]:
    """Files of the links in the parts of their groups, numbered as by `join_by_parts`."""

    def run(
        kind: Literal["spread", "label", "deal"],
        files: Sequence[tuple[str, ...]],
        labels: Sequence[str] = (),
    ) -> list[str]:
        name = digest([state, num_partitions])[:16]
        tasks = [
            DealTask(
                uri=store.uri,
                step=step,
                key=f"{kind}{step}-{part:05d}-{name}",
                kind=kind,
                part=part,
                rank=rank,
                num_partitions=num_partitions,
                files=own,
                labels=tuple(labels),
            )
            for part, own in enumerate(files)
        ]
        return [done.files[0].name for done in merge.map_tasks(run_deal, tasks)]

    spread = merge("spread", run("spread", [(name,) for name in links]), readers=num_partitions)
    every_part = range(num_partitions)
    labels = run("label", [tuple(stars) for _ in every_part])
    return run("deal", [tuple(spread) for _ in every_part], labels)


@once
def run_deal(task: DealTask, store: Store) -> Done:
    """Run one pass over one part and write its links or labels for the next pass."""
    schema = link_schema(task.rank)

    def written(schema: pa.Schema, rows: Ints, columns: Sequence[npt.NDArray[Any]]) -> Done:
        stem = f"work/{task.kind}-{task.part:05d}"
        file = write_hashed(store, stem, schema, rows, columns, task.num_partitions)
        return Done(key=task.key, files=(file,))

    part = ALL if task.kind == "spread" else task.part
    links = read_parts(store, task.files, part, schema)
    if task.kind == "spread":
        return written(schema, links[0], links)
    if task.kind == "label":
        group, _, row, _ = links
        rows, first = np.unique(np.concatenate([row, group]), return_index=True)
        groups = np.concatenate([group, group])[first]
        return written(LABELS, rows, [rows, groups])
    row, group = read_parts(store, task.labels, task.part, LABELS)
    order = np.argsort(row)
    labelled = order[np.searchsorted(row, links[0], sorter=order)]
    assert (row[labelled] == links[0]).all(), "a link whose row is in no group"
    return written(schema, group[labelled], links)
