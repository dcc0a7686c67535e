"""The output shards of a packing: numbered in order, with the meta.json that tools expect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from pipelines.execution.executors import MapTasks
from pipelines.formats.uid_lists import (
    Subset,
    sha256_of,
    write_subset,
)
from pipelines.job import load_array
from pipelines.records import File, Frozen
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, done_name
from pipelines.storage.open import open_store

META, SAMPLE_IDS, SHARDS = "meta.json", "sample_ids.npy", "shards.json"

NUMBERED = 32  # output shards that one task numbers


class Packed(Frozen):
    """What a packing did. `missing`: different uids of the list that no sample has.

    `bad_boxes`: faces that could not be blurred, since their box is outside the image or is none.
    """

    processed_count: int
    output_count: int
    output_shard_count: int
    missing: int
    skipped: dict[str, int]
    shards: tuple[File, ...]
    blur_count: int = 0
    bad_boxes: int = 0
    repeated: int = 0

    def rows(self) -> list[tuple[str, int]]:
        """What was counted, as a person reads it."""
        rows = [
            ("samples read", self.processed_count),
            ("samples written", self.output_count),
            ("shards written", self.output_shard_count),
            ("uids of the list that no sample has", self.missing),
            *((f"left out: {reason}", number) for reason, number in self.skipped.items()),
        ]
        if self.repeated:
            rows.append(("written although their uid was there before", self.repeated))
        if self.bad_boxes:
            rows.append(("face boxes outside the image, or none", self.bad_boxes))
        return rows


def uids_there(store: Store, done: Done) -> npt.NDArray[np.int64]:
    """The places of the list whose uids a group has."""
    inside = done.stats.get("found")
    if inside is not None:
        return np.asarray(inside, np.int64)
    return np.asarray(load_array(store, done.files[-1].name), np.int64)


# ---- the end


def missing_uids(store: Store, ids: Subset, done: Sequence[Done]) -> int:
    """Different uids of the list that were in no tar."""
    seen = np.zeros(len(ids), dtype=bool)
    for result in done:
        seen[uids_there(store, result)] = True
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    return int((first & ~seen).sum())


class NumberTask(Frozen):
    """Output shards, and the names that they and their stats files get."""

    uri: str
    files: tuple[File, ...]
    names: tuple[str, ...]
    stats: tuple[str, ...]


def run_number(task: NumberTask) -> tuple[File, ...]:
    """Give shards their names. Done again after a crash, it changes nothing."""
    store = open_store(task.uri)
    named = []
    for file, name, stats in zip(task.files, task.names, task.stats, strict=True):
        store.move(file.name, name)
        write_bytes(store, stats, orjson.dumps({"successes": file.num_rows}))
        named.append(file.model_copy(update={"name": name}))
    return tuple(named)


def number_shards(
    store: Store, done: Sequence[Done], output_format: str, stats_format: str, map_tasks: MapTasks
) -> tuple[File, ...]:
    """Number the output shards through, in the order of the groups.

    On a bucket a new name is a copy, so this too is shared among the workers.
    """
    files = [file for result in done for file in result.files[:-1]]
    tasks = [
        NumberTask(
            uri=store.uri,
            files=tuple(files[first : first + NUMBERED]),
            names=tuple(output_format.format(n) for n in _places(first, files)),
            stats=tuple(stats_format.format(n) for n in _places(first, files)),
        )
        for first in range(0, len(files), NUMBERED)
    ]
    return tuple(file for some in map_tasks(run_number, tasks) for file in some)


def _places(first: int, files: Sequence[File]) -> range:
    return range(first, min(first + NUMBERED, len(files)))


def finish(
    store: Store, result: Packed, ids: Subset, done: Sequence[Done], names: Sequence[str]
) -> None:
    write_subset(store, SAMPLE_IDS, ids)
    write_bytes(store, SHARDS, result.model_dump_json(indent=2).encode())
    meta = {
        **result.model_dump(exclude={"shards"}),
        "input_shards": len(names),
        "subset_sha256": sha256_of(ids),
        "subset_size": len(ids),
    }
    for task_done in done:
        store.remove(task_done.files[-1].name)
    write_bytes(store, META, orjson.dumps(meta, option=orjson.OPT_INDENT_2))
    for task_done in done:
        store.remove(done_name(task_done.key))
