"""Files of parts, merged before every part is read from all of them.

A shuffle of `n` files to `m` readers is `n x m` slices, and on a bucket a slice costs three
requests whatever its size: of one Common Crawl dump 2,000 million slices of a kilobyte, at more
than the computation. So where the slices are many, a round of tasks first takes neighbouring files
together: it reads them whole, one request each, and writes one file of the same parts. Rows stay in
their order, so nothing that is made of them changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.records import Frozen, digest
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.local import LocalStore
from pipelines.storage.part_files import SLICE_REQUESTS, merge_files

FEW_REQUESTS = 100_000  # four cents at $0.40 a million: not worth a round of tasks
MERGE_BYTES = 1 << 30  # of the files that one task holds in memory
MERGE_FILES = 1024  # the index of a merged file has a place for each file and part
WORK = "work/"


class MergeTask(Frozen):
    """Write neighbouring files as one."""

    uri: str
    step: int
    key: str
    number: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Merger:
    """Merges the files between two rounds of a step; `state` is what the step depends on."""

    store: Store
    step: int
    state: str
    map_tasks: MapTasks
    made: list[Done] = field(default_factory=list)  # for who removes the files afterwards

    def __call__(self, what: str, names: Sequence[str], *, readers: int) -> list[str]:
        """The files that `readers` tasks should read their parts of, in the order of `names`.

        They are the same files on a disk, and where few slices are read.
        """
        few = len(names) * readers * SLICE_REQUESTS <= FEW_REQUESTS
        if few or isinstance(self.store, LocalStore):
            return list(names)
        known = {entry.name: entry.num_bytes for entry in self.store.list(WORK)}
        groups = neighbours([known[name] for name in names])
        if len(groups) > len(names) // 2:  # the files are large: a slice is worth its requests
            return list(names)
        identity = digest([self.state, what, [[group.start, group.stop] for group in groups]])[:16]
        tasks = [
            MergeTask(
                uri=self.store.uri,
                step=self.step,
                key=f"merge-{what}{self.step}-{number:05d}-{identity}",
                number=number,
                files=tuple(names[group.start : group.stop]),
            )
            for number, group in enumerate(groups)
        ]
        done = self.map_tasks(run_merge, tasks)
        self.made.extend(done)
        return [result.files[0].name for result in done]


def neighbours(sizes: Sequence[int]) -> list[range]:
    """Files of these sizes in groups that a task can hold, at least one in each."""
    groups: list[range] = []
    begin, total = 0, 0
    for index, size in enumerate(sizes):
        if index > begin and (total + size > MERGE_BYTES or index - begin == MERGE_FILES):
            groups.append(range(begin, index))
            begin, total = index, 0
        total += size
    return [*groups, range(begin, len(sizes))] if sizes else []


@once
def run_merge(task: MergeTask, store: Store) -> Done:
    """Write some files as one."""
    name = attempt_name(f"{WORK}merged-{task.number:05d}", ".parts")
    return Done(key=task.key, files=(merge_files(store, task.files, name),))
