"""What a pass over a shard writes: a table, the rows that are left, scores, keys, or uids.

Each sink takes batches and, at the end, returns stored files by role. `abandon` removes everything
that was written when the shard fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import kernels
from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.formats.uid_subset import write_uids
from pipelines.formats.writers import TableWriter, suffix_of, write_array
from pipelines.global_steps.group_keys import KeyWriter
from pipelines.global_steps.similarity import SKETCHES, sketch_columns
from pipelines.images.pairs import UID
from pipelines.job import loaded
from pipelines.operators import Dedup, Select
from pipelines.pipeline import Step
from pipelines.records import File
from pipelines.schema import ROW, number_of
from pipelines.storage.base import Store
from pipelines.storage.commits import attempt_name
from pipelines.storage.part_files import PartsWriter


class NoScore(ValueError):
    """A row without a score, in a Select that requires one for every row."""


class Sink(Protocol):
    """Takes the batches of a shard; `amount` is what a Select counts."""

    def add(self, batch: Batch) -> None: ...

    def close(self) -> Iterator[tuple[str, File]]:
        """Finish the files; pairs of role and file."""
        ...

    def abandon(self) -> None: ...


class TableSink:
    """Rows with their columns; `columns` chooses some of them."""

    def __init__(
        self, store: Store, stem: str, kind: str, *, role: str, columns: Sequence[str] | None
    ) -> None:
        self._store, self._kind, self._role, self._columns = store, kind, role, columns
        self._name = attempt_name(stem, suffix_of(kind))
        self._writer: TableWriter | None = None

    def add(self, batch: Batch) -> None:
        table = batch.table if self._columns is None else batch.table.select(self._columns)
        if self._writer is None:  # the first batch shows the schema
            self._writer = TableWriter(self._store, self._name, self._kind, table.schema)
        self._writer.write(table)

    def close(self) -> Iterator[tuple[str, File]]:
        assert self._writer is not None, "a shard has at least one batch, if an empty one"
        yield self._role, self._writer.close()

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()


class RowSink:
    """The ids of the rows that are left."""

    def __init__(self, store: Store, stem: str) -> None:
        self._store, self._stem = store, stem
        self._rows: list[npt.NDArray[np.int64]] = []

    def add(self, batch: Batch) -> None:
        self._rows.append(batch.rows)

    def close(self) -> Iterator[tuple[str, File]]:
        name = attempt_name(f"{self._stem}-rows", ".npy")
        yield "rows", write_array(self._store, name, _joined(self._rows, np.int64))

    def abandon(self) -> None:
        """Nothing was written yet."""


class ScoreSink:
    """The scores of a Select, and the weight of each row unless rows are counted."""

    def __init__(self, store: Store, stem: str, step: Step, assets: Assets) -> None:
        self._store, self._stem, self._step, self._assets = store, stem, step, assets
        self._scores: list[npt.NDArray[np.float64]] = []
        self._weights: list[npt.NDArray[np.int64]] = []
        self.amount = 0

    def add(self, batch: Batch) -> None:
        operator = loaded(self._step, self._assets)
        assert isinstance(operator, Select)
        scores = np.asarray(operator.score(batch), dtype=np.float64).reshape(-1)
        copies = operator.copies()
        if operator.missing == "error" and (missing := np.isnan(scores)).any():
            row = int(batch.rows[int(np.flatnonzero(missing)[0]) // copies])
            raise NoScore(
                f"row {number_of(row)}: no score (null or NaN); set missing: drop to let such rows "
                "go, counted as no_score"
            )
        self._scores.append(scores)
        if operator.of == "rows":
            self.amount += batch.num_rows
            return
        self._weights.append(operator.weight(batch))
        self.amount += int(self._weights[-1].sum())

    def close(self) -> Iterator[tuple[str, File]]:
        name = attempt_name(f"{self._stem}-scores", ".npy")
        yield "scores", write_array(self._store, name, _joined(self._scores, np.float64))
        if self._weights:
            name = attempt_name(f"{self._stem}-weights", ".npy")
            yield "weights", write_array(self._store, name, _joined(self._weights, np.int64))

    def abandon(self) -> None:
        """Nothing was written yet."""


class KeySink:
    """The keys of a Dedup by partition, and sketches if links between rows are verified."""

    def __init__(
        self, store: Store, stem: str, step: Step, assets: Assets, *, num_partitions: int
    ) -> None:
        self._step, self._assets = step, assets
        assert isinstance(step.operator, Dedup)
        self._sketches: PartsWriter | None = None
        if step.operator.linked and step.operator.min_similarity() is not None:
            name = attempt_name(f"{stem}-sketches", ".parts")
            self._sketches = PartsWriter(store, name, SKETCHES)
        self.kinds: dict[str, str] = {}  # of values, by what compares them
        self._writer = KeyWriter(store, attempt_name(f"{stem}-keys", ".parts"), num_partitions)

    @property
    def rank(self) -> str:
        return self._writer.rank

    def add(self, batch: Batch) -> None:
        operator = loaded(self._step, self._assets)
        assert isinstance(operator, Dedup)
        keys = operator.keys(batch)
        for name, kind in (("keep_by", keys.rank_kind), ("it", keys.key_kind)):
            if kind is not None and self.kinds.setdefault(name, kind) != kind:
                raise ValueError(
                    f"{name} compares {self.kinds[name]} in some rows and {kind} in others; "
                    "make the column one type"
                )
        self._writer.add(keys, batch.rows)
        if self._sketches is not None:
            self._sketches.add(0, sketch_columns(batch.rows, operator.sketch(batch)))

    def close(self) -> Iterator[tuple[str, File]]:
        yield "keys", self._writer.close()
        if self._sketches is not None:
            self._sketches.__exit__(None, None, None)
            yield "sketches", self._sketches.file()

    def abandon(self) -> None:
        self._writer.abandon()
        if self._sketches is not None:
            self._sketches.__exit__(RuntimeError, RuntimeError("abandoned"), None)


class UidSink:
    """The uids of pairs in buckets by their leading bits, to be sorted bucket by bucket.

    `values` are number columns stored with them; null becomes NaN.
    """

    def __init__(
        self, store: Store, stem: str, *, num_buckets: int, values: Sequence[str] = ()
    ) -> None:
        self._store, self._stem, self._buckets = store, stem, num_buckets
        self._values: dict[str, list[Any]] = {name: [] for name in values}
        self._uids: list[tuple[Any, Any]] = []

    def add(self, batch: Batch) -> None:
        high, low, _ = kernels.uids.parse(batch.column(UID))
        self._uids.append((high, low))
        for name, parts in self._values.items():
            column = batch.column(name).cast(pa.float32())
            parts.append(column.to_numpy(zero_copy_only=False).astype(np.float32))

    def close(self) -> Iterator[tuple[str, File]]:
        stem, values = f"{self._stem}-uids", self._values
        yield "uids", write_uids(self._store, stem, self._uids, self._buckets, values=values)

    def abandon(self) -> None:
        """Nothing was written yet."""


def with_rows(columns: Sequence[str]) -> list[str]:
    """The columns of a table between passes, the row id first."""
    return [ROW, *(name for name in columns if name != ROW)]


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
