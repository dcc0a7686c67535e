"""What deduplication found: which unit was dropped for which, how large the groups are.

Every dropped unit (document, line or span) is listed with the one that was kept for it in a parquet
file below `duplicates/`, which stays with the run; counts of groups merge by addition.
`step-N.json` next to them is the report of one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.batch import Batch
from pipelines.formats.writers import write_table
from pipelines.global_steps.losses import Loss, Losses
from pipelines.records import JSON, File, Frozen, digest
from pipelines.schema import TEXT
from pipelines.stats import add_counts
from pipelines.storage.base import Store
from pipelines.storage.commits import Done, attempt_name, commit, find_done

DUPLICATES = "duplicates"  # the folder in a run
SOURCE = "source"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("unit", pa.int64()),
        ("kept_row", pa.int64()),
        ("kept_unit", pa.int64()),
    ]
)
MAX_LARGEST = 10  # groups in the report
EXAMPLE_CHARACTERS = 300  # of a text in the report


@dataclass(frozen=True)
class Duplicates:
    """Units that go, each with the one that stays for it. Four arrays of one length."""

    row: npt.NDArray[np.int64]
    unit: npt.NDArray[Any]
    kept_row: npt.NDArray[np.int64]
    kept_unit: npt.NDArray[Any]


class Group(Frozen):
    """A group of equal or linked units: how many, and the first one's place and text."""

    size: int
    row: int
    unit: int
    example: str | None = None


class Groups(Frozen):
    """Groups of duplicates of one step. `sizes` counts groups by size: "2", "3-4", "5-8", ..."""

    units: int = 0  # that were compared
    groups: int = 0  # of two or more
    dropped: int = 0
    pairs: int | None = None  # that were compared n-gram by n-gram, where links are checked
    refused: int | None = None  # of them, not similar enough
    sizes: dict[str, int] = Field(default_factory=dict)
    largest: tuple[Group, ...] = ()


class FilterState(Frozen):
    """A Bloom filter at the end of one group of shards."""

    group: int
    rows: int
    expected_ngrams: int
    inserted_ngrams: int
    filter_bytes: int
    num_hashes: int
    filled_fraction: float  # of the bits
    false_positive_rate: float  # that this filling has


class Report(Frozen):
    """`duplicates/step-N.json`: what one step found and removed. `step` counts from 1."""

    step: int
    operator: str
    kind: str
    rows_in: int
    rejected: int
    removed_bytes: dict[str, int]  # of text, by the column `source`, else by shard
    groups: Groups | None = None  # a Bloom filter does not know them
    filters: tuple[FilterState, ...] = ()
    losses: tuple[Loss, ...] = ()  # sources and domains of which more than half went


def groups_of_sizes(
    sizes: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    units: npt.NDArray[Any],
    *,
    compared: int,
) -> Groups:
    """Counts of groups of these sizes (ones too), whose first units are these."""
    many = np.flatnonzero(sizes > 1)
    sizes, rows, units = sizes[many], rows[many], units[many]
    powers, counts = np.unique(np.ceil(np.log2(sizes)).astype(int), return_counts=True)
    order = np.lexsort((units, rows, -sizes))[:MAX_LARGEST]
    return Groups(
        units=compared,
        groups=len(sizes),
        dropped=int((sizes - 1).sum()),
        sizes={_bin(p): n for p, n in zip(powers.tolist(), counts.tolist(), strict=True)},
        largest=tuple(
            Group(size=int(sizes[i]), row=int(rows[i]), unit=int(units[i])) for i in order
        ),
    )


def _bin(power: int) -> str:
    return "2" if power == 1 else f"{2 ** (power - 1) + 1}-{2**power}"


def merge_groups(parts: Iterable[JSON]) -> Groups:
    """The groups of a step from those of its parts."""
    all_groups = [Groups.model_validate(part) for part in parts]
    sizes: dict[str, int] = {}
    for groups in all_groups:
        sizes = add_counts(sizes, groups.sizes)
    largest = sorted(
        (g for groups in all_groups for g in groups.largest), key=lambda g: (-g.size, g.row)
    )
    return Groups(
        units=sum(groups.units for groups in all_groups),
        groups=sum(groups.groups for groups in all_groups),
        dropped=sum(groups.dropped for groups in all_groups),
        sizes=dict(sorted(sizes.items(), key=lambda item: int(item[0].split("-")[0]))),
        largest=tuple(largest[:MAX_LARGEST]),
    )


def write_duplicates(store: Store, stem: str, duplicates: Duplicates) -> File:
    """A parquet file of units that go, sorted by the ones that stay for them."""
    order = np.lexsort((duplicates.unit, duplicates.row, duplicates.kept_unit, duplicates.kept_row))
    columns = [
        pa.array(np.asarray(values)[order].astype(np.int64))
        for values in (duplicates.row, duplicates.unit, duplicates.kept_row, duplicates.kept_unit)
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    return write_table(store, attempt_name(stem, ".parquet"), table)


def write_report(store: Store, report: Report) -> None:
    """Commit the report of one step; a second one of the same work changes nothing."""
    content = report.model_dump(mode="json")
    key = f"report{report.step}-{digest(content)[:16]}"
    if find_done(store, key) is None:
        with store.create(attempt_name(f"{DUPLICATES}/step-{report.step}", ".json")) as out:
            out.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        commit(store, Done(key=key, files=(out.file(),)))


class Removed:
    """Counts the bytes of text that a step takes away, by source."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.by_source: dict[str, int] = {}
        self.losses = Losses()

    def count(self, before: Batch, after: Batch) -> None:
        """What `before` had and `after`, a batch of some of its rows, has not."""
        if not before.has(TEXT):
            return
        lost = _sizes(before)
        stays = np.isin(before.rows, after.rows, assume_unique=True)
        lost[stays] -= _sizes(after)
        self.losses.count(before, ~stays)
        if before.has(SOURCE):
            sources = before.strings(SOURCE).fill_null("").dictionary_encode()
            names = [name or self.shard for name in sources.dictionary.to_pylist()]
            codes = sources.indices.to_numpy()
        else:
            names, codes = [self.shard], np.zeros(len(lost), np.int64)
        sums = np.bincount(codes, weights=lost, minlength=len(names)).astype(np.int64)
        for name, number in zip(names, sums.tolist(), strict=True):
            if number:
                self.by_source[name] = self.by_source.get(name, 0) + number


def _sizes(batch: Batch) -> npt.NDArray[np.int64]:
    sizes = pc.binary_length(batch.text).fill_null(0)
    return sizes.to_numpy(zero_copy_only=False).astype(np.int64)
