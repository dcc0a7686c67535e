"""What two datasets of one pool share: by row, source, domain, score, and the step that took a row.

Rows are compared by their identity in the pool, so nothing but a few columns is read. Every row of
the pool is in exactly one of four cells (in both, in A only, in B only, in neither), and every
table adds up to the same totals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.console import table
from pipelines.engine.run_folder import RUN, read_run
from pipelines.errors import DataError
from pipelines.global_steps.losses import HOST
from pipelines.records import DatasetRecord, Frozen
from pipelines.reports.pool_rows import RunPool, files_by_shard, run_pool
from pipelines.schema import ROW, URL
from pipelines.storage.base import Store
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store

SOURCE, DOMAIN = "source", "domain"
NOTHING = "-"  # the group of rows without a source, a URL or a score
BINS = 5  # of a score, by quantiles of the rows of both
MAX_GROUPS = 20  # rows of a printed table


class Cell(Frozen):
    """Rows of one group: in both datasets, in one only."""

    group: str
    both: int
    only_a: int
    only_b: int

    def rows(self) -> int:
        """Rows in either."""
        return self.both + self.only_a + self.only_b


class Fate(Frozen):
    """Rows that are in one dataset only, by where the other one dropped them."""

    side: str = Field(description="the dataset that has them")
    step: str = Field(description="the step of the other that dropped them, and the reason")
    rows: int


class Comparison(Frozen):
    """Two datasets of one pool. `groups` is a table for each way of grouping; each adds up."""

    rows_in: int
    both: int
    only_a: int
    only_b: int
    fates: tuple[Fate, ...]
    groups: dict[str, tuple[Cell, ...]]

    @property
    def neither(self) -> int:
        return self.rows_in - self.both - self.only_a - self.only_b


def compare(uri_a: str, uri_b: str, *, scores: Sequence[str] = ()) -> Comparison:
    """Compare two finished runs; `scores` are columns of numbers to group by as well.

    DataError when they are of other pools, or not tables of rows.
    """
    a, b = _side(uri_a), _side(uri_b)
    if a.record.parents != b.record.parents:
        raise DataError(
            f"{uri_a} is of the pool {a.record.parents.get('pool')}, {uri_b} of "
            f"{b.record.parents.get('pool')}: only datasets of one pool can be compared by rows"
        )
    groups: dict[str, dict[str, list[int]]] = {}
    both = only_a = only_b = 0
    fates: dict[tuple[str, str], int] = {}
    columns = [ROW, SOURCE, URL, *scores]
    edges = _edges(a, b, scores)
    for shard in range(a.num_shards):
        table_a, table_b = a.table(shard, columns), b.table(shard, columns)
        in_b = np.isin(_rows(table_a), _rows(table_b))
        in_a = np.isin(_rows(table_b), _rows(table_a))
        both += int(in_b.sum())
        only_a += int((~in_b).sum())
        only_b += int((~in_a).sum())
        _count_groups(groups, table_a, np.where(in_b, 0, 1), edges)
        _count_groups(groups, table_b.filter(pa.array(~in_a)), np.full((~in_a).sum(), 2), edges)
        for side, rows, other in (
            ("A", _rows(table_a)[~in_b], b),
            ("B", _rows(table_b)[~in_a], a),
        ):
            for what, number in _fates(other, shard, rows):
                fates[side, what] = fates.get((side, what), 0) + number
    return Comparison(
        rows_in=a.record.counts["rows_in"],
        both=both,
        only_a=only_a,
        only_b=only_b,
        fates=tuple(
            Fate(side=side, step=what, rows=number)
            for (side, what), number in sorted(fates.items(), key=lambda f: (f[0][0], -f[1]))
        ),
        groups={n: _cells(c, n in edges) for n, c in groups.items() if set(c) != {NOTHING}},
    )


def comparison_text(made: Comparison, names: tuple[str, str]) -> str:
    """The comparison as tables for a person."""
    first, other = names
    rows: list[tuple[Any, ...]] = [
        (f"in {first}", made.both, made.only_a, made.both + made.only_a),
        ("not", made.only_b, made.neither, made.only_b + made.neither),
        ("", made.both + made.only_b, made.only_a + made.neither, made.rows_in),
    ]
    lines = [table(rows, header=("rows", f"in {other}", "not", "sum"))]
    if made.fates:
        shown = [
            (first if fate.side == "A" else other, fate.step, fate.rows) for fate in made.fates
        ]
        lines += ["", table(shown, header=("only in", "the other dropped it in", "rows"))]
    for name, cells in made.groups.items():
        some = [(c.group, c.both, c.only_a, c.only_b) for c in cells[:MAX_GROUPS]]
        if len(cells) > MAX_GROUPS:
            rest = cells[MAX_GROUPS:]
            sums = [sum(getattr(c, f) for c in rest) for f in ("both", "only_a", "only_b")]
            some.append((f"{len(rest):,} more", *sums))
        lines += ["", table(some, header=(name, "both", f"only {first}", f"only {other}"))]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Side:
    """One of the two datasets: tables of documents, or of pairs the rows of the pool it kept."""

    store: Store
    record: DatasetRecord
    pairs: RunPool | None

    @property
    def num_shards(self) -> int:
        if self.pairs is not None:
            return len(self.pairs.files)
        return len(self.record.outputs)

    @cached_property
    def rejected(self) -> dict[int, list[str]]:
        """Files of rejected rows by shard."""
        return files_by_shard(self.store, "rejected/")

    def table(self, shard: int, columns: Sequence[str]) -> pa.Table:
        """The columns that are there, `row` sorted as it was written."""
        if self.pairs is not None:
            others = [name for name in columns if name != ROW]
            return pa.concat_tables(self.pairs.kept_pairs(shard, others)).combine_chunks()
        with self.store.open(self.record.outputs[shard].name) as opened:
            parquet = pq.ParquetFile(opened)
            names = parquet.schema_arrow.names
            return parquet.read(columns=[name for name in columns if name in names])


def _side(uri: str) -> _Side:
    store = open_store(uri)
    record = read_chain(store)[-1]
    if not isinstance(record, DatasetRecord):
        raise DataError(f"{store.uri} is no dataset but a {record.kind}; name two runs' folders")
    plan = read_run(store).plan if store.exists(RUN) else None
    if plan is not None and plan.pairs:
        return _Side(store, record, run_pool(store))
    if not all(file.name.endswith(".parquet") for file in record.outputs):
        raise DataError(
            f"{store.uri} is neither tables of documents nor a run over pairs; only such can be "
            "compared"
        )
    return _Side(store, record, None)


def _rows(read: pa.Table) -> npt.NDArray[np.int64]:
    return read.column(ROW).to_numpy()  # type: ignore[no-any-return]


def _edges(a: _Side, b: _Side, scores: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Quantiles of each score over the rows of both datasets (of a row in both, twice)."""
    edges = {}
    for name in scores:
        values: list[Any] = []
        for side in (a, b):
            for shard in range(side.num_shards):
                read = side.table(shard, [name])
                if name in read.column_names:
                    values.append(_numbers(read.column(name)))
        known = np.concatenate(values) if values else np.zeros(0)
        known = known[~np.isnan(known)]
        if not len(known):
            raise DataError(f"neither dataset has numbers in a column {name!r}")
        edges[name] = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)))
    return edges


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return column.cast(pa.float64(), safe=False).to_numpy()  # type: ignore[no-any-return]


