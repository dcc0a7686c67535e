"""A sample of a pool: the first rows of shards spread evenly over it.

Reading stops early in each shard, so a sample of a large pool is cheap. The error of an estimate is
computed between pieces of different shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch import text_bytes
from pipelines.formats.pool import Pool
from pipelines.formats.readers import read_shard
from pipelines.formats.shards import format_of
from pipelines.schema import TEXT
from pipelines.storage.base import Store
from pipelines.storage.open import open_store


@dataclass(frozen=True)
class Piece:
    """The first rows of one shard. `file_bytes`: about how much of the shard's file they take."""

    shard: int
    table: pa.Table
    file_bytes: float
    whole: bool  # no rows of the shard are left out


def pieces(
    pool: Pool, *, shards: int, max_bytes: int | None = None, fraction: float = 1.0
) -> Iterator[Piece]:
    """One piece each of at most `shards` shards: about `max_bytes` of text in all, or a `fraction`.

    The fraction is of the pool's file bytes. Rows without text are left out, and so are shards
    without any.
    """
    store = open_store(pool.uri)
    numbers = np.unique(np.linspace(0, len(pool.shards) - 1, shards).round().astype(int)).tolist()
    text_bytes_each = None if max_bytes is None else max_bytes // len(numbers)
    total = sum(pool.shards[number].num_bytes for number in numbers)
    share = min(1.0, fraction * pool.num_bytes / max(total, 1))
    for number in numbers:
        piece = _piece(store, pool, number, text_bytes_each, share)
        if piece.table.num_rows:
            yield piece


def _piece(store: Store, pool: Pool, number: int, max_bytes: int | None, max_share: float) -> Piece:
    shard = pool.shards[number]
    total_rows = None
    if format_of(shard.name) == "parquet":
        with store.open(shard.name) as file:
            total_rows = pq.read_metadata(file).num_rows
    watched = _Watched(store)
    tables: list[pa.Table] = []
    rows, size, share, whole = 0, 0, 0.0, True
    for chunk in read_shard(cast(Store, watched), shard.name, shard=number):
        if (max_bytes is not None and size >= max_bytes) or share >= max_share:
            whole = False
            break
        assert watched.file is not None
        rows += chunk.table.num_rows
        if total_rows is None:
            share = watched.file.tell() / max(shard.num_bytes, 1)
        else:
            share = rows / max(total_rows, 1)
        tables.append(chunk.table.filter(pc.is_valid(chunk.table.column(TEXT))))
        size += sum(text_bytes(part) for part in tables[-1].column(TEXT).chunks)
    table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
    return Piece(number, table, shard.num_bytes * (1.0 if whole else share), whole)


class _Watched:
    """A store that remembers its last opened file, whose position tells how much was read."""

    def __init__(self, store: Store) -> None:
        self.uri = store.uri
        self.file: BinaryIO | None = None
        self._store = store

    def open(self, name: str) -> BinaryIO:
        self.file = self._store.open(name)
        return self.file
