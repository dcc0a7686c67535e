"""Estimated noise levels of a pool that withholds its corruption, and how they compare with it.

    index.json          which file belongs to which table of the pool, by its hash
    00000000.parquet    score: the level from which on each image may teach, in the table's order
    record.json

The step `scores` of a pipeline reads such a folder as a column. Clean images have 0; images that
never pass for clean have no score. (Daras et al. 2025, arXiv 2506.10038)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ambient.pool.pool import hash_of_rows, read_images
from ambient.systems.unknown_level import THRESHOLD, sigma_mins, train_classifier
from pipelines import kernels
from pipelines.errors import DataError, PoolError
from pipelines.formats.pool import Pool
from pipelines.formats.uid_lists import load_subset, look_up
from pipelines.formats.uid_subset import SUBSET_FILE, VALUES, read_values
from pipelines.formats.writers import write_table
from pipelines.images.pairs import METADATA, SHARDS, Index, write_index
from pipelines.records import (
    AssetRecord,
    AssetWork,
    DatasetRecord,
    Frozen,
    PoolRecord,
    RecordError,
    made_by,
    now,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, read_chain, standing
from pipelines.storage.open import open_store

NAME = "sigma_min"  # of the scores, as the baselines of track `unknown` call them
FEWEST = 16  # clean images below which a classifier would only know them by heart
AT_MOST = 20_000  # images of each kind that the classifier learns from: bounds memory
LEVELS = np.geomspace(0.03, 4.0, 22)  # candidates, from below the least noise of training


def estimate(pool: Pool, *, out: str, num_steps: int, seed: int) -> AssetRecord:
    """Write the estimates of a pool's images. PoolError where there are too few of either kind."""
    started, store, source = now(), open_store(out), open_store(pool.uri)
    work = AssetWork(
        name=NAME,
        licence="derived from the pool",
        inputs=(),
        parameters={"steps": num_steps, "seed": seed, "threshold": THRESHOLD},
    )
    parents = {"pool": pool.record.id}
    key = AssetRecord.key_of(work=work, parents=parents)
    before = standing(store, key=key, kind=AssetRecord, other="another pool or seed")
    if before is not None:
        return before
    sets: dict[bool, list[npt.NDArray[np.float32]]] = {True: [], False: []}
    for _, clean, images in _shards(source, pool):
        for kind, rows in sets.items():
            room = AT_MOST - sum(map(len, rows))
            rows.append(images[clean == kind][: max(0, room)])
    known, others = (torch.from_numpy(np.concatenate(sets[kind])) for kind in (True, False))
    if min(len(known), len(others)) < FEWEST:
        raise PoolError(
            f"{pool.uri} has {len(known)} clean and {len(others)} other images; levels are "
            f"estimated from at least {FEWEST} of each"
        )
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = train_classifier(known, others, num_steps=num_steps, generator=generator)
    files, counts = {}, {"images": 0, "never": 0}
    levels = torch.from_numpy(LEVELS).float()
    for shard, clean, images in _shards(source, pool):
        values = np.zeros(len(images))
        if not clean.all():
            unknown = torch.from_numpy(images[~clean])
            values[~clean] = sigma_mins(net, unknown, levels, generator=generator).numpy()
        never = np.isinf(values)
        counts["images"] += len(values)
        counts["never"] += int(never.sum())
        name = shard.name.rpartition("/")[2]
        column = pa.table({"score": pa.array(values, pa.float64(), mask=never)})
        files[shard.sha256] = write_table(store, name, column)
    index = write_index(store, Index(id=key, scorer=NAME, files=files))
    record = AssetRecord.seal(
        work=work,
        parents=parents,
        outputs=[index, *files.values()],
        counts=counts,
        made_by=made_by(started, locations={"pool": pool.uri}),
    )
    write_bytes(store, RECORD, record.to_json())
    return record


def _shards(
    source: Store, pool: Pool
) -> Iterator[tuple[Any, npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
    """Each table with which of its images are clean, and the images in the table's order."""
    for shard in pool.shards:
        with source.open(shard.name) as file:
            table = pq.read_table(file, columns=["uid", "corruption"])
        tar = shard.name.replace(METADATA, SHARDS, 1).replace(".parquet", ".tar")
        by_uid = dict(read_images(source, tar))
        missing = [uid for uid in table["uid"].to_pylist() if uid not in by_uid]
        if missing:
            raise PoolError(f"{source.uri}/{tar} has no image {missing[0]}, which its table names")
        images = np.stack([by_uid[uid] for uid in table["uid"].to_pylist()]).astype(np.float32)
        yield shard, np.array([kind == "none" for kind in table["corruption"].to_pylist()]), images


class Revealed(Frozen):
    """What a dataset took of one corruption: how many images, and from which level they teach."""

    corruption: str
    level: float
    in_pool: int
    kept: int
    sigma_min: float | None


def reveal(dataset: str, withheld: Path) -> list[Revealed]:
    """A dataset next to the organiser's table, by kind and level; None: nothing was written.

    RecordError where the table is not the one that the pool's record names.
    """
    store = open_store(dataset)
    chain = read_chain(store)
    pool, record = chain[0], chain[-1]
    if not isinstance(pool, PoolRecord):
        raise RecordError(f"{dataset} has no record of its pool")
    if not isinstance(record, DatasetRecord) or record.work.output.get("format") != "uids":
        raise RecordError(f"{dataset} holds no list of uids; make one with `ambient curate`")
    named = pool.work.parameters.get("withheld")
    if named is None:
        raise RecordError(f"the pool of {dataset} withholds nothing")
    uids = load_subset(f"{dataset.rstrip('/')}/{SUBSET_FILE}")
    sigma_min = read_values(store, len(uids))[:, VALUES.index("sigma_min")]
    try:
        table = pq.read_table(withheld)
        right = hash_of_rows(table) == named
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{withheld} is no organiser's table: {error}") from None
    if not right:
        raise RecordError(f"{withheld} is not the table that the pool of {dataset} withholds")
    high, low, _ = kernels.uids.parse(table["uid"].cast(pa.large_string()).combine_chunks())
    first, count = look_up(uids, high, low)
    pairs = list(zip(table["corruption"].to_pylist(), table["level"].to_pylist(), strict=True))
    rows = []
    for kind, level in sorted(set(pairs)):
        among = np.array([pair == (kind, level) for pair in pairs])
        kept = first[among & (count > 0)]
        values = sigma_min[kept]
        values = values[~np.isnan(values)]
        median = float(np.median(values)) if len(values) else None
        rows.append(
            Revealed(
                corruption=kind,
                level=level,
                in_pool=int(among.sum()),
                kept=len(kept),
                sigma_min=median,
            )
        )
    return rows