def _count_groups(
    groups: dict[str, dict[str, list[int]]],
    read: pa.Table,
    cell: npt.NDArray[np.int64],
    edges: Mapping[str, npt.NDArray[np.float64]],
) -> None:
    """Add the rows of a table, whose cells these are, to each way of grouping."""
    if not len(cell):
        return
    for name, labels in _labels(read, edges):
        counts = groups.setdefault(name, {})
        encoded = labels.fill_null(NOTHING).dictionary_encode()
        pairs = encoded.indices.to_numpy() * 3 + cell
        numbers = np.bincount(pairs, minlength=3 * len(encoded.dictionary)).reshape(-1, 3)
        for label, row in zip(encoded.dictionary.to_pylist(), numbers.tolist(), strict=True):
            known = counts.setdefault(label, [0, 0, 0])
            counts[label] = [a + b for a, b in zip(known, row, strict=True)]


def _labels(
    read: pa.Table, edges: Mapping[str, npt.NDArray[np.float64]]
) -> Iterator[tuple[str, pa.Array]]:
    nothing = pa.nulls(read.num_rows, pa.large_string())

    def column(name: str) -> pa.Array | None:
        there = name in read.column_names
        return read.column(name).combine_chunks() if there else None

    sources, urls = column(SOURCE), column(URL)
    yield SOURCE, nothing if sources is None else sources.cast(pa.large_string())
    hosts = nothing
    if urls is not None:
        hosts = pc.replace_substring_regex(urls.cast(pa.large_string()), HOST, r"\1")
    yield DOMAIN, hosts
    for name, borders in edges.items():
        if name not in read.column_names:
            yield name, nothing
            continue
        values = _numbers(read.column(name))
        bins = np.clip(np.searchsorted(borders, values, side="right") - 1, 0, len(borders) - 2)
        texts = [f"{borders[n]:.4g} to {borders[n + 1]:.4g}" for n in range(len(borders) - 1)]
        shown = np.array([*texts, NOTHING])[np.where(np.isnan(values), len(texts), bins)]
        yield name, pa.array(shown.tolist(), pa.large_string())


def _cells(counts: Mapping[str, Sequence[int]], by_score: bool) -> tuple[Cell, ...]:
    """The groups of one table: the largest first, or scores from low to high."""
    cells = [
        Cell(group=name, both=both, only_a=only_a, only_b=only_b)
        for name, (both, only_a, only_b) in counts.items()
    ]
    if by_score:
        known = [cell for cell in cells if cell.group != NOTHING]
        known.sort(key=lambda cell: float(cell.group.split()[0]))
        return (*known, *(cell for cell in cells if cell.group == NOTHING))
    return tuple(sorted(cells, key=lambda cell: (-cell.rows(), cell.group)))


def _fates(side: _Side, shard: int, rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, int]]:
    """In which steps a run dropped these rows of a shard."""
    if not len(rows):
        return
    left = len(rows)
    for name in side.rejected.get(shard, ()):
        with side.store.open(name) as file:
            read = pq.read_table(file, columns=[ROW, "step", "operator", "reason"])
        here = read.filter(pa.array(np.isin(_rows(read), rows)))
        counted = here.group_by(["step", "operator", "reason"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            left -= row["count_all"]
            yield f"step {row['step'] + 1} ({row['operator']}): {row['reason']}", row["count_all"]
    if left:
        yield "no step is noted", left
