"""Scores of a pool's images: CLIP similarity by any model, or perceptual hashes, one column per
scorer.

Images are in tars, rows in tables, and only uids join them: every tar gives (uid, score), every
table (uid, row), both in parts by leading bits of the uid; each part is joined on its own and sent
to the tables; each table writes its column. Nothing grows with the pool, and any number of workers
writes the same bytes. A folder of scores has `index.json` (which column belongs to which table, by
its hash), one parquet file a table, and `record.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datacomp.curation.scorers import Floats, ImageFault, ScorerSpec, loaded
from pipelines import kernels
from pipelines.errors import PoolError
from pipelines.execution.executors import MapTasks, Needs, Placed
from pipelines.execution.once import once
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import InputShard, Pool
from pipelines.formats.tars import Member, is_tar, samples, tar_bytes
from pipelines.formats.uid_lists import look_up
from pipelines.formats.uid_subset import bucket_of
from pipelines.formats.writers import write_table
from pipelines.global_steps.merged_files import Merger
from pipelines.images.pairs import UID, Index, read_uids, write_index
from pipelines.images.sample_json import read_json
from pipelines.records import (
    AssetRecord,
    AssetRef,
    AssetWork,
    File,
    Frozen,
    digest,
    made_by,
    now,
)
from pipelines.schema import ROW_BITS, ROW_MASK
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, standing
from pipelines.storage.commits import Done, attempt_name, done_name
from pipelines.storage.open import open_store
from pipelines.storage.part_files import read_parts, write_by

IMAGE = ("jpg", "jpeg", "png", "webp")
CHUNK = 512  # pairs that a scorer sees at once
BUCKET_ROWS = 4 << 20  # rows of one task of the join: about 256 MB
SCORED = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("score", pa.float64())])
KEYED = pa.schema([("high", pa.uint64()), ("low", pa.uint64()), ("row", pa.int64())])
FOUND = pa.schema([("row", pa.int64()), ("score", pa.float64())])


class TarTask(Frozen):
    """Score the pairs of one tar."""

    uri: str
    key: str
    tars: str
    tar: str
    scorer: ScorerSpec
    buckets: int
    quarantine: bool
    step: int = 0


class TableTask(Frozen):
    """Tell which rows of one table have which uid."""

    uri: str
    key: str
    tables: str
    table: str
    number: int
    buckets: int
    step: int = 1


class JoinTask(Frozen):
    """Bring scores to rows, for the uids of one part."""

    uri: str
    key: str
    bucket: int
    scored: tuple[str, ...]
    keyed: tuple[str, ...]
    step: int = 2


class ColumnTask(Frozen):
    """Write the column of one table."""

    uri: str
    key: str
    number: int
    name: str
    rows: int
    match_files: tuple[str, ...]
    step: int = 3


def score(
    pool: Pool,
    tars: str,
    *,
    scorer: ScorerSpec,
    scorer_id: str,
    name: str,
    out: str,
    map_tasks: MapTasks,
    quarantine: bool = False,
) -> AssetRecord:
    """Score every pair that has an image; write a column for each table of the pool.

    `scorer_id` says which weights; it is in the record, and with it in every dataset that the
    scores select. Rows whose image is in no tar stay without a score. PoolError names a tar, a
    sample and what is wrong with its image; with `quarantine` it stays without a score, counted.
    """
    started = now()
    store, source = open_store(out), open_store(tars)
    work, names = _work(source, scorer, scorer_id, name=name, quarantine=quarantine)
    parents = {"pool": pool.record.id}
    key = AssetRecord.key_of(work=work, parents=parents)
    done_before = standing(store, key=key, kind=AssetRecord, other="another scorer, pool or tars")
    if done_before is not None:
        return done_before
    buckets = max(1, -(-pool.num_bytes // (BUCKET_ROWS * 64)))  # about 64 bytes of table a row
    common: dict[str, Any] = {"uri": store.uri, "buckets": buckets}
    scored = _map(
        f"score {name}",
        run_tar,
        [
            TarTask(
                **common,
                key=f"s0-{number:06d}-{key[:16]}",
                tars=source.uri,
                tar=tar,
                scorer=scorer,
                quarantine=quarantine,
            )
            for number, tar in enumerate(names)
        ],
        _with_gpus(map_tasks) if scorer.kind == "clip" else map_tasks,
    )
    keyed = _map(
        "read uids",
        run_table,
        [
            TableTask(
                **common,
                key=f"rows-{n:06d}-{key[:16]}",
                tables=pool.uri,
                table=shard.name,
                number=n,
            )
            for n, shard in enumerate(pool.shards)
        ],
        map_tasks,
    )
    merge = Merger(store, 2, key, map_tasks)
    joined = _join(merge, buckets, scored, keyed)
    columns = _write_columns(merge, pool, keyed, joined)
    named = [
        _settle(store, result.files[0], s) for result, s in zip(columns, pool.shards, strict=True)
    ]
    files = {shard.sha256: file for shard, file in zip(pool.shards, named, strict=True)}
    file = write_index(store, Index(id=key, scorer=scorer_id, files=files))
    record = AssetRecord.seal(
        work=work,
        parents=parents,
        outputs=[file, *named],
        counts=_totals([*scored, *columns]),
        made_by=made_by(started, locations={"tars": source.uri, "pool": pool.uri}),
    )
    for result in [*scored, *keyed, *joined, *merge.made]:
        store.remove(result.files[0].name)
    for result in [*scored, *keyed, *joined, *merge.made, *columns]:
        store.remove(done_name(result.key))
    write_bytes(store, RECORD, record.to_json())
    return record


def _with_gpus(map_tasks: MapTasks) -> MapTasks:
    """The executor for tasks that run a CLIP: a GPU each, where there are any."""
    if not isinstance(map_tasks, Placed):
        return map_tasks
    return map_tasks.with_needs(Needs(num_gpus=1, optional_gpus=True))


def _work(
    source: Store, scorer: ScorerSpec, scorer_id: str, *, name: str, quarantine: bool
) -> tuple[AssetWork, list[str]]:
    """What is asked of these tars, and their names. PoolError when there are none."""
    names = [entry.name for entry in source.list() if is_tar(entry.name)]
    sizes = {entry.name: entry.num_bytes for entry in source.list()}
    if not names:
        raise PoolError(f"there are no tars of images below {source.uri}; name them with --tars")
    work = AssetWork(
        name=name,
        licence="derived from the pool",
        inputs=(AssetRef(name=scorer.kind, sha256=scorer_id),),
        parameters={
            "tars": digest([[tar, sizes[tar]] for tar in names]),
            "quarantine": quarantine,
        },
    )
    return work, names


def _join(merge: Merger, buckets: int, scored: Sequence[Done], keyed: Sequence[Done]) -> list[Done]:
    """Bring the scores to rows, a part of the uids at a time."""
    files = {
        what: tuple(merge(what, [result.files[0].name for result in done], readers=buckets))
        for what, done in (("scored", scored), ("keyed", keyed))
    }
    tasks = [
        JoinTask(
            uri=merge.store.uri, key=f"s2-{bucket:06d}-{merge.state[:16]}", bucket=bucket, **files
        )
        for bucket in range(buckets)
    ]
    return _map("join", run_join, tasks, merge.map_tasks)


def _write_columns(
    merge: Merger, pool: Pool, keyed: Sequence[Done], joined: Sequence[Done]
) -> list[Done]:
    """Write the column of every table of the pool."""
    matches = merge("matches", [done.files[0].name for done in joined], readers=len(keyed))
    tasks = [
        ColumnTask(
            uri=merge.store.uri,
            key=f"s3-{n:06d}-{merge.state[:16]}",
            number=n,
            name=_column_file(shard),
            rows=result.counts["rows"],
            match_files=tuple(matches),
        )
        for n, (shard, result) in enumerate(zip(pool.shards, keyed, strict=True))
    ]
    return _map("write scores", run_column, tasks, merge.map_tasks)


def _map(title: str, run: Any, tasks: Sequence[Any], map_tasks: MapTasks) -> list[Done]:
    with progress_step(title, total=len(tasks), unit="files") as bar:
        return map_tasks(run, tasks, on_result=lambda *_: bar.advance())


def _totals(done: Sequence[Done]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for result in done:
        for name, number in result.counts.items():
            totals[name] = totals.get(name, 0) + number
    return dict(sorted(totals.items()))


def _settle(store: Store, file: File, shard: InputShard) -> File:
    """Give a column the name of its table, without the mark of the attempt that made it."""
    name = f"{_column_file(shard)}.parquet"
    store.move(file.name, name)
    return file.model_copy(update={"name": name})


def _column_file(shard: InputShard) -> str:
    return shard.name.rpartition("/")[2].removesuffix(".parquet")


# ---- tars


@once
def run_tar(task: TarTask, store: Store) -> Done:
    """(uid, score) of every pair of a tar."""
    scorer = loaded(task.scorer)
    uids: list[str] = []
    score_parts: list[Floats] = []
    counts = {"pairs": 0}
    for chunk in _chunks(task):
        counts["pairs"] += len(chunk)
        chunk = [pair for pair in chunk if not _counted(pair.fault, counts)]
        scores = np.full(len(chunk), np.nan)
        left = list(range(len(chunk)))
        while left:
            try:
                scores[left] = scorer(
                    [chunk[n].image for n in left], [chunk[n].caption for n in left]
                )
                break
            except ImageFault as fault:
                bad = chunk[left.pop(fault.index)]
                if not task.quarantine:
                    raise PoolError(
                        f"{task.tars}/{task.tar}, sample {bad.key}: the image does not decode: "
                        f"{fault.reason}; repair it, or run with --quarantine to leave such "
                        "images without a score"
                    ) from None
                counts["no_picture"] = counts.get("no_picture", 0) + 1
        uids += [pair.uid for pair in chunk]
        score_parts.append(scores)
    high, low, bad_uid = kernels.uids.parse(pa.array(uids, pa.large_string()))
    score = np.concatenate(score_parts) if score_parts else np.zeros(0)
    whole = ~(bad_uid | np.isnan(score))
    counts["no_uid"] = int(bad_uid.sum())
    columns: list[npt.NDArray[Any]] = [high[whole], low[whole], score[whole]]
    parts = bucket_of(high[whole], task.buckets)
    file = write_by(store, attempt_name(f"work/{task.key}", ".parts"), SCORED, parts, columns)
    return Done(key=task.key, files=(file,), counts={k: v for k, v in counts.items() if v})


class _Pair(Frozen):
    key: str
    uid: str
    caption: str
    image: bytes
    fault: str | None = None


def _counted(fault: str | None, counts: dict[str, int]) -> bool:
    if fault is not None:
        counts[fault] = counts.get(fault, 0) + 1
    return fault is not None


def _chunks(task: TarTask) -> Iterator[list[_Pair]]:
    source = open_store(task.tars)
    with tar_bytes(source, task.tar) as data:
        chunk = []
        for sample in samples(data, f"{source.uri}/{task.tar}"):
            chunk.append(_pair(data, sample))
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _pair(data: memoryview, sample: Sequence[Member]) -> _Pair:
    """The parts of a sample that a scorer needs; `fault` says which it lacks."""
    parts = {m.extension: bytes(data[m.start : m.start + m.size]) for m in sample}
    key = sample[0].key.decode("utf-8", "replace")
    image = next((parts[suffix] for suffix in IMAGE if suffix in parts), None)
    try:
        uid = read_json(parts["json"])[UID]
    except (KeyError, TypeError, ValueError):
        uid = None
    fault = None
    if image is None:
        fault = "no_picture"
    elif not isinstance(uid, str):
        fault = "no_uid"
    caption = parts.get("txt", b"").decode("utf-8", "replace")
    return _Pair(
        key=key,
        uid=uid if isinstance(uid, str) else "",
        caption=caption,
        image=image or b"",
        fault=fault,
    )


# ---- tables


@once
def run_table(task: TableTask, store: Store) -> Done:
    """(uid, row) of every row of a table that has a uid; the row's number in all of the pool."""
    highs, lows, rows = [], [], []
    total = 0
    for uids, places in read_uids(open_store(task.tables), task.table):
        high, low, bad = kernels.uids.parse(uids)
        highs.append(high[~bad])
        lows.append(low[~bad])
        rows.append(places[~bad] | task.number << ROW_BITS)
        total += len(uids)
    leading = np.concatenate(highs)
    columns: list[npt.NDArray[Any]] = [leading, np.concatenate(lows), np.concatenate(rows)]
    parts = bucket_of(leading, task.buckets)
    file = write_by(store, attempt_name(f"work/{task.key}", ".parts"), KEYED, parts, columns)
    return Done(key=task.key, files=(file,), counts={"rows": total})


