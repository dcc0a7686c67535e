"""A pool: where tables come from, known by a record or by the hashes of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipelines.formats import dolma
from pipelines.formats.pool_schema import PoolSchema, pool_schema
from pipelines.formats.readers import fields_of, schema_of
from pipelines.formats.shards import ShardError, shards_of
from pipelines.records import (
    DatasetRecord,
    File,
    Frozen,
    PoolRecord,
    PoolSource,
    PoolWork,
    RecordError,
    digest,
    made_by,
    now,
    parse_record,
    sha256_file,
)
from pipelines.storage.base import Store
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store, split_uri

EXAMPLE_SHARDS = 4  # whose first rows are looked at for the names of fields


class InputShard(Frozen):
    """One shard of the pool as a run sees it: its bytes decide, not where they lie."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Pool:
    """Where tables come from: a place, its record, its shards in order. Read only."""

    uri: str
    record: PoolRecord
    shards: tuple[InputShard, ...]
    single: bool = False  # one file, whatever else lies in its folder

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    @cached_property
    def together(self) -> PoolSchema:
        """The columns of all shards, reconciled. Reads the footer of every table, once."""
        return pool_schema(open_store(self.uri), [shard.name for shard in self.shards])

    def schema(self) -> pa.Schema:
        """The columns of all shards together. ShardError where they cannot be one table."""
        return self.together.schema

    def fields(self) -> frozenset[str]:
        """Fields inside `extra`, as the first rows of a few shards show them."""
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
    """The pool at a place: by its record.json when it has one, else by the hashes of its files."""
    store = open_store(uri)
    if store.exists(RECORD):
        where = f"{store.uri}/{RECORD}"
        record = parse_record(store.read_bytes(RECORD), source=where)
        if not isinstance(record, PoolRecord | DatasetRecord):
            raise RecordError(f"{where} is a {record.kind} record; expected a pool or a dataset")
        shards = tuple(
            InputShard(name=file.name, num_bytes=file.num_bytes, sha256=file.sha256)
            for file in record.outputs
        )
        if isinstance(record, DatasetRecord):
            record = _pool_of_files(record.work.pipeline["name"], shards, parent=record.id)
        return Pool(uri, record, shards)
    dolma.forget()
    entries = shards_of(store)
    shards = tuple(
        InputShard(name=e.name, num_bytes=e.num_bytes, sha256=_with_attributes(store, e.name))
        for e in entries
    )
    return Pool(uri, _pool_of_files(uri.rstrip("/").rpartition("/")[2], shards), shards)


def open_file(uri: str) -> Pool:
    """One file of documents as a pool of one shard, whatever lies beside it."""
    store, name = split_uri(uri)
    dolma.forget()
    entry = next((entry for entry in store.list(name) if entry.name == name), None)
    if entry is None:
        raise FileNotFoundError(f"there is no file {uri}")
    sha256 = _with_attributes(store, name)
    shards = (InputShard(name=name, num_bytes=entry.num_bytes, sha256=sha256),)
    return Pool(store.uri, _pool_of_files(name, shards), shards, single=True)


def _with_attributes(store: Store, name: str) -> str:
    """What a shard's content is known by: its bytes, and those of Dolma's attributes next to it."""
    beside = dolma.attribute_files(store, name)
    if not beside:
        return _sha256(store, name)
    return digest([_sha256(store, name), [[file, _sha256(store, file)] for file in beside]])


def _sha256(store: Store, name: str) -> str:
    path = store.local_path(name)
    if path is not None:
        return sha256_file(path)
    known = getattr(store, "sha256", None)  # a place that keeps checksums of its files
    if known is not None and (said := known(name)):
        return str(said)
    sha256 = hashlib.sha256()
    with store.open(name) as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


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
        work=PoolWork(name=name, variant="files", sources=sources, parameters=parameters),
        parents={},
        outputs=files,
        made_by=made_by(now()),
    )
