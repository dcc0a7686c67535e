"""Detect shards whose bytes change while a run reads them.

A pool is identified by the hashes of its files, computed (or read from a record) once, at the
start. Before a worker reads a shard, minutes or days later, somebody may have rewritten it. So a
stamp of the bytes (size and modification time of a file, the ETag of an object, the blob of the
hub) is stored with the listing and compared before and after each reading. When it differs, the
hash decides: the same bytes written again are the same shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.formats import dolma
from pipelines.records import Frozen, digest, sha256_file
from pipelines.storage.base import Entry, StorageError, Store

UNKNOWN = "to be checked"  # equals no stamp, so that the hash decides


class ShardChanged(StorageError):
    """A shard whose bytes changed after the pool was listed."""


class Identity(Frozen):
    """The hash of a shard's bytes, and their stamp in the listing."""

    sha256: str
    stamp: str = ""  # empty where the storage has none


def content_hash(store: Store, name: str, *, fresh: bool = False) -> str:
    """The hash of a shard's content: its bytes, and those of Dolma's attributes next to it.

    Where the storage keeps checksums, `fresh` requests them again.
    """
    attributes = dolma.attribute_files(store, name)
    own = _sha256(store, name, fresh=fresh)
    if not attributes:
        return own
    return digest([own, [[file, _sha256(store, file, fresh=fresh)] for file in attributes]])


def _sha256(store: Store, name: str, *, fresh: bool) -> str:
    path = store.local_path(name)
    if path is not None:
        return sha256_file(path)
    known = getattr(store, "sha256", None)  # storage that keeps checksums of its files
    if known is not None and (said := known(name, fresh=fresh)):
        return str(said)
    sha256 = hashlib.sha256()
    with store.open(name) as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def stamp_of(store: Store, name: str, entry: Entry | None = None) -> str:
    """The stamp of a shard and its attributes; taken from `entry` where it was just listed."""
    own = store.stamp(name) if entry is None else entry.stamp
    return "|".join([own, *map(store.stamp, dolma.attribute_files(store, name))])


@contextmanager
def same_bytes(store: Store, name: str, identity: Identity | None) -> Iterator[None]:
    """ShardChanged when the bytes that the block reads differ from those of the listing.

    It replaces an error that the change caused while reading.
    """
    if identity is None or not identity.stamp:
        yield
        return
    before = stamp_of(store, name)
    if before != identity.stamp:
        _check_hash(store, name, identity)
    try:
        yield
    except Exception:
        if stamp_of(store, name) != before:
            _check_hash(store, name, identity)
        raise
    if stamp_of(store, name) != before:
        _check_hash(store, name, identity)


def _check_hash(store: Store, name: str, identity: Identity) -> None:
    if content_hash(store, name, fresh=True) != identity.sha256:
        raise ShardChanged(
            f"{store.uri}/{name} was changed after the pool was listed: its bytes are not those "
            "that the record would name. When nobody writes there any more, begin again, with "
            "another --out or with --overwrite"
        )
