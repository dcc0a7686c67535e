"""Pack a dataset's list of uids and its pool's tars into arrays that training maps into memory.

    images-00000.npy   float16, (images, channels, height, width), in the order of the list
    rows.parquet       uid, corruption, level, seed, label, sigma_min, weight of each image

`sigma_min` and `weight` are those the pipeline wrote, else the default rule: a noisy image teaches
above its own level, a masked one everywhere. For blur, missing Fourier lines and unknown corruption
there is no such rule: a pipeline has to say from which level on they teach. An image whose
sigma_min is below its level counts as clean from there on: its level is 0 in the packed table.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ambient.pool.pool import read_images
from ambient.recipe import Recipe
from pipelines import kernels
from pipelines.errors import PackError
from pipelines.execution.executors import MapTasks
from pipelines.formats.uid_lists import check_sorted, load_subset, look_up
from pipelines.formats.uid_subset import SUBSET_FILE, VALUES, read_values
from pipelines.formats.writers import write_table
from pipelines.images.pairs import METADATA, SHARDS
from pipelines.records import (
    DatasetRecord,
    File,
    Frozen,
    PackedRecord,
    PackedWork,
    RecordError,
    made_by,
    now,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, read_chain, standing, write_chain
from pipelines.storage.open import open_store

ROWS = "rows.parquet"
COLUMNS = ("corruption", "level", "seed", "label")


class ShardTask(Frozen):
    """One packed shard: the images of a range of the list, read from the pool's tars."""

    pool: str
    subset: str
    out: str
    number: int
    begin: int
    end: int
    tars: tuple[str, ...]
    shape: tuple[int, int, int]


def pack_dataset(dataset: str, *, recipe: Recipe, out: str, map_tasks: MapTasks) -> PackedRecord:
    """Pack a curated dataset; returns its record, also if it was packed before.

    PackError when an image has another size than the recipe's, when one is missing in the tars,
    or when a row has no noise level above which it may be used.
    """
    started = now()
    source, store = open_store(dataset), open_store(out)
    record = read_chain(source)[-1]
    if not isinstance(record, DatasetRecord) or record.work.output.get("format") != "uids":
        raise RecordError(f"{dataset} holds no list of uids; make one with `ambient curate`")
    shape = (recipe.channels, recipe.resolution, recipe.resolution)
    work = PackedWork(
        mode="ambient",
        layout="arrays",
        parameters={
            "shard_size": recipe.shard_size,
            "resolution": recipe.resolution,
            "channels": recipe.channels,
        },
    )
    parents = {"dataset": record.id}
    key = PackedRecord.key_of(work=work, parents=parents)
    before = standing(store, key=key, kind=PackedRecord, other="another dataset or recipe")
    if before is not None:
        return before
    subset = f"{dataset.rstrip('/')}/{SUBSET_FILE}"
    uids = load_subset(subset)
    check_sorted(uids, subset)
    if not len(uids):
        raise PackError(f"{dataset} has no images; let the pipeline keep some")
    pool = open_store(record.made_by.locations["pool"])
    tars = tuple(sorted(e.name for e in pool.list(f"{SHARDS}/") if e.name.endswith(".tar")))
    if not tars:
        raise PackError(f"the pool in {pool.uri} has no tars below {SHARDS}/")
    table = rows_of(pool, uids, read_values(source, len(uids)))
    starts = range(0, len(uids), recipe.shard_size)
    tasks = [
        ShardTask(
            pool=pool.uri,
            subset=subset,
            out=store.uri,
            number=number,
            begin=begin,
            end=min(begin + recipe.shard_size, len(uids)),
            tars=tars,
            shape=shape,
        )
        for number, begin in enumerate(starts)
    ]
    files = list(map_tasks(pack_shard, tasks))
    files.append(write_table(store, ROWS, table))
    sealed = PackedRecord.seal(
        work=work,
        parents=parents,
        outputs=files,
        counts={"images": len(uids), "shards": len(tasks), **_counts(table)},
        made_by=made_by(started, locations={"pool": pool.uri, "out": store.uri}),
    )
    write_chain(store, read_chain(source))
    write_bytes(store, RECORD, sealed.to_json())
    return sealed


