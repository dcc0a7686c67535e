"""Packed data as training reads it: checked, in one order for any number of devices.

Position p of a training run is sequence p of the first pass over the data, and so on through as
many passes as the budget needs. The first pass reads shards and rows in stored order, for packing
has shuffled them; every later pass has its own order of shards and of rows within each, drawn from
the recipe's data seed. Local `.npy` shards are memory-mapped; of others one at a time is in memory.
"""

from __future__ import annotations

import bisect
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dclm.packing.openlm_format import ManifestRow, read_manifest, read_tar
from dclm.packing.pack import MANIFEST, RECORD
from dclm.recipe import Recipe
from pipelines.formats.shards import ShardError
from pipelines.kernels.splitmix import permutation
from pipelines.records import PackedRecord, RecordError, parse_record, sha256_bytes, sha256_file
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

Ids = NDArray[np.unsignedinteger]

# Datasets up to this size are read through once at the start to compare their sha256.
VERIFY_BYTES = 1 << 30


class Sequences:
    """The packed data of a folder, opened for a recipe; `record` is its PackedRecord.

    Raises RecordError when there is no finished packing or it is of another tokenizer or length,
    and ShardError for a manifest that disagrees with the record, and for a shard that is missing,
    truncated or changed.
    """

    def __init__(self, packed: str, *, recipe: Recipe) -> None:
        self.store = open_store(packed)
        self.record = _packed_record(self.store)
        self.length = recipe.model.seq_len + 1
        self.vocab_size = recipe.model.vocab_size
        self.seed = recipe.data_seed
        _check_recipe(self.record, recipe, self.store.uri)
        self.rows = self._manifest()
        self.num_sequences = sum(row.num_sequences for row in self.rows)
        if self.num_sequences < recipe.global_batch_size:
            raise ShardError(
                f"{self.store.uri} holds {self.num_sequences} sequences, less than one step of "
                f"{recipe.global_batch_size}: too little data for {recipe.scale}; curate more"
            )
        self._check_files()
        self._shard = lru_cache(maxsize=2)(self._read_shard)
        self._order = lru_cache(maxsize=4)(self._order_of_pass)
        self._rows_of = lru_cache(maxsize=4)(self._rows_of_shard)

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Sequences at positions first .. first + count - 1, (count, seq_len + 1)."""
        out = np.empty((count, self.length), np.int64)
        filled = 0
        while filled < count:
            shard, row, available, rows = self._locate(first + filled)
            take = min(available, count - filled)
            chosen = slice(row, row + take) if rows is None else rows[row : row + take]
            out[filled : filled + take] = self._shard(shard)[chosen]
            filled += take
        if out.max() >= self.vocab_size:
            worst = int(out.max(axis=1).argmax())
            raise ShardError(
                f"{self.where(first + worst, 1)} of {self.store.uri} holds the id {out.max()}, but "
                f"the model's vocabulary ends at {self.vocab_size - 1}; pack with the recipe's "
                "tokenizer"
            )
        return out

    def where(self, first: int, count: int) -> str:
        """Shards and rows of the positions, to name them in an error."""
        rows_of: dict[str, list[int]] = {}
        for position in range(first, first + count):
            shard, row, _, rows = self._locate(position)
            rows_of.setdefault(self.rows[shard].shard, []).append(
                row if rows is None else int(rows[row])
            )
        return "; ".join(f"shard {name} rows {rows}" for name, rows in rows_of.items())

    def _locate(self, position: int) -> tuple[int, int, int, NDArray[np.int64] | None]:
        """Shard, place in its order, how many follow in it, and that order (None: as stored)."""
        number, offset = divmod(position, self.num_sequences)
        order, ends = self._order(number)
        order_index = bisect.bisect_right(ends, offset)
        shard = order[order_index]
        row = offset - (ends[order_index - 1] if order_index else 0)
        rows = self._rows_of(number, shard) if number else None
        return shard, row, ends[order_index] - offset, rows

    def _order_of_pass(self, number: int) -> tuple[list[int], list[int]]:
        """Shards in the order of this pass, and where each ends, counted in sequences."""
        order = np.arange(len(self.rows))
        if number:
            order = permutation(self.seed, "pass", number, len(self.rows))
        sizes = np.array([row.num_sequences for row in self.rows])
        return order.tolist(), np.cumsum(sizes[order]).tolist()

    def _rows_of_shard(self, number: int, shard: int) -> NDArray[np.int64]:
        use = f"pass {number} rows"
        return permutation(self.seed, use, shard, self.rows[shard].num_sequences)

    def _read_shard(self, shard: int) -> Ids:
        row = self.rows[shard]
        name = self.record.outputs[shard].name
        source = f"{self.store.uri}/{name}"
        array: Ids
        try:
            if self.record.work.layout == "open_lm":
                with self.store.open(name) as file:
                    array = read_tar(file, source=source, length=self.length)
            elif (path := self.store.local_path(name)) is not None:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                with self.store.open(name) as file:
                    array = np.load(file, allow_pickle=False)
        except FileNotFoundError:
            raise ShardError(f"{source} is missing, but the manifest names it") from None
        except ValueError as error:
            raise ShardError(f"{source} is truncated or damaged ({error}); pack again") from None
        if array.shape != (row.num_sequences, self.length):
            raise ShardError(
                f"{source} holds {array.shape[0]} sequences of {array.shape[-1]} ids, but the "
                f"manifest says {row.num_sequences} of {self.length}; pack the dataset again"
            )
        return array

    def _manifest(self) -> list[ManifestRow]:
        source = f"{self.store.uri}/{MANIFEST}"
        try:
            data = self.store.read_bytes(MANIFEST)
        except FileNotFoundError:
            raise ShardError(f"{source} is missing; pack the dataset again") from None
        rows = read_manifest(data, source=source)
        if sha256_bytes(data) != self.record.outputs[-1].sha256:
            raise ShardError(
                f"{source} is not the manifest that the record names: it was edited; pack again"
            )
        if len(rows) != len(self.record.outputs) - 1:
            raise ShardError(f"{source} has {len(rows)} shards, the record another number")
        return rows

    def _check_files(self) -> None:
        """Every shard is there, whole; for small datasets, also unchanged."""
        verify = sum(file.num_bytes for file in self.record.outputs) <= VERIFY_BYTES
        sizes = {entry.name: entry.num_bytes for entry in self.store.list()}
        for file in self.record.outputs[:-1]:
            where = f"{self.store.uri}/{file.name}"
            if file.name not in sizes:
                raise ShardError(f"{where} is missing, but the record names it; pack again")
            if sizes[file.name] != file.num_bytes:
                raise ShardError(
                    f"{where} has {sizes[file.name]} bytes, but the record says {file.num_bytes}: "
                    "it is truncated or was written over; pack the dataset again"
                )
            path = self.store.local_path(file.name)
            if verify and path is not None and sha256_file(path) != file.sha256:
                raise ShardError(f"{where} was changed since it was packed; pack again")


def _packed_record(store: Store) -> PackedRecord:
    where = f"{store.uri}/{RECORD}"
    try:
        data = store.read_bytes(RECORD)
    except FileNotFoundError:
        raise RecordError(f"there is no {where}; name the folder of a finished packing") from None
    record = parse_record(data, source=where)
    if not isinstance(record, PackedRecord) or record.status != "done":
        raise RecordError(f"{where} is not the record of a finished packing; run: dclm pack")
    return record


def _check_recipe(record: PackedRecord, recipe: Recipe, uri: str) -> None:
    actual = {
        "tokenizer": record.work.tokenizer and record.work.tokenizer.name,
        "sequence length": record.work.sequence_length,
        "vocabulary": record.work.parameters.get("vocab_size"),
        "data seed": record.work.seed,
        "pad id": record.work.parameters.get("pad"),
    }
    expected = {
        "tokenizer": recipe.tokenizer.name,
        "sequence length": recipe.model.seq_len,
        "vocabulary": recipe.model.vocab_size,
        "data seed": recipe.data_seed,
        "pad id": recipe.tokenizer.pad,
    }
    for name, value in expected.items():
        if actual[name] != value:
            raise RecordError(
                f"{uri} was packed with {name} {actual[name]!r}, but the recipe of {recipe.scale} "
                f"has {value!r}; pack the dataset for this scale"
            )
