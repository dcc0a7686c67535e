"""A shard's bytes while a run reads them: the ones that its record names, or an error.

A pool is known by the hashes of its files, which are taken (or read from a record) once, at the
start. Until a worker reads a shard, minutes or days later, somebody may have written it anew. So
what the place says of the bytes (size and time of change of a file, the ETag of an object, the blob
of the hub) is noted in the listing and asked before and after each reading. When it differs, the
hash decides: the same bytes put there again are the same shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.formats import dolma
from pipelines.records import Frozen, digest, sha256_file
from pipelines.storage.base import Entry, StorageError, Store

UNKNOWN = "to be checked"  # no stamp is this one, so that the hash decides


class ShardChanged(StorageError):
    """A shard whose bytes are no longer those that the run's record would name."""


class Identity(Frozen):
    """What a shard's bytes are known by, and what the place said of them in the listing."""

    sha256: str
    stamp: str = ""  # empty where the place says nothing


def content_hash(store: Store, name: str, *, fresh: bool = False) -> str:
    """What a shard's content is known by: its bytes, and those of Dolma's attributes next to it.

    Where a place keeps checksums, `fresh` asks for them again.
    """
    beside = dolma.attribute_files(store, name)
    own = _sha256(store, name, fresh=fresh)
    if not beside:
        return own
    return digest([own, [[file, _sha256(store, file, fresh=fresh)] for file in beside]])


def _sha256(store: Store, name: str, *, fresh: bool) -> str:
    path = store.local_path(name)
    if path is not None:
        return sha256_file(path)
    known = getattr(store, "sha256", None)  # a place that keeps checksums of its files
    if known is not None and (said := known(name, fresh=fresh)):
        return str(said)
    sha256 = hashlib.sha256()
    with store.open(name) as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def stamp_of(store: Store, name: str, entry: Entry | None = None) -> str:
    """What the place says of a shard's bytes; of a listing's entry where it has just been made."""
    own = store.stamp(name) if entry is None else entry.stamp
    return "|".join([own, *map(store.stamp, dolma.attribute_files(store, name))])


@contextmanager
def same_bytes(store: Store, name: str, identity: Identity | None) -> Iterator[None]:
    """ShardChanged when the bytes that the block reads are not those of the listing.

    An error that reading raises meanwhile is taken for what the change did.
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
