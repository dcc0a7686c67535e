"""The shards of a dataset of documents, from its record or from a plain folder."""

from __future__ import annotations

from pipelines.errors import DataError
from pipelines.formats.shards import shards_of
from pipelines.records import DatasetRecord, parse_record
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD


def shards_with_text(store: Store) -> list[str]:
    """Names of shards, in order. DataError for the output folder of another stage."""
    if not store.exists(RECORD):
        return [entry.name for entry in shards_of(store)]
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    if not isinstance(record, DatasetRecord):
        raise DataError(f"{store.uri} holds a {record.kind} record, not a dataset")
    return [file.name for file in record.outputs]
