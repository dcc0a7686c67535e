"""Precision and recall of a run's deduplication, where a column says which rows are the same.

Pools with planted copies have such a column, as the tiny pool of pairs has in `url`; in a pool from
the web, a canonical address or a product number is one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.console import table
from pipelines.engine.run_folder import read_run
from pipelines.global_steps.duplicate_record import DUPLICATES, SCHEMA
from pipelines.operators import Dedup
from pipelines.records import Frozen, RecordError
from pipelines.reports.duplicate_groups import reports
from pipelines.reports.pool_rows import run_pool
from pipelines.storage.base import Store

Ints = npt.NDArray[np.int64]


class Known(Frozen):
    """One deduplication of rows (steps from 1), measured by a column. Nulls of it equal nothing.

    `copies`: rows that reached the step and have the value of an earlier one; `dropped_copies` of
    them went. Of the rows that went, `dropped`, `dropped_alike` have the value of the one that was
    kept for them.
    """

    step: int
    operator: str
    rows_in: int
    copies: int
    dropped_copies: int
    dropped: int
    dropped_alike: int

    @property
    def recall(self) -> float | None:
        """Part of the copies that went; None without copies."""
        return self.dropped_copies / self.copies if self.copies else None

    @property
    def precision(self) -> float | None:
        """Part of what went that is a copy of what was kept for it; None if nothing went."""
        return self.dropped_alike / self.dropped if self.dropped else None


def known_duplicates(store: Store, column: str) -> list[Known]:
    """Every deduplication of a finished run that drops whole rows, in the order of steps.

    RecordError where the pool is gone, has no such column, or the run has no such step.
    """
    pipeline = read_run(store).of_pipeline().pipeline()
    steps = [
        number
        for number, step in enumerate(pipeline.steps)
        if isinstance(step.operator, Dedup) and not step.operator.writes()
    ]
    if not steps:
        raise RecordError(f"{store.uri} has no deduplication that drops rows as a whole")
    rows, values = _values(store, column)
    order = np.argsort(rows)
    rows, values = rows[order], values[order]
    rows_in = {report.step - 1: report.rows_in for report in reports(store)}
    measured = []
    for number in steps:
        operator = pipeline.steps[number].name
        reached = ~np.isin(rows, _rejected_before(store, number))
        if reached.sum() != rows_in[number]:
            raise RecordError(
                f"{rows_in[number]:,} rows reached step {number + 1} ({operator}), and of the "
                f"pool's {reached.sum():,} were not rejected before it: the run kept no list of "
                "what it rejected, or a step made rows that the pool does not have"
            )
        names = [e.name for e in store.list(f"{DUPLICATES}/{number:03d}-")]
        pairs = pa.concat_tables([SCHEMA.empty_table(), *(_read(store, name) for name in names)])
        measured.append(
            _measured(number + 1, operator, rows=rows[reached], values=values[reached], pairs=pairs)
        )
    return measured


def _read(store: Store, name: str) -> pa.Table:
    with store.open(name) as file:
        return pq.read_table(file)


def _values(store: Store, column: str) -> tuple[Ints, Ints]:
    """The identity of every row of the pool, and a number for its value; -1 for null."""
    pool = run_pool(store)
    numbers: dict[object, int] = {}
    rows, values, has_column = [], [], False
    for shard in range(len(pool.files)):
        for batch in pool.batches(shard, columns=[column]):
            rows.append(batch.rows)
            if not batch.has(column):
                values.append(np.full(len(batch.rows), -1))
                continue
            has_column = True
            here = _numbers(batch.column(column).to_pylist(), numbers)
            values.append(np.fromiter(here, np.int64, len(batch.rows)))
    if not has_column:
        raise RecordError(f"no row of the pool at {pool.plan.input_uri} has a column {column!r}")
    return np.concatenate(rows), np.concatenate(values)


def _numbers(values: list[object], numbers: dict[object, int]) -> Iterator[int]:
    for value in values:
        yield -1 if value is None else numbers.setdefault(str(value), len(numbers))


def _rejected_before(store: Store, step: int) -> Ints:
    """Rows that steps before this one (from 0) took out, or that were set aside."""
    tables = []
    for entry in store.list("rejected/"):
        if entry.name.endswith(".parquet"):
            rejected = _read(store, entry.name)
            tables.append(rejected.filter(pc.less(rejected["step"], step))["row"].to_numpy())
    return np.concatenate(tables) if tables else np.zeros(0, np.int64)


def _measured(step: int, operator: str, *, rows: Ints, values: Ints, pairs: pa.Table) -> Known:
    dropped, kept = (pairs[name].to_numpy() for name in ("row", "kept_row"))
    with_value = values[values >= 0]
    staying = values[~np.isin(rows, dropped) & (values >= 0)]
    copies = len(with_value) - len(np.unique(with_value))
    left = len(staying) - len(np.unique(staying))
    places = [np.searchsorted(rows, these) for these in (dropped, kept)]
    alike = (values[places[0]] == values[places[1]]) & (values[places[0]] >= 0)
    return Known(
        step=step,
        operator=operator,
        rows_in=len(rows),
        copies=copies,
        dropped_copies=copies - left,
        dropped=len(dropped),
        dropped_alike=int(alike.sum()),
    )


def known_text(measured: list[Known], column: str) -> str:
    """A table for people."""
    rows = [
        (
            *(known.step, known.operator, known.rows_in, known.copies, known.dropped_copies),
            *(_percent(known.recall), known.dropped, _percent(known.precision)),
        )
        for known in measured
    ]
    header = (
        *("step", "operator", "rows in", "copies", "went", "recall"),
        *("all that went", "precision"),
    )
    return f"copies: rows with the {column!r} of another\n\n{table(rows, header=header)}"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"
