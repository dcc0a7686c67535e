"""A locally trained asset: one file, with its record next to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.records import AssetRecord, AssetWork, File, made_by, parse_record, sha256_file
from pipelines.scoring.evaluation import Evaluation
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store


def record_path(asset: Path) -> Path:
    """The path of an asset's record."""
    return asset.with_name(f"{asset.name}.record.json")


def existing_asset(asset: Path, *, key: str) -> AssetRecord | None:
    """The record with this key, if it exists and the asset matches its checksum; else None."""
    path = record_path(asset)
    if not path.is_file() or not asset.is_file():
        return None
    record = parse_record(path.read_bytes(), source=str(path))
    if not isinstance(record, AssetRecord) or record.key != key:
        return None
    return record if [file.sha256 for file in record.outputs] == [sha256_file(asset)] else None


def record_asset(
    asset: Path,
    *,
    work: AssetWork,
    parents: Mapping[str, str],
    counts: Mapping[str, int],
    started: str,
    evaluation: Evaluation | None = None,
    locations: Mapping[str, str] | None = None,
    figures: Mapping[str, float] | None = None,
) -> AssetRecord:
    """Write the record of a finished file.

    `evaluation` is on held-out documents; `locations` and `figures` are not part of the id.
    """
    record = AssetRecord.seal(
        work=work,
        parents=dict(parents),
        outputs=[File(name=asset.name, sha256=sha256_file(asset), num_bytes=asset.stat().st_size)],
        counts=dict(counts),
        results=None if evaluation is None else evaluation.model_dump(mode="json"),
        made_by=made_by(started, locations=locations, figures=figures),
    )
    write_bytes(LocalStore(asset.parent), record_path(asset).name, record.to_json())
    return record


def remove_samples(work: str) -> None:
    """Remove the samples, which can be drawn again from what the record names.

    A local folder is removed as a whole; of a bucket prefix every object.
    """
    store = open_store(work)
    if isinstance(store, LocalStore):
        shutil.rmtree(store.root, ignore_errors=True)
        return
    for entry in list(store.list()):
        store.remove(entry.name)
