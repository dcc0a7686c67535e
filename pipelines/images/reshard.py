"""The resharder: the samples of a list of uids, copied from a pool's tars into training shards.

Each sample comes as often as its uid is in the list, as `UID-0`, `UID-1`, ... one after the other,
its members in the order of their extensions and with their bytes untouched. Of several samples with
one uid, in one tar or in many, the first is taken, or all are, as the reference does. Input shards
are cut into groups of neighbours; a group's output depends on nothing else, so one process, many,
or a cluster write the same bytes. In the end all output shards are numbered through in the order of
the groups. (Gadre et al. 2023; the layout of the reference's resharder, which training reads)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from pipelines.errors import PackError
from pipelines.execution.executors import MapTasks
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.tars import (
    END,
    LINK,
    Member,
    SampleIndex,
    TarError,
    header,
    is_tar,
    padding,
    sample_index,
    samples,
    samples_by_name,
    tar_bytes,
)
from pipelines.formats.uid_lists import (
    check_sorted,
    load_subset,
    look_up,
    sha256_of,
)
from pipelines.formats.writers import write_array
from pipelines.images.faces import FaceOptions, Faces
from pipelines.images.packed_shards import (
    META,
    SHARDS,
    Packed,
    finish,
    missing_uids,
    number_shards,
    uids_there,
)
from pipelines.images.sample_json import uid_of_json
from pipelines.records import File, Frozen, digest
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.commits import Done, attempt_name, done_name, find_done
from pipelines.storage.open import open_store

SHARD_SIZE = 10_000  # samples, as the reference's resharder
GROUP_SHARDS = 64  # input tars of one task
WRITE_BYTES = 1 << 20  # buffered before a write
MAX_EXTENSION = 60  # a tar header has 100 bytes for `UID-COPY.EXTENSION`; a copy has up to 6 digits
NO_JSON, REPEATED = "no_json", "repeated_uid"
UNDECODABLE = "undecodable"  # an image whose faces cannot be blurred
Part = bytes | memoryview


class GroupTask(Frozen):
    """Neighbouring input shards, and where their samples go."""

    uri: str
    key: str
    group: int
    input_uri: str
    shards: tuple[str, ...]
    subset: str
    shard_size: int
    quarantine: bool
    dry_run: bool
    faces: FaceOptions | None = None
    repeats: Literal["first", "all"] = "all"
    exclude: tuple[int, ...] = ()  # places of the list that an earlier group has
    step: int = 0


def pack(
    input_uri: str,
    subset: str,
    *,
    out: str,
    map_tasks: MapTasks,
    shards: Sequence[str] | None = None,
    shard_size: int = SHARD_SIZE,
    group_shards: int = GROUP_SHARDS,
    output_format: str = "{:08d}.tar",
    stats_format: str = "{:08d}_stats.json",
    faces: FaceOptions | None = None,
    repeats: Literal["first", "all"] = "all",
    overwrite: bool = False,
    quarantine: bool = False,
    dry_run: bool = False,
) -> Packed:
    """Copy the samples of `subset` (a sorted .npy or raw file of `u8,u8`) from tars to new ones.

    `shards` names some of the tars; all are taken otherwise, whatever their numbers. `out` gets the
    tars, a stats file each, `meta.json`, `sample_ids.npy` and `shards.json` with hashes; it must be
    empty, unless it holds this very packing unfinished, or `overwrite` says to empty it first. With
    `quarantine`, the good samples of a damaged tar are taken and the fault is counted. `faces` says
    whether faces are blurred or named on the way. `repeats`: of samples with one uid the first is
    taken, or all are under equal names, which is what the reference does.

    SubsetError for a list that is unsorted or of another type, PackError for a full folder;
    TarError names a damaged tar.
    """
    source, store = open_store(input_uri), open_store(out)
    names = _tars(source) if shards is None else list(shards)
    ids = load_subset(subset)
    check_sorted(ids, subset)
    asked = [source.uri, names, sha256_of(ids), shard_size, group_shards, quarantine]
    if repeats == "first":
        asked.append(repeats)
    work = digest(asked if faces is None else [*asked, faces.model_dump()])
    if not dry_run:
        standing = _claim(store, work, overwrite=overwrite)
        if standing is not None:
            return standing
    groups = [names[a:b] for a, b in pairwise([*range(0, len(names), group_shards), len(names)])]
    tasks = [
        GroupTask(
            uri=store.uri,
            key=f"pack-{number:05d}-{work[:16]}",
            group=number,
            input_uri=source.uri,
            shards=tuple(group),
            subset=subset,
            shard_size=shard_size,
            quarantine=quarantine,
            dry_run=dry_run,
            faces=faces,
            repeats=repeats,
        )
        for number, group in enumerate(groups)
    ]
    done = _map(tasks, store, map_tasks, dry_run=dry_run)
    between = _repeats_between(store, done, len(ids))
    repeated = 0
    if repeats == "first":
        done = _without_repeats(tasks, between, store, done, map_tasks, dry_run=dry_run)
    else:
        repeated = sum(len(places) for places in between.values())
        repeated += sum(result.counts.get("repeated", 0) for result in done)
    missing = missing_uids(store, ids, done)
    packed: tuple[File, ...] = ()
    if not dry_run:
        packed = number_shards(store, done, output_format, stats_format, map_tasks)
    skipped: dict[str, int] = {}
    for task_done in done:
        for reason, number in task_done.stats["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + number
    result = Packed(
        processed_count=sum(result.counts["processed"] for result in done),
        output_count=sum(result.counts["output"] for result in done),
        output_shard_count=len(packed),
        missing=missing,
        skipped=skipped,
        shards=packed,
        blur_count=sum(result.counts.get("blurred", 0) for result in done),
        bad_boxes=sum(result.counts.get("bad_boxes", 0) for result in done),
        repeated=repeated,
    )
    if not dry_run:
        finish(store, result, ids, done, names)
    return result


def _tars(store: Store) -> list[str]:
    names = [entry.name for entry in store.list() if is_tar(entry.name)]
    if not names:
        raise PackError(f"there are no .tar files below {store.uri}")
    return names


def _claim(store: Store, work: str, *, overwrite: bool) -> Packed | None:
    """Make the folder that of this work; what it gave when it is finished."""
    marker = f"work-{work[:16]}.json"
    if store.exists(marker):
        if store.exists(META):
            return Packed.model_validate(orjson.loads(store.read_bytes(SHARDS)))
        return None
    there = list(store.list())
    if there and not overwrite:
        raise PackError(
            f"{store.uri} is not empty (it has {there[0].name}); choose another --out, or give "
            "--overwrite to empty it"
        )
    for entry in there:
        store.remove(entry.name)
    write_bytes(store, marker, b"{}")
    return None


def _map(
    tasks: Sequence[GroupTask], store: Store, map_tasks: MapTasks, *, dry_run: bool
) -> list[Done]:
    run = run_dry if dry_run else run_group
    done_before = {} if dry_run else {task.key: find_done(store, task.key) for task in tasks}
    missing = [task for task in tasks if done_before.get(task.key) is None]
    with progress_step("pack", total=len(tasks), unit="groups") as bar:
        bar.advance(len(tasks) - len(missing))
        fresh = map_tasks(run, missing, on_result=lambda *_: bar.advance())
    made: dict[str, Done] = {task.key: result for task, result in zip(missing, fresh, strict=True)}
    return [made.get(task.key) or _there(done_before[task.key]) for task in tasks]


def _repeats_between(
    store: Store, done: Sequence[Done], size: int
) -> dict[int, npt.NDArray[np.int64]]:
    """Of each group, the places of the list that an earlier group has too."""
    seen = np.zeros(size, dtype=bool)
    between = {}
    for number, result in enumerate(done):
        places = uids_there(store, result)
        repeated = places[seen[places]]
        if len(repeated):
            between[number] = repeated
        seen[places] = True
    return between


def _without_repeats(
    tasks: Sequence[GroupTask],
    between: dict[int, npt.NDArray[np.int64]],
    store: Store,
    done: Sequence[Done],
    map_tasks: MapTasks,
    *,
    dry_run: bool,
) -> list[Done]:
    """Do groups again that have uids of earlier groups, without those.

    Groups know nothing of each other, and a pool has each uid once: so this is rare, and what it
    costs is paid by pools with copies of tars.
    """
    again: list[GroupTask] = []
    for number, places in between.items():
        exclude = tuple(places.tolist())
        key = f"{tasks[number].key}-{digest([exclude])[:8]}"
        again.append(tasks[number].model_copy(update={"exclude": exclude, "key": key}))
    if not again:
        return list(done)
    fresh = _map(again, store, map_tasks, dry_run=dry_run)
    changed = dict(zip(between, fresh, strict=True))
    for number in changed if not dry_run else ():
        for file in done[number].files:
            if store.exists(file.name):
                store.remove(file.name)
        store.remove(done_name(done[number].key))
    return [changed.get(number, result) for number, result in enumerate(done)]


def _there(done: Done | None) -> Done:
    assert done is not None
    return done


# ---- one group


@once
def run_group(task: GroupTask, store: Store) -> Done:
    """Copy the samples of one group of input shards."""
    return _group(task, store)


def run_dry(task: GroupTask) -> Done:
    """Count what would be copied."""
    return _group(task, None)


def _group(task: GroupTask, store: Store | None) -> Done:
    output = None if store is None else _Output(store, task)
    ids = load_subset(task.subset)
    leading = np.ascontiguousarray(ids["f0"])  # or every search would copy it out
    source = open_store(task.input_uri)
    processed, copied, blurred, bad_boxes, repeated = 0, 0, 0, 0, 0
    skipped: Counter[str] = Counter()
    seen = np.zeros(len(ids), dtype=bool)
    seen[list(task.exclude)] = True
    hits: list[npt.NDArray[np.int64]] = []
    try:
        for name in task.shards:
            with tar_bytes(source, name) as data:
                where = f"{source.uri}/{name}"
                entries, uids = _read(data, where, task.quarantine, skipped)
                uid_array = np.array(uids, dtype=np.uint64).reshape(-1, 2)
                first, count = look_up(ids, uid_array[:, 0], uid_array[:, 1], leading=leading)
                processed += len(entries)
                again = _repeats(first, count, seen)
                if again.any() and task.repeats == "first":
                    count[again] = 0
                    skipped[REPEATED] += int(again.sum())
                elif again.any():
                    repeated += int(count[again].sum())
                copied += int(count.sum())
                hits.append(first[count > 0])
                if output is not None:
                    faces = Faces(task.faces, name) if task.faces else None
                    for position in np.flatnonzero(count).tolist():
                        uid = b"%016x%016x" % uids[position]
                        parts = _parts(data, entries[position])
                        if faces is not None:
                            changed = {suffix: bytes(part) for suffix, part in parts}
                            outcome = faces.change(uids[position], changed)
                            if outcome is None:
                                skipped[UNDECODABLE] += 1
                                copied -= int(count[position])
                                continue
                            blurred += outcome
                            parts = sorted(changed.items())
                        output.add(parts, uid, int(count[position]))
                    output.flush()  # what is buffered is in this tar
                    bad_boxes += faces.bad_boxes if faces is not None else 0
    except BaseException:
        if output is not None:
            output.abandon()
        raise
    files = () if output is None else output.close()
    places = np.unique(np.concatenate(hits)) if hits else np.zeros(0, np.int64)
    stats: dict[str, Any] = {"skipped": dict(sorted(skipped.items()))}
    if store is None:
        stats["found"] = places
    else:
        name = attempt_name(f"work/{task.group:05d}-found", ".npy")
        files = (*files, write_array(store, name, places))
    counts = {"processed": processed, "output": copied}
    if repeated:
        counts["repeated"] = repeated
    if task.faces is not None:
        counts |= {"blurred": blurred, "bad_boxes": bad_boxes}
    return Done(key=task.key, files=files, counts=counts, stats=stats)


def _repeats(
    first: npt.NDArray[np.int64], count: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which samples of a tar have a uid that was there before; the others are marked as seen."""
    repeated = np.zeros(len(first), dtype=bool)
    chosen = np.flatnonzero(count)
    places = first[chosen]
    once_only = np.zeros(len(chosen), dtype=bool)
    once_only[np.unique(places, return_index=True)[1]] = True
    repeated[chosen] = seen[places] | ~once_only
    seen[places] = True
    return repeated


