"""A pool: the source of tables, identified by a record or by the hashes of its files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from pydantic import Field

from pipelines.formats import dolma
from pipelines.formats.pool_schema import PoolSchema, pool_schema
from pipelines.formats.readers import fields_of, schema_of
from pipelines.formats.shard_identity import UNKNOWN, content_hash, stamp_of
from pipelines.formats.shards import ShardError, shards_of
from pipelines.records import (
    DatasetRecord,
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    RecordError,
    made_by,
    now,
    parse_record,
)
from pipelines.storage.base import Entry, StorageError, Store
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store, split_uri

LISTED = "files"  # the variant of a record that was made from a listing of shards
EXAMPLE_SHARDS = 4  # shards whose first rows are read for the names of fields


class InputShard(Frozen):
    """One shard of the pool as a run sees it, identified by its bytes, not its location."""

    name: str
    num_bytes: int
    sha256: str
    stamp: str = Field("", exclude=True)  # size and time or ETag from the storage at listing time


@dataclass(frozen=True)
class Pool:
    """A source of tables: location, record, and shards in order. Read only."""

    uri: str
    record: PoolRecord
    shards: tuple[InputShard, ...]
    single: bool = False  # opened as one file; other files of its folder are ignored

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    @cached_property
    def together(self) -> PoolSchema:
        """The columns of all shards, reconciled. Reads the footer of every table, once."""
        return pool_schema(open_store(self.uri), [shard.name for shard in self.shards])

    def schema(self) -> pa.Schema:
        """The common columns of all shards. ShardError where types cannot be reconciled."""
        return self.together.schema

    def fields(self) -> frozenset[str]:
        """Fields inside `extra`, from the first rows of a few shards."""
        step = max(1, len(self.shards) // EXAMPLE_SHARDS)
        names: set[str] = set()
        for shard in self.shards[::step]:
            names |= fields_of(open_store(self.uri), shard.name)
        return frozenset(names)

    def example(self) -> str:
        """The first shard whose columns can be read. ShardError of the first when none can."""
        first: ShardError | None = None
        for shard in self.shards:
            try:
                schema_of(open_store(self.uri), shard.name)
            except ShardError as error:
                first = first or error
            else:
                return shard.name
        raise first or ShardError(f"{self.uri} has no shards")


def open_pool(uri: str) -> Pool:
    """The pool at a URI: by its record.json if it has one, else by the hashes of its files.

    RecordError for a record of another kind or files of another size, ShardError without shards.
    """
    store = open_store(uri)
    if store.exists(RECORD):
        where = f"{store.uri}/{RECORD}"
        record = parse_record(store.read_bytes(RECORD), source=where)
        if not isinstance(record, PoolRecord | DatasetRecord):
            raise RecordError(f"{where} is a {record.kind} record; expected a pool or a dataset")
        shards = tuple(_stamped(store, record, where))
        if isinstance(record, DatasetRecord):
            record = _pool_of_files(record.work.pipeline["name"], shards, parent=record.id)
        return Pool(uri, record, shards)
    dolma.forget()
    entries = shards_of(store)
    shards = tuple(_shard_of(store, entry) for entry in entries)
    return Pool(uri, _pool_of_files(uri.rstrip("/").rpartition("/")[2], shards), shards)


def open_file(uri: str) -> Pool:
    """One file of documents as a pool of one shard; other files of its folder are ignored."""
    store, name = split_uri(uri)
    dolma.forget()
    entry = next((entry for entry in store.list(name) if entry.name == name), None)
    if entry is None:
        raise FileNotFoundError(f"there is no file {uri}")
    shards = (_shard_of(store, entry),)
    return Pool(store.uri, _pool_of_files(name, shards), shards, single=True)


def _stamped(store: Store, record: DatasetRecord | PoolRecord, where: str) -> list[InputShard]:
    """The files of a record as shards, with their stamps from a listing.

    RecordError for a file of another size. A file changed after the record was written has its
    hash checked when it is read.
    """
    folders = sorted({file.name.rpartition("/")[0] for file in record.outputs})
    entries: dict[str, Entry] = {}
    with suppress(StorageError):  # storage without listings, such as http://
        for folder in folders:
            entries |= {entry.name: entry for entry in store.list(f"{folder}/" if folder else "")}
    sealed = next((e.changed for e in store.list(RECORD) if e.name == RECORD), 0) if entries else 0
    shards = []
    for file in record.outputs:
        entry = entries.get(file.name)
        if entry is not None and entry.num_bytes != file.num_bytes:
            raise RecordError(
                f"{store.uri}/{file.name} has {entry.num_bytes:,} bytes, {file.num_bytes:,} by "
                f"{where}: it was changed, or the copy is not whole; copy it again"
            )
        stamp = "" if entry is None else UNKNOWN if entry.changed > sealed else entry.stamp
        shards.append(
            InputShard(name=file.name, num_bytes=file.num_bytes, sha256=file.sha256, stamp=stamp)
        )
    return shards


def _shard_of(store: Store, entry: Entry) -> InputShard:
    stamp = stamp_of(store, entry.name, entry)
    sha256 = content_hash(store, entry.name)
    return InputShard(name=entry.name, num_bytes=entry.num_bytes, sha256=sha256, stamp=stamp)


def _pool_of_files(
    name: str, shards: Sequence[InputShard], parent: str | None = None
) -> PoolRecord:
    sources = tuple(
        PoolSource(name=shard.name, version="", sha256=shard.sha256, licence="unknown")
        for shard in shards
    )
    parameters = {} if parent is None else {"dataset": parent}
    files = [File(name=s.name, sha256=s.sha256, num_bytes=s.num_bytes) for s in shards]
    return PoolRecord.seal(
        work=PoolWork(name=name, variant=LISTED, sources=sources, parameters=parameters),
        parents={},
        outputs=files,
        made_by=made_by(now()),
    )