@once
def run_join(task: JoinTask, store: Store) -> Done:
    """(row, score) for the rows of each table whose uid has a score; the first tar's counts."""
    high, low, scores = read_parts(store, task.scored, task.bucket, SCORED)
    order = np.lexsort((np.arange(len(high)), low, high))
    known = np.empty(len(order), kernels.uids.SUBSET)
    known["f0"], known["f1"] = high[order], low[order]
    pool_high, pool_low, row = read_parts(store, task.keyed, task.bucket, KEYED)
    matches = _find(known, pool_high, pool_low)
    scored = matches >= 0
    table = row[scored] >> ROW_BITS
    columns = [row[scored] & ROW_MASK, scores[order[matches[scored]]]]
    file = write_by(store, attempt_name(f"work/{task.key}", ".parts"), FOUND, table, columns)
    return Done(key=task.key, files=(file,))


def _find(
    known: npt.NDArray[Any], high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """The first place of each uid among sorted ones, -1 where it is not."""
    first, count = look_up(known, high, low)
    return np.where(count > 0, first, -1)


@once
def run_column(task: ColumnTask, store: Store) -> Done:
    """The scores of one table in the order of its rows, null where there is none."""
    row, score = read_parts(store, task.match_files, task.number, FOUND)
    values = np.full(task.rows, np.nan)
    values[row] = score
    missing = np.isnan(values)
    column = pa.array(values, mask=missing)
    file = write_table(
        store, attempt_name(f"data/{task.name}", ".parquet"), pa.table({"score": column})
    )
    counts = {"rows": task.rows, "scored": int((~missing).sum())}
    return Done(key=task.key, files=(file,), counts=counts)