def _read(
    data: memoryview, where: str, quarantine: bool, skipped: Counter[str]
) -> tuple[SampleIndex | list[list[Member]], list[tuple[int, int]]]:
    """The samples of a tar that have a uid, and the uids."""
    index = sample_index(data)
    if index is not None and index.longest_extension() <= MAX_EXTENSION:
        return _with_uid(index, skipped)
    entries: list[list[Member]] = []
    uids: list[tuple[int, int]] = []
    try:
        for sample in samples_by_name(data, where, skipped):
            uid = _uid(data, sample)
            if isinstance(uid, str):
                skipped[uid] += 1
                continue
            long = next((m for m in sample if len(m.extension) > MAX_EXTENSION), None)
            if long is not None:
                if not quarantine:
                    raise PackError(
                        f"{where}: the extension {long.extension!r} of the sample "
                        f"{long.key.decode('utf-8', 'replace')} is too long for a training shard "
                        f"({MAX_EXTENSION} letters); rename it, or run with --quarantine"
                    )
                skipped["long_extension"] += 1
                continue
            entries.append(sample)
            uids.append(uid)
    except TarError:
        if not quarantine:
            raise
        skipped["damaged_tar"] += 1
    return entries, uids


def _with_uid(
    index: SampleIndex, skipped: Counter[str]
) -> tuple[SampleIndex, list[tuple[int, int]]]:
    """The same of a tar whose names are plain: members are made for chosen samples only."""
    if index.links:
        skipped[LINK] += index.links
    numbers: list[int] = []
    uids: list[tuple[int, int]] = []
    for number, part in enumerate(index.json_parts()):
        uid = NO_JSON if part is None else uid_of_json(part)
        if isinstance(uid, str):
            skipped[uid] += 1
        else:
            numbers.append(number)
            uids.append(uid)
    return index.take(numbers), uids


