"""Lists of uids, as the reference writes them: sorted records of two numbers, .npy or raw.

A raw file has no header, so any file whose size is a multiple of 16 looks like one. Text, other
known formats and empty files are refused, naming what they are.
"""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import SubsetError
from pipelines.records import File
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

SUBSET = np.dtype("u8,u8")  # high and low half of a uid, as `kernels.uids` sorts them

Subset = npt.NDArray[Any]
Halves = npt.NDArray[np.uint64]
COPY_ROWS = 1 << 20  # 16 MB of uids at a time
OTHERS = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".npz", ".parquet", ".arrow", ".pkl"),
    *(".gz", ".zst", ".zip", ".tar", ".bz2", ".xz"),
)
LOOKED_AT = 1 << 16  # bytes checked for text; random uids of this length never look like text
_TEXT = np.zeros(256, dtype=bool)
_TEXT[[9, 10, 13, *range(32, 127)]] = True


BEGINNINGS = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PAR1": "parquet",
}
"""First bytes of other formats; of lists of uids, one in 16 million begins like this."""


def load_subset(uri: str) -> Subset:
    """The records of a subset file; a local one is mapped. SubsetError says what is wrong."""
    try:
        return open_records(uri)
    except ValueError as error:
        raise SubsetError(str(error)) from None


def open_records(uri: str) -> Subset:
    """The records of a list, (n,) of u8,u8; a local file is mapped.

    ValueError says what the file is instead; FileNotFoundError if there is none.
    """
    folder, _, name = uri.rpartition("/")
    store = open_store(folder or ".")
    path = store.local_path(name)
    if path is not None and not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no list of uids", uri)
    if name.endswith(".npy"):
        try:
            if path is not None:
                records = np.load(path, mmap_mode="r", allow_pickle=False)
            else:
                records = np.load(io.BytesIO(store.read_bytes(name)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{uri} is not a list of uids: {error}") from None
        if not isinstance(records, np.ndarray):
            raise ValueError(f"{uri} is an archive of arrays (.npz), expected one array (.npy)")
    else:
        records = _raw(uri, _mapped(path) if path is not None else _bytes(store, name))
    if records.dtype != SUBSET or records.ndim != 1:
        raise ValueError(
            f"{uri} holds {records.dtype} of shape {records.shape}, expected records of u8,u8, as "
            "`curate` of an image-text pool writes them"
        )
    return records


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    if not path.stat().st_size:  # nothing to map
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


def _bytes(store: Store, name: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(store.read_bytes(name), np.uint8)


def _raw(uri: str, data: npt.NDArray[np.uint8]) -> Subset:
    hint = "; a list of uids is an .npy file, or raw records of 16 bytes"
    other = next((suffix for suffix in OTHERS if uri.lower().endswith(suffix)), None)
    if other is not None:
        raise ValueError(f"{uri} is not a list of uids, but {other}{hint}")
    if not len(data):
        raise ValueError(f"{uri} is empty{hint}")
    head = data[:4].tobytes()
    kind = next((kind for begin, kind in BEGINNINGS.items() if head.startswith(begin)), None)
    if kind is not None:
        raise ValueError(f"{uri} is not a list of uids, but a {kind} file{hint}")
    if _TEXT[data[:LOOKED_AT]].all():
        raise ValueError(f"{uri} is not a list of uids, but text{hint}")
    if len(data) % SUBSET.itemsize:
        raise ValueError(f"{uri} has {len(data)} bytes, not a multiple of {SUBSET.itemsize}{hint}")
    return data.view(SUBSET)


def check_sorted(ids: Subset, uri: str) -> None:
    """SubsetError for a list whose records do not ascend; equal ones are allowed."""
    for begin in range(0, len(ids), COPY_ROWS):
        part = ids[max(0, begin - 1) : begin + COPY_ROWS]
        high, low = part["f0"], part["f1"]
        wrong = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
        if wrong.any():
            record = max(0, begin - 1) + int(np.flatnonzero(wrong)[0]) + 1
            raise SubsetError(
                f"{uri} is not sorted: record {record} is less than the one before; sort it with "
                "np.sort, or make it with `curate`"
            )


def sha256_of(ids: Subset) -> str:
    """The hash of the records, without a header: equal for .npy and raw files."""
    sha256 = hashlib.sha256()
    for begin in range(0, len(ids), COPY_ROWS):
        sha256.update(np.ascontiguousarray(ids[begin : begin + COPY_ROWS]).view(np.uint8).data)
    return sha256.hexdigest()


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
    """The first position of each uid in a sorted list, and how often it occurs (0 if absent).

    `leading` is a contiguous copy of the list's column f0, for repeated look-ups in one list.
    """
    heads = ids["f0"] if leading is None else leading
    first = np.searchsorted(heads, high, side="left").astype(np.int64)
    last = np.searchsorted(heads, high, side="right")
    count = np.zeros(len(high), np.int64)
    alone = np.flatnonzero(last - first == 1)
    count[alone] = ids["f1"][first[alone]] == low[alone]
    for row in np.flatnonzero(last - first > 1).tolist():  # repeats, and equal first halves
        tails = ids["f1"][first[row] : last[row]]
        begin = int(np.searchsorted(tails, low[row], side="left"))
        count[row] = int(np.searchsorted(tails, low[row], side="right")) - begin
        first[row] += begin
    return first, count


def npy_header(total: int) -> bytes:
    """What numpy.save writes before `total` records."""
    header = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(np.empty(0, SUBSET)) | {"shape": (total,)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def uid_of(url: str | None, text: str | None) -> str:
    """The uid of a pair without one: 32 digits of the sha256 of URL, NUL, caption."""
    return hashlib.sha256(f"{url or ''}\0{text or ''}".encode()).hexdigest()[:32]
