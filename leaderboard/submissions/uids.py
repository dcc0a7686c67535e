"""A list of uids that is too long to send: its length, its hash, and 10,000 chosen by hash.

A uid has 128 bits, stored as two unsigned numbers of 64 (`f0`, `f1`), sorted, as DataComp's lists
are. Which uids are chosen depends on the list's own hash, so nobody can prepare a list for them; a
judge who has the pool looks the chosen ones up in it, and one who has the whole list checks all.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from pipelines.records import Frozen

RECORDS = np.dtype([("f0", "<u8"), ("f1", "<u8")])
SAMPLE = 10_000  # uids in a bundle: an alteration of 0.1% is seen with probability 0.9999
SKETCH = 256  # a Jaccard index of 0.95 is estimated with a standard error of 0.014
DENSE = 1.5  # the estimate's standard error is 6%: eight of them
COMMON = "0" * 64  # the list's hash in the sketch: the same for all lists, so they can be compared
AT_ONCE = 1 << 20  # uids, 16 MB
SCHEMA = pa.schema([("high", pa.uint64()), ("low", pa.uint64())])

Uids = npt.NDArray[Any]


class UidList(Frozen):
    """What a submission says of its list of uids."""

    count: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the records, without a header")
    sketch: tuple[int, ...] = Field(
        (),
        max_length=256,
        description="the smallest hashes of its uids; one hash for all lists",
    )


def open_uids(uri: str) -> Uids:
    """The records of a list (.npy or raw); a local one is mapped. ValueError for anything else."""
    from pipelines.formats.uid_lists import open_records  # kernels, which a service does not need

    return open_records(uri)


def describe(ids: Uids) -> UidList:
    """The length and hash of a list. ValueError for one that is not sorted."""
    sha256 = hashlib.sha256()
    for start in range(0, len(ids), AT_ONCE):
        part = ids[max(0, start - 1) : start + AT_ONCE]
        wrong = descends(part)
        if wrong.any():
            number = max(0, start - 1) + int(np.flatnonzero(wrong)[0]) + 1
            raise ValueError(f"uid {number} of the list is less than the one before: sort the list")
        sha256.update(np.ascontiguousarray(ids[start : start + AT_ONCE]).view(np.uint8).data)
    return UidList(count=len(ids), sha256=sha256.hexdigest(), sketch=sketch_of(ids))


def npy_sha256(ids: Uids) -> str:
    """The sha256 of the list as numpy saves it: a header, then the records."""
    header = io.BytesIO()
    fields = np.lib.format.header_data_from_array_1_0(np.empty(0, RECORDS)) | {"shape": ids.shape}
    np.lib.format.write_array_header_1_0(header, fields)
    sha256 = hashlib.sha256(header.getvalue())
    for start in range(0, len(ids), AT_ONCE):
        sha256.update(np.ascontiguousarray(ids[start : start + AT_ONCE]).view(np.uint8).data)
    return sha256.hexdigest()


def descends(ids: Uids) -> npt.NDArray[np.bool_]:
    """Where a record is less than the one before it."""
    high, low = ids["f0"], ids["f1"]
    same = high[1:] == high[:-1]
    return np.asarray((high[1:] < high[:-1]) | (same & (low[1:] < low[:-1])))


def choose(ids: Uids, sha256: str, number: int = SAMPLE) -> pa.Table:
    """The `number` records whose hash with the list's is smallest, sorted: (high, low)."""
    kept = np.empty(0, RECORDS)
    order = np.empty(0, np.uint64)
    for start in range(0, len(ids), AT_ONCE):
        part = np.asarray(ids[start : start + AT_ONCE])
        kept = np.concatenate([kept, part])
        order = np.concatenate([order, _hash(part, sha256)])
        if len(kept) > number:
            first = np.argpartition(order, number)[:number]
            kept, order = kept[first], order[first]
    kept = np.sort(kept)
    return pa.table([pa.array(kept["f0"]), pa.array(kept["f1"])], schema=SCHEMA)


def sketch_of(ids: Uids) -> tuple[int, ...]:
    """The `SKETCH` smallest hashes of the list's uids, sorted (a bottom-k sketch; Cohen 1997)."""
    kept = np.empty(0, np.uint64)
    for start in range(0, len(ids), AT_ONCE):
        part = np.asarray(ids[start : start + AT_ONCE])
        kept = np.unique(np.concatenate([kept, _hash(part, COMMON)]))[:SKETCH]
    return tuple(int(value) for value in kept)


def sketch_is_whole(claimed: UidList) -> bool:
    """Whether a sketch is as long, and its hashes as far apart, as those of so many uids are."""
    enough = len(claimed.sketch) == min(claimed.count, SKETCH)
    sparse = _estimate(claimed.sketch) < claimed.count / DENSE
    return enough and not sparse and not too_dense(claimed.sketch, claimed.count)


def too_dense(sketch: Sequence[int], count: int) -> bool:
    """Whether hashes are closer together than those of `count` different things can be."""
    return _estimate(sketch) > DENSE * count


def _estimate(sketch: Sequence[int]) -> float:
    """How many hashes a full sketch is of (Bar-Yossef et al. 2002); of a short one, its length."""
    if len(sketch) < SKETCH:
        return len(sketch)
    return (SKETCH - 1) / max(max(sketch) / 2**64, 2.0**-64)


def sketch_fits(sample: pa.Table, claimed: UidList) -> bool:
    """Whether a sample of a list can be of the list of a sketch: no smaller hash is left out."""
    if not claimed.sketch:
        return True
    if list(claimed.sketch) != sorted(set(claimed.sketch)) or len(claimed.sketch) > SKETCH:
        return False
    records = np.empty(sample.num_rows, RECORDS)
    records["f0"], records["f1"] = sample["high"].to_numpy(), sample["low"].to_numpy()
    hashes = set(_hash(records, COMMON).tolist())
    full = len(claimed.sketch) == SKETCH
    small = {value for value in hashes if not full or value <= claimed.sketch[-1]}
    return small <= set(claimed.sketch)


def _hash(ids: Uids, sha256: str) -> npt.NDArray[np.uint64]:
    """Two rounds of the finaliser of splitmix64 over both halves and the list's hash."""
    seed = np.uint64(int(sha256[:16], 16))
    value = np.ascontiguousarray(ids["f0"]) ^ seed
    for half in (np.ascontiguousarray(ids["f1"]), np.uint64(0)):
        value = value ^ half
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
        value = value ^ (value >> np.uint64(31))
    return value
