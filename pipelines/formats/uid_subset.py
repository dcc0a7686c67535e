"""A sorted list of uids, written from unsorted parts in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.errors import SubsetError
from pipelines.execution.once import once
from pipelines.formats.uid_lists import npy_header
from pipelines.records import File, Frozen
from pipelines.stats import READ
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_parts

SUBSET_FILE = "subset.npy"
VALUES_FILE = "subset.values"  # float32, (uid, VALUES): what pipelines computed for each uid


VALUES = ("sigma_min", "weight")
"""Columns stored with the uids if a pipeline writes them: how a row is used in training. In a file
of values the columns have this order; null or never written is NaN: the recipe's default."""


BUCKET_BYTES = 256 << 20  # of tables per part, whose uids are sorted in memory


MAX_BUCKETS = 1024  # every part is read from every table: more would be too many small reads


PARTS = pa.schema([("high", pa.uint64()), ("low", pa.uint64())])


Ints = npt.NDArray[np.int64]


class SortTask(Frozen):
    """Sort the uids of one part."""

    uri: str
    key: str
    part: int
    files: tuple[str, ...]
    values: tuple[str, ...] = ()
    step: int = READ


def parts_schema(values: Sequence[str]) -> pa.Schema:
    """The columns of unsorted parts."""
    return pa.schema([*PARTS, *((name, pa.float32()) for name in values)])


def write_uids(
    store: Store,
    stem: str,
    uids: Sequence[tuple[Any, Any]],
    buckets: int,
    *,
    values: Mapping[str, Sequence[Any]] | None = None,
) -> File:
    """Write the uids of one table in parts by their leading bits, with `values` by column name."""
    nothing = np.zeros(0, np.uint64)
    high = np.concatenate([nothing, *(highs for highs, _ in uids)])
    low = np.concatenate([nothing, *(lows for _, lows in uids)])
    given = values or {}
    columns = [np.concatenate([np.zeros(0, np.float32), *parts]) for parts in given.values()]
    with PartsWriter(store, attempt_name(stem, ".parts"), parts_schema(tuple(given))) as out:
        if buckets == 1:
            out.add(0, [high, low, *columns])
        else:
            part = bucket_of(high, buckets)
            places = np.argsort(part, kind="stable")
            borders = np.searchsorted(part[places], np.arange(buckets + 1))
            for number in range(buckets):
                here = places[borders[number] : borders[number + 1]]
                out.add(number, [high[here], low[here], *(column[here] for column in columns)])
    return out.file()


def bucket_of(high: npt.NDArray[np.uint64], buckets: int) -> Ints:
    """The part of each uid: its leading 32 bits in `buckets` equal ranges, so parts are ordered."""
    leading = (high >> np.uint64(32)).astype(np.uint64)
    return ((leading * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


@once
def run_sort(task: SortTask, store: Store) -> Done:
    """The uids of one part from all tables, sorted, as records without a header."""
    schema = parts_schema(task.values)
    high, low, *columns = read_parts(store, task.files, task.part, schema)
    order = kernels.uids.order(high, low)
    records = np.empty(len(order), kernels.uids.SUBSET)
    records["f0"], records["f1"] = high[order], low[order]
    with store.create(attempt_name(f"work/sorted-{task.part:05d}", ".bin")) as out:
        out.write(records.view(np.uint8).data)
    files = [out.file(num_rows=len(order))]
    if task.values:
        known = dict(zip(task.values, columns, strict=True))
        missing = np.full(len(order), np.nan, np.float32)
        table = np.stack([known.get(name, missing)[order] for name in VALUES], 1)
        with store.create(attempt_name(f"work/values-{task.part:05d}", ".bin")) as out:
            out.write(np.ascontiguousarray(table, "<f4").view(np.uint8).data)
        files.append(out.file(num_rows=len(order)))
    return Done(key=task.key, files=tuple(files))


def join_values(store: Store, parts: Sequence[Done]) -> File:
    """The values of the sorted parts, in the order of the list (`subset.values`)."""
    with store.create(VALUES_FILE) as out:
        for part in parts:
            with store.open(part.files[1].name) as file:
                while data := file.read(8 << 20):
                    out.write(data)
    return out.file()  # its rows are those of the list, which are counted there


def read_values(store: Store, num_rows: int) -> npt.NDArray[np.float32]:
    """The values of a list of `num_rows` uids, (rows, VALUES) float32; all NaN without a file."""
    if not store.exists(VALUES_FILE):
        return np.full((num_rows, len(VALUES)), np.nan, np.float32)
    values = np.frombuffer(store.read_bytes(VALUES_FILE), "<f4")
    if len(values) != num_rows * len(VALUES):
        raise SubsetError(
            f"{store.uri}/{VALUES_FILE} has {len(values)} numbers, expected {num_rows} rows of "
            f"{len(VALUES)}; curate again"
        )
    return values.reshape(num_rows, len(VALUES))


def join_uids(store: Store, parts: Sequence[Done]) -> File:
    """The sorted parts, one after the other, as the list of uids (`subset.npy`)."""
    with store.create(SUBSET_FILE) as out:
        out.write(npy_header(sum(part.files[0].num_rows or 0 for part in parts)))
        for part in parts:
            with store.open(part.files[0].name) as file:
                while data := file.read(8 << 20):
                    out.write(data)
    return out.file(num_rows=sum(part.files[0].num_rows or 0 for part in parts))
