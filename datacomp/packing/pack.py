"""A dataset's list of uids and its pool's tars to training shards with a PackedRecord.

Shards that the reference's resharder made elsewhere are registered: they can be trained on, and the
record says that nobody here has seen how they were made.
"""

from __future__ import annotations

from typing import Any

import orjson

from datacomp.options import PackOptions
from datacomp.recipe import Recipe
from pipelines.errors import PackError
from pipelines.execution.executors import MapTasks
from pipelines.formats.tars import is_tar
from pipelines.formats.uid_lists import load_subset, sha256_of
from pipelines.formats.uid_subset import SUBSET_FILE
from pipelines.images import reshard
from pipelines.images.faces import FaceOptions
from pipelines.images.image_tars import tar_folders, tars_of_tables
from pipelines.images.packed_shards import META, SAMPLE_IDS, Packed
from pipelines.records import (
    AssetRecord,
    DatasetRecord,
    DatasetWork,
    File,
    PackedRecord,
    PackedWork,
    PoolRecord,
    PoolWork,
    RecordError,
    made_by,
    now,
    parse_record,
    sha256_file,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import RECORD, read_chain, standing, write_chain
from pipelines.storage.open import open_store


def pack_dataset(
    dataset: str, *, recipe: Recipe, out: str, map_tasks: MapTasks, tars: str | None = None
) -> PackedRecord:
    """Pack a curated dataset; returns its record, also when it was there before.

    `tars` is where the pool's tars are; by default in the folder `shards` of the pool that the
    dataset was curated from. PackError when there are none, or when no uid of the list is in them.
    """
    started = now()
    source, store = open_store(dataset), open_store(out)
    record = read_chain(source)[-1]
    if not isinstance(record, DatasetRecord) or record.work.output.get("format") != "uids":
        raise RecordError(f"{dataset} holds no list of uids; make one with `datacomp curate`")
    subset = f"{dataset.rstrip('/')}/{SUBSET_FILE}"
    _check_file(source, record.outputs[0], SUBSET_FILE)
    work = PackedWork(
        mode="reshard",
        layout="webdataset",
        parameters={"shard_size": recipe.shard_size, "group_shards": reshard.GROUP_SHARDS},
    )
    parents = {"dataset": record.id}
    key = PackedRecord.key_of(work=work, parents=parents)
    before = standing(store, key=key, kind=PackedRecord, other="another dataset or recipe")
    if before is not None:
        return before
    tar_folder = tars or find_tars(record)
    packed = reshard.pack(
        tar_folder,
        subset,
        out=out,
        map_tasks=map_tasks,
        shard_size=recipe.shard_size,
        repeats="first",
    )
    if not packed.output_count:
        raise PackError(
            f"none of the {record.counts['rows_out']:,} uids of {dataset} is in the tars of "
            f"{tar_folder}; give the tars of its pool with --tars"
        )
    sealed = PackedRecord.seal(
        work=work,
        parents=parents,
        outputs=packed.shards,
        counts={
            "samples": packed.output_count,
            "shards": packed.output_shard_count,
            "uids_without_sample": packed.missing,
            **{f"skipped/{reason}": number for reason, number in packed.skipped.items()},
        },
        results=_realised(tar_folder),
        made_by=made_by(started, locations={"tars": tar_folder, "dataset": source.uri}),
    )
    write_chain(store, read_chain(source))
    write_bytes(store, RECORD, sealed.to_json())
    return sealed


def _realised(tars: str) -> dict[str, Any] | None:
    """How much of the pool was still there when its images were fetched, by reason."""
    store = open_store(tars)
    if not store.exists(RECORD):
        return None
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    if not isinstance(record, AssetRecord):
        return None
    return {"pictures": {"record": record.id, "counts": record.counts}}


def _check_file(store: Store, file: File, name: str) -> None:
    path = store.local_path(name)
    if path is not None and sha256_file(path) != file.sha256:
        raise RecordError(f"{store.uri}/{name} is not the file that its record names; curate again")


def find_tars(record: DatasetRecord) -> str:
    """Where the tars of a dataset's pool are: `shards` in or next to its tables, or among them."""
    tables = record.made_by.locations.get("pool", "").rstrip("/")
    tars = tars_of_tables(tables)
    if tars is None:
        raise PackError(
            f"the pool in {tables} has no tars (looked in {', '.join(tar_folders(tables))}); fetch "
            "its images with `datacomp pool`, or name their folder with --tars"
        )
    return tars[0].uri


# ---- shards that were made elsewhere


def register_shards(folder: str, *, recipe: Recipe) -> PackedRecord:
    """Write a record next to the shards of a resharder (meta.json, sample_ids.npy, NNNNNNNN.tar).

    PackError names what is missing. Models trained on them cannot be submitted for the filtering
    track: the dataset is external.
    """
    started = now()
    store = open_store(folder)
    for name in (META, SAMPLE_IDS):
        if not store.exists(name):
            raise PackError(f"{store.uri} has no {name}; give the folder that a resharder wrote")
    if store.exists(RECORD):
        raise PackError(f"{store.uri} has a {RECORD} already; train on it as it is")
    meta = orjson.loads(store.read_bytes(META))
    names = [entry.name for entry in store.list() if is_tar(entry.name)]
    if len(names) != meta["output_shard_count"]:
        raise PackError(
            f"{store.uri} has {len(names)} tars, {META} says {meta['output_shard_count']}; copy "
            "the folder again"
        )
    ids = load_subset(f"{store.uri}/{SAMPLE_IDS}")
    pool = PoolRecord.seal(
        work=PoolWork(name="unknown", variant="external", sources=()),
        parents={},
        made_by=made_by(started),
    )
    dataset = DatasetRecord.seal(
        work=DatasetWork(
            pipeline={"name": "external", "steps": []},
            external=True,
            output={"format": "uids", "sha256": sha256_of(ids)},
        ),
        parents={"pool": pool.id},
        counts={"rows_in": len(ids), "rows_out": len(ids), "errors": 0},
        made_by=made_by(started),
    )
    sealed = PackedRecord.seal(
        work=PackedWork(
            mode="registered",
            layout="webdataset",
            parameters={"shard_size": recipe.shard_size},
        ),
        parents={"dataset": dataset.id},
        outputs=[_file(store, name) for name in sorted(names)],
        counts={"samples": int(meta["output_count"]), "shards": len(names)},
        made_by=made_by(started, locations={"shards": store.uri}),
    )
    write_chain(store, [pool, dataset])
    write_bytes(store, RECORD, sealed.to_json())
    return sealed


def _file(store: Store, name: str) -> File:
    import hashlib

    sha256, size = hashlib.sha256(), 0
    with store.open(name) as file:
        while block := file.read(8 << 20):
            sha256.update(block)
            size += len(block)
    return File(name=name, sha256=sha256.hexdigest(), num_bytes=size)


def pack_uids(options: PackOptions, *, out: str, map_tasks: MapTasks) -> Packed:
    """Copy the samples of a bare list of uids; PackError when the options do not go together."""
    if options.subset is None or options.tars is None:
        raise PackError("give either --scale with --dataset, or --input with --subset")
    done = reshard.pack(
        options.tars,
        options.subset,
        faces=_faces(options),
        out=out,
        map_tasks=map_tasks,
        shard_size=options.shard_size,
        group_shards=options.group_shards,
        repeats=options.repeats,
        overwrite=options.overwrite,
        quarantine=options.quarantine,
        dry_run=options.dry_run,
    )
    if not done.output_count and not options.dry_run:
        left_out = ", ".join(f"{reason} {count}" for reason, count in done.skipped.items())
        raise PackError(
            f"nothing was written: no sample of {options.tars} has a uid of the list "
            f"({done.processed_count:,} samples were read; left out: {left_out or 'none'})"
        )
    return done


def _faces(options: PackOptions) -> FaceOptions | None:
    """What to do with faces, or None."""
    apply, inject = options.apply_blur, options.inject_faces
    if (options.blur_map is None) == (apply or inject):
        raise PackError("--blur-map goes with --apply-blur, with --inject-faces, or with both")
    if options.blur_map is None:
        return None
    return FaceOptions(
        map=options.blur_map, apply=apply, inject=inject, quality=options.webp_quality
    )
