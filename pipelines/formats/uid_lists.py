"""Lists of uids, as the reference writes them: sorted records of two numbers, .npy or raw."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import SubsetError
from pipelines.kernels.uids import SUBSET
from pipelines.records import File
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

Subset = npt.NDArray[Any]
Halves = npt.NDArray[np.uint64]
COPY_ROWS = 1 << 20


def load_subset(uri: str) -> Subset:
    """The records of a subset file; a local one is mapped. SubsetError says what is wrong."""
    folder, _, name = uri.rpartition("/")
    store = open_store(folder or ".")
    path = store.local_path(name)
    try:
        if not uri.endswith(".npy"):
            if path is not None and path.is_file() and path.stat().st_size:
                ids: Subset = np.memmap(path, dtype=SUBSET, mode="r")
            else:
                ids = np.frombuffer(store.read_bytes(name), dtype=SUBSET)
        elif path is not None:
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            ids = np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SubsetError(f"{uri} is no list of uids: {error}") from None
    if ids.dtype != SUBSET or ids.ndim != 1:
        raise SubsetError(
            f"{uri} holds {ids.dtype} of shape {ids.shape}, expected records of u8,u8, as "
            "`datacomp curate` writes them"
        )
    return ids


def check_sorted(ids: Subset, uri: str) -> None:
    """SubsetError for a list whose records do not ascend; equal ones are allowed."""
    for begin in range(0, len(ids), COPY_ROWS):
        part = ids[max(0, begin - 1) : begin + COPY_ROWS]
        high, low = part["f0"], part["f1"]
        wrong = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
        if wrong.any():
            place = max(0, begin - 1) + int(np.flatnonzero(wrong)[0]) + 1
            raise SubsetError(
                f"{uri} is not sorted: record {place} is less than the one before; sort it with "
                "np.sort, or make it by `datacomp curate`"
            )


def sha256_of(ids: Subset) -> str:
    """The hash of the records, without a header: equal for .npy and raw files."""
    found = hashlib.sha256()
    for begin in range(0, len(ids), COPY_ROWS):
        found.update(np.ascontiguousarray(ids[begin : begin + COPY_ROWS]).view(np.uint8).data)
    return found.hexdigest()


def write_subset(store: Store, name: str, ids: Subset) -> File:
    """Write a list as .npy, piece by piece."""
    with store.create(name) as out:
        out.write(npy_header(len(ids)))
        for begin in range(0, len(ids), COPY_ROWS):
            part = np.ascontiguousarray(ids[begin : begin + COPY_ROWS])
            out.write(part.view(np.uint8).data)
    return out.file(num_rows=len(ids))


def look_up(
    ids: Subset, high: Halves, low: Halves, *, leading: Halves | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each uid stands first in a sorted list, and how often; where it is not, 0 times.

    `leading` is the list's column f0 as an array of its own, for who looks into one list often.
    """
    heads = ids["f0"] if leading is None else leading
    first = np.searchsorted(heads, high, side="left").astype(np.int64)
    last = np.searchsorted(heads, high, side="right")
    count = np.zeros(len(high), np.int64)
    alone = np.flatnonzero(last - first == 1)
    count[alone] = ids["f1"][first[alone]] == low[alone]
    for place in np.flatnonzero(last - first > 1).tolist():  # repeats, and equal first halves
        tails = ids["f1"][first[place] : last[place]]
        begin = int(np.searchsorted(tails, low[place], side="left"))
        count[place] = int(np.searchsorted(tails, low[place], side="right")) - begin
        first[place] += begin
    return first, count


def npy_header(total: int) -> bytes:
    """What numpy.save writes before `total` records."""
    header = io.BytesIO()
    told = np.lib.format.header_data_from_array_1_0(np.empty(0, SUBSET)) | {"shape": (total,)}
    np.lib.format.write_array_header_1_0(header, told)
    return header.getvalue()


def uid_of(url: str | None, text: str | None) -> str:
    """The uid of a pair that has none: 32 digits of the sha256 of address, NUL, caption."""
    return hashlib.sha256(f"{url or ''}\0{text or ''}".encode()).hexdigest()[:32]
