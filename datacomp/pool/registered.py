"""Data that was curated elsewhere: a list of uids, or a table of pairs, as a dataset with a record.

Everything after it is the same: packing, training, evaluation. The record says `external`, so the
filtering track does not take it; what can be checked is checked.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from datacomp.options import RegisterOptions
from leaderboard.benchmark import Registered
from pipelines import kernels
from pipelines.errors import PoolError, SubsetError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step as progress_step
from pipelines.formats.pool import Pool
from pipelines.formats.uid_lists import load_subset, look_up, sha256_of, write_subset
from pipelines.formats.uid_subset import SUBSET_FILE
from pipelines.images.own_images import import_folder, import_tars
from pipelines.images.pairs import check_columns, open_pairs, read_uids
from pipelines.records import DatasetRecord, DatasetWork, PoolRecord, PoolWork, made_by, now
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, write_chain
from pipelines.storage.open import open_store

Subset = npt.NDArray[np.void]


def register(options: RegisterOptions, *, out: str, name: str, map_tasks: MapTasks) -> Registered:
    """Data in one of five forms as a dataset. PoolError when it is none of them, or several.

    Of images on disk a pool is made first, in `OUT/pool`: tables and tars, as `datacomp pack` reads
    them.
    """
    forms = (options.uids, options.parquet, options.folder, options.webdataset, options.img2dataset)
    if sum(value is not None for value in forms) != 1:
        raise PoolError(
            "say what is registered: one of --uids, --parquet, --folder, --webdataset and "
            "--img2dataset"
        )
    if options.captions is not None and options.folder is None:
        raise PoolError("--captions goes with --folder")
    if options.uids is not None:
        known = open_pairs(options.pool) if options.pool is not None else None
        return Registered(register_uids(options.uids, out=out, name=name, pool=known), {})
    tables, left_out = options.parquet, {}
    if tables is None:
        tables = f"{out.rstrip('/')}/pool"
        counts = import_images(
            tables,
            folder=options.folder,
            tars=options.webdataset or options.img2dataset,
            captions=options.captions,
            map_tasks=map_tasks,
        )
        left_out = {reason: number for reason, number in counts.items() if reason != "images"}
    return Registered(register_tables(open_pairs(tables), out=out, name=name), left_out)


def register_uids(file: str, *, out: str, name: str, pool: Pool | None = None) -> DatasetRecord:
    """A list of uids (`u8,u8`, .npy or raw, sorted or not) as a dataset in `out`.

    With `pool`, every uid must be in its tables. SubsetError says how many are not, and names one.
    """
    started = now()
    ids = load_subset(file)
    if not len(ids):
        raise SubsetError(f"{file} holds no uid; look at what wrote it")
    places = kernels.uids.order(ids["f0"], ids["f1"])
    ids = ids[places]
    counts = {"rows_in": len(ids), "rows_out": len(ids)}
    if pool is not None:
        lost = _missing(ids, pool)
        if len(lost):
            first = f"{int(lost[0]['f0']):016x}{int(lost[0]['f1']):016x}"
            raise SubsetError(
                f"{file}: {len(lost):,} of {len(ids):,} uids are not in the pool {pool.uri}, as "
                f"{first}; register them without --pool for the track byod"
            )
    return _write(ids, out=out, name=name, started=started, counts=counts, pool=pool)


def register_tables(pool: Pool, *, out: str, name: str) -> DatasetRecord:
    """All pairs of a participant's own tables (columns url, text, and uid if they have some).

    A row without a uid gets that of its address and caption. The tables' images are fetched by
    `datacomp download`, with the same uids.
    """
    started = now()
    store = open_store(pool.uri)
    parts = []
    with progress_step("read tables", total=len(pool.shards), unit="tables") as bar:
        for shard in pool.shards:
            check_columns(store, shard.name, ["url", "text"])
            parts += list(_uids(store, shard.name))
            bar.advance()
    if not any(len(highs) for highs, _ in parts):
        raise SubsetError(f"the tables of {pool.uri} hold no pair; look at what wrote them")
    high = np.concatenate([highs for highs, _ in parts])
    low = np.concatenate([lows for _, lows in parts])
    places = kernels.uids.order(high, low)
    ids = np.empty(len(places), kernels.uids.SUBSET)
    ids["f0"], ids["f1"] = high[places], low[places]
    counts = {"rows_in": len(ids), "rows_out": len(ids)}
    return _write(ids, out=out, name=name, started=started, counts=counts, pool=pool)


def import_images(
    out: str,
    *,
    folder: str | None,
    tars: str | None,
    captions: str | None,
    map_tasks: MapTasks,
) -> dict[str, int]:
    """Make a pool of a folder of images or of tars; images taken, and left out by reason."""
    if folder is not None:
        return import_folder(folder, out=out, map_tasks=map_tasks, captions=captions).counts
    assert tars is not None
    return import_tars(tars, out=out, map_tasks=map_tasks).counts


def _uids(
    store: Store, name: str
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    for column, rows in read_uids(store, name):
        high, low, bad = kernels.uids.parse(column)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise SubsetError(
                f"{store.uri}/{name}, row {int(rows[row])}: the uid is "
                f"{column[row].as_py()!r}, expected 32 lower-case hexadecimal digits"
            )
        yield high, low


def _missing(ids: Subset, pool: Pool) -> Subset:
    """Those of the sorted uids that no table of the pool has."""
    seen = np.zeros(len(ids), dtype=bool)
    leading = np.ascontiguousarray(ids["f0"])
    store = open_store(pool.uri)
    with progress_step("look for uids", total=len(pool.shards), unit="tables") as bar:
        for shard in pool.shards:
            for uids, _ in read_uids(store, shard.name):
                high, low, bad = kernels.uids.parse(uids)
                first, count = look_up(ids, high[~bad], low[~bad], leading=leading)
                for row in np.flatnonzero(count).tolist():
                    seen[first[row] : first[row] + count[row]] = True
            bar.advance()
    return ids[~seen]


def _write(
    ids: Subset, *, out: str, name: str, started: str, counts: dict[str, int], pool: Pool | None
) -> DatasetRecord:
    store = open_store(out)
    if store.exists(RECORD):
        raise SubsetError(f"{store.uri} holds a dataset already; choose another --out")
    ancestor = pool.record if pool is not None else _unknown_pool(started)
    file = write_subset(store, SUBSET_FILE, ids)
    record = DatasetRecord.seal(
        work=DatasetWork(
            pipeline={"name": name, "steps": []},
            external=True,
            output={"format": "uids", "sha256": sha256_of(ids)},
        ),
        parents={"pool": ancestor.id},
        outputs=[file],
        counts={**counts, "errors": 0},
        made_by=made_by(
            started,
            # a submission reads its list of uids from `out`
            locations={"out": store.uri} | ({"pool": pool.uri} if pool is not None else {}),
        ),
    )
    write_chain(store, [ancestor])
    write_bytes(store, RECORD, record.to_json())
    return record


def _unknown_pool(started: str) -> PoolRecord:
    return PoolRecord.seal(
        work=PoolWork(name="unknown", variant="external", sources=()),
        parents={},
        made_by=made_by(started),
    )