def rows_of(pool: Store, uids: Any, values: npt.NDArray[np.float32]) -> pa.Table:
    """The columns that training reads, in order of `uids`. PackError for a row it cannot use."""
    columns: dict[str, list[Any]] = {name: [None] * len(uids) for name in COLUMNS}
    known = np.zeros(len(uids), bool)
    for entry in pool.list(f"{METADATA}/"):
        if not entry.name.endswith(".parquet"):
            continue
        with pool.open(entry.name) as file:
            table = pq.read_table(file, columns=["uid", *COLUMNS])
        high, low, _ = kernels.uids.parse(_strings(table["uid"]))
        first, count = look_up(uids, high, low)
        here = table.to_pydict()
        for row in np.flatnonzero(count).tolist():
            for position in range(first[row], first[row] + count[row]):
                known[position] = True
                for name in COLUMNS:
                    columns[name][position] = here[name][row]
    if not known.all():
        missing = int(np.flatnonzero(~known)[0])
        raise PackError(f"the pool in {pool.uri} has no image {uid_text(uids, missing)}")
    kinds = np.array(columns["corruption"], object)
    level = np.array(
        [
            0.0 if kind != "gaussian" else value
            for kind, value in zip(kinds, columns["level"], strict=True)
        ],
        np.float32,
    )
    sigma_min, weight = values[:, VALUES.index("sigma_min")], values[:, VALUES.index("weight")]
    unsaid = np.isnan(sigma_min)
    without_rule = unsaid & np.isin(kinds, ("blur", "fourier", "unknown"))
    if without_rule.any():
        kind = kinds[int(np.flatnonzero(without_rule)[0])]
        raise PackError(
            f"{int(without_rule.sum())} images have the corruption {kind!r} and no sigma_min: say "
            "from which level on they teach with a step noise_level, or leave them out with "
            "corruption"
        )
    used = np.where(unsaid, level, sigma_min)
    weight = np.where(np.isnan(weight), 1.0, weight)
    if not weight.sum() > 0:
        raise PackError("all images have weight 0: nothing would be drawn")
    strength = np.array(columns["level"], np.float64)
    return pa.table(
        {
            "uid": pa.array(
                [uid_text(uids, position) for position in range(len(uids))], pa.string()
            ),
            "corruption": pa.array(columns["corruption"], pa.string()),
            "level": pa.array(np.where(used < level, 0.0, level), pa.float32()),
            "strength": pa.array(strength, pa.float64()),
            "seed": pa.array(columns["seed"], pa.int64()),
            "label": pa.array(columns["label"], pa.int64()),
            "sigma_min": pa.array(used, pa.float32()),
            "weight": pa.array(weight, pa.float32()),
        }
    )


def _strings(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(pa.large_string()).combine_chunks()


def uid_text(uids: Any, position: int) -> str:
    """The 32 digits of a record of the list."""
    return f"{int(uids['f0'][position]):016x}{int(uids['f1'][position]):016x}"


def pack_shard(task: ShardTask) -> File:
    """Write the images of one range of the list. PackError names one that does not fit."""
    pool, store = open_store(task.pool), open_store(task.out)
    uids = load_subset(task.subset)[task.begin : task.end]
    images = np.zeros((len(uids), *task.shape), np.float16)
    there = np.zeros(len(uids), bool)
    for name in task.tars:
        for uid, image in read_images(pool, name):
            high, low, _ = kernels.uids.parse(pa.array([uid], pa.large_string()))
            first, count = look_up(uids, high, low)
            for position in range(int(first[0]), int(first[0] + count[0])):
                if image.shape != task.shape:
                    raise PackError(
                        f"image {uid} in {name} is {image.shape}, the recipe has {task.shape}: "
                        "resizing would change its noise; build the pool at the recipe's resolution"
                    )
                images[position], there[position] = image, True
        if there.all():
            break
    if not there.all():
        missing = uid_text(uids, int(np.flatnonzero(~there)[0]))
        raise PackError(f"no tar of {pool.uri}/{SHARDS} has the image {missing}")
    if not np.isfinite(images).all():
        raise PackError(f"{pool.uri}: an image has values that are not finite")
    data = io.BytesIO()
    np.save(data, images)
    return write_bytes(store, f"images-{task.number:05d}.npy", data.getvalue())


def _counts(table: pa.Table) -> dict[str, int]:
    counted = pc.value_counts(table["corruption"]).to_pylist()
    return {f"images/{entry['values']}": int(entry["counts"]) for entry in counted}