def _parts(data: memoryview, sample: Sequence[Member]) -> list[tuple[str, Part]]:
    """The members of a sample by extension, in order."""
    ordered = sorted(sample, key=lambda member: member.extension)
    return [(m.extension, data[m.start : m.start + m.size]) for m in ordered]


def _uid(data: memoryview, sample: Sequence[Member]) -> tuple[int, int] | str:
    """The uid of a sample as two numbers, or why it has none."""
    for member in sample:
        if member.extension == "json":
            return uid_of_json(data[member.start : member.start + member.size])
    return NO_JSON


class _Output:
    """Output tars of one group, `shard_size` samples each."""

    def __init__(self, store: Store, task: GroupTask) -> None:
        self._store, self._task = store, task
        self._writer: Any = None
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self._samples = 0
        self._files: list[File] = []

    def add(self, parts: Sequence[tuple[str, Part]], uid: bytes, copies: int) -> None:
        for copy in range(copies):
            if self._writer is None:
                stem = f"work/{self._task.group:05d}-{len(self._files):05d}"
                self._writer = self._store.create(attempt_name(stem, ".tar"))
                self._writer.__enter__()
            for extension, part in parts:
                name = b"%b-%d.%b" % (uid, copy, extension.encode("ascii"))
                size = len(part)
                self._held += (header(name, size), part, padding(size))
                self._held_bytes += size
            if self._held_bytes >= WRITE_BYTES:
                self.flush()
            self._samples += 1
            if self._samples == self._task.shard_size:
                self._end()

    def flush(self) -> None:
        """Write what is held: few large pieces cost less than many small ones."""
        if self._held:
            self._writer.write(b"".join(self._held))
        self._held, self._held_bytes = [], 0

    def _end(self) -> None:
        self.flush()
        writer, self._writer = self._writer, None
        writer.write(END)
        writer.__exit__(None, None, None)
        self._files.append(writer.file(num_rows=self._samples))
        self._samples = 0

    def close(self) -> tuple[File, ...]:
        if self._writer is not None:
            self._end()
        return tuple(self._files)

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.__exit__(RuntimeError, RuntimeError("abandoned"), None)


def iter_samples(uri: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of every sample of a folder of tars, for tests and small uses."""
    store = open_store(uri)
    for name in _tars(store):
        data = memoryview(store.read_bytes(name))
        for sample in samples(data, f"{store.uri}/{name}"):
            content = {m.extension: bytes(data[m.start : m.start + m.size]) for m in sample}
            yield sample[0].key.decode(), content
