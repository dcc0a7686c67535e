"""A sorted list of uids, written from unsorted parts in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.execution.once import once
from pipelines.formats.uid_lists import npy_header
from pipelines.records import File, Frozen
from pipelines.stats import READ
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name
from pipelines.storage.part_files import PartsWriter, read_parts

SUBSET_FILE = "subset.npy"


BUCKET_BYTES = 256 << 20  # of tables, whose uids are sorted together


MAX_BUCKETS = 1024  # every part is read from every table: more of them are too many reads


PARTS = pa.schema([("high", pa.uint64()), ("low", pa.uint64())])


Ints = npt.NDArray[np.int64]


class SortTask(Frozen):
    """Sort the uids of one part."""

    uri: str
    key: str
    part: int
    files: tuple[str, ...]
    step: int = READ


def write_uids(store: Store, stem: str, uids: Sequence[tuple[Any, Any]], buckets: int) -> File:
    """The uids of one table, in parts by their leading bits."""
    nothing = np.zeros(0, np.uint64)
    high = np.concatenate([nothing, *(highs for highs, _ in uids)])
    low = np.concatenate([nothing, *(lows for _, lows in uids)])
    with PartsWriter(store, attempt_name(stem, ".parts"), PARTS) as out:
        if buckets == 1:
            out.add(0, [high, low])
        else:
            part = bucket_of(high, buckets)
            places = np.argsort(part, kind="stable")
            borders = np.searchsorted(part[places], np.arange(buckets + 1))
            for number in range(buckets):
                here = places[borders[number] : borders[number + 1]]
                out.add(number, [high[here], low[here]])
    return out.file()


def bucket_of(high: npt.NDArray[np.uint64], buckets: int) -> Ints:
    """The part of each uid: its leading 32 bits in `buckets` equal ranges, so parts are ordered."""
    leading = (high >> np.uint64(32)).astype(np.uint64)
    return ((leading * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


@once
def run_sort(task: SortTask, store: Store) -> Done:
    """The uids of one part from all tables, sorted, as records without a header."""
    high, low = read_parts(store, task.files, task.part, PARTS)
    order = kernels.uids.order(high, low)
    records = np.empty(len(order), kernels.uids.SUBSET)
    records["f0"], records["f1"] = high[order], low[order]
    with store.create(attempt_name(f"work/sorted-{task.part:05d}", ".bin")) as out:
        out.write(records.view(np.uint8).data)
    return Done(key=task.key, files=(out.file(num_rows=len(order)),))


def join_uids(store: Store, parts: Sequence[Done]) -> File:
    """The sorted parts, one after the other, as the list of uids (`subset.npy`)."""
    with store.create(SUBSET_FILE) as out:
        out.write(npy_header(sum(part.files[0].num_rows or 0 for part in parts)))
        for part in parts:
            with store.open(part.files[0].name) as file:
                while data := file.read(8 << 20):
                    out.write(data)
    return out.file(num_rows=sum(part.files[0].num_rows or 0 for part in parts))
