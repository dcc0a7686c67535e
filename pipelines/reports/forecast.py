"""What a run will keep and take, estimated from a sample of its pool, with error bars.

The row-wise steps run over the first rows of shards spread evenly over the pool. Every figure is
a ratio to the bytes of pool file that the sample took, times those of the whole pool; its error
comes from how the ratio differs between pieces (Cochran 1977, Sampling Techniques, 6.3), 95 %.
Steps over the whole pool are run over parts of the sample (`forecast_growth`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field

from pipelines.batch import MAX_BATCH_ROWS
from pipelines.console import table
from pipelines.engine.apply import apply
from pipelines.engine.run_folder import RunSummary
from pipelines.errors import PipelineError
from pipelines.execution.progress import short
from pipelines.formats.pool import Pool
from pipelines.formats.sample import pieces
from pipelines.operators import GLOBAL_KINDS, Select
from pipelines.pipeline import Pipeline, Step
from pipelines.records import Frozen
from pipelines.reports.forecast_growth import Measure, Share, growth, of_rows
from pipelines.schema import ROW
from pipelines.storage.base import Store, write_bytes

Floats = npt.NDArray[np.float64]
FORECAST = "forecast.json"
MAX_SHARDS = 16  # that a sample is spread over
FEW_PIECES = 4  # with fewer an interval is hardly known: pieces are made smaller
# Student's t at 97.5 % by degrees of freedom 1 to 15
STUDENT = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
)


class Bar(Frozen):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Forecast(Frozen):
    """What a run is expected to give. `steps`: rows behind each step, by its number from 0."""

    pool_bytes: int
    sample_bytes: float  # of pool file
    sample_rows: int
    pieces: int
    rows_in: Bar
    rows_out: Bar
    text_bytes: Bar
    cpu_seconds: Bar
    wall_seconds: float | None = Field(None, description="with so many `workers` on one machine")
    workers: int = 1
    steps: dict[str, Bar] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Unit(Frozen):
    """What one piece of a sample gave. `steps`: rows behind each step that sees rows singly."""

    file_bytes: float
    rows_in: int
    rows_out: int
    text_bytes: int
    cpu_seconds: float
    steps: dict[int, int]


def share_of(text: str) -> float:
    """0.001 of `0.1%` or `0.001`. PipelineError for what is no number."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise PipelineError(f"--sample {text!r}: expected a share, as 0.1% or 0.001") from None


def forecast(pipeline: Pipeline, pool: Pool, *, fraction: float, workers: int = 1) -> Forecast:
    """Run the pipeline over a sample of the pool. ValueError where no such sample is."""
    if not 0 < fraction <= 1:
        raise ValueError(f"--sample {fraction}: expected a share above 0 and up to 1 (or 100%)")
    pipeline.check_ready()
    pipeline.check_columns(pool.schema(), inside=pool.fields())
    tables: list[pa.Table] = []
    units = list(_units(pipeline, pool, fraction, tables))
    if not units:
        raise ValueError(f"the sample of {pool.uri} holds no document with a text")
    return of_units(pipeline, pool, units, measure=partial(of_rows, tables), workers=workers)


def of_units(
    pipeline: Pipeline, pool: Pool, units: Sequence[Unit], *, measure: Measure, workers: int
) -> Forecast:
    """The forecast from what pieces of a sample gave; `measure` runs parts of it for `growth`."""
    notes = list(_notes(pipeline))
    if len(units) < 2:
        notes.append("the sample is a single piece, so nothing can be said about its error")
    files = np.array([unit.file_bytes for unit in units])
    kept, most = _selected(pipeline)

    def bar(values: Sequence[float], *, factor: float = 1.0) -> Bar:
        return _ratio(np.array(values, dtype=np.float64), files, pool.num_bytes, factor)

    rows_in = bar([unit.rows_in for unit in units])
    cpu = bar([unit.cpu_seconds for unit in units])
    rows = _Behind({str(n): bar([unit.steps[n] for unit in units]) for n in units[0].steps})
    rows_out = bar([unit.rows_out for unit in units], factor=kept)
    text_bytes = bar([unit.text_bytes for unit in units], factor=kept)
    wall = cpu.value / min(workers, len(pool.shards))
    if any(step.operator.kind in ("dedup", "fold") for step in pipeline.steps):
        grown = growth(pipeline, measure, pool_rows=rows_in.value)
        for number, share in grown.rows.items():
            rows.through(number, share, rows_in)
            rows_out = _times(rows_out, share)
            text_bytes = _times(text_bytes, grown.text_bytes[number])
        for name, seconds in sorted(
            grown.cpu_seconds.items(), key=lambda item: item[0] != "run_shard"
        ):
            took = seconds * rows_in.value
            if name == "run_shard":  # whose row-wise steps are counted
                took = max(took - cpu.value, 0.0)
            cpu = Bar(value=cpu.value + took, low=cpu.low + took, high=cpu.high + took)
            groups = min(grown.groups, len(pool.shards)) if name == "run_fold" else workers
            wall += took / min(workers, groups)
    return Forecast(
        pool_bytes=pool.num_bytes,
        sample_bytes=float(files.sum()),
        sample_rows=sum(unit.rows_in for unit in units),
        pieces=len(units),
        rows_in=rows_in,
        rows_out=_at_most(rows_out, most),
        text_bytes=text_bytes,
        cpu_seconds=cpu,
        wall_seconds=wall,
        workers=workers,
        steps=rows.steps,
        notes=tuple(notes),
    )


class _Behind:
    """Rows behind each step by its number from 0; those over the whole pool are put in later."""

    def __init__(self, row_wise: dict[str, Bar]) -> None:
        self.steps = row_wise

    def through(self, number: int, share: Share, rows_in: Bar) -> None:
        """Put a step in: what is before it times the share it keeps, and so all behind it."""
        before = [int(n) for n in self.steps if int(n) < number]
        reaching = self.steps[str(max(before))] if before else rows_in
        behind = {
            n: _times(bar, share) if int(n) > number else bar for n, bar in self.steps.items()
        }
        behind[str(number)] = _times(reaching, share)
        self.steps = dict(sorted(behind.items(), key=lambda item: int(item[0])))


def _times(bar: Bar, share: Share) -> Bar:
    return Bar(value=bar.value * share.value, low=bar.low * share.low, high=bar.high * share.high)


def _at_most(bar: Bar, most: float | None) -> Bar:
    if most is None:
        return bar
    return Bar(value=min(bar.value, most), low=min(bar.low, most), high=min(bar.high, most))


def _units(
    pipeline: Pipeline, pool: Pool, fraction: float, tables: list[pa.Table]
) -> Iterator[Unit]:
    """Pieces of different shards; of few shards, slices of their rows instead.

    The rows of the pieces are appended to `tables`.
    """
    plain, numbers = row_wise(pipeline)
    many = min(MAX_SHARDS, len(pool.shards))
    started = time.process_time()
    for piece in pieces(pool, shards=many, fraction=fraction):
        reading = (time.process_time() - started) / piece.table.num_rows
        size = piece.table.num_rows
        tables.append(piece.table)
        if many < FEW_PIECES:
            size = min(MAX_BATCH_ROWS, -(-size // FEW_PIECES))
        for begin in range(0, piece.table.num_rows, size):
            rows = piece.table.slice(begin, size)
            yield _unit(plain, numbers, rows, piece.file_bytes / piece.table.num_rows, reading)
        started = time.process_time()


def row_wise(pipeline: Pipeline) -> tuple[Pipeline, list[int]]:
    """The steps that see rows singly as a pipeline of their own, and their numbers from 0."""
    steps = [step for step in pipeline.steps if step.operator.kind not in GLOBAL_KINDS]
    numbered = tuple(Step(n, step.name, step.operator) for n, step in enumerate(steps))
    plain = Pipeline(pipeline.name, numbered, pipeline.modules, assets=pipeline.assets)
    return plain, [step.number for step in steps]


def _unit(
    plain: Pipeline, numbers: Sequence[int], rows: pa.Table, file_bytes: float, reading: float
) -> Unit:
    started = time.process_time()
    applied = apply(plain, rows.drop_columns([ROW]))
    seconds = time.process_time() - started
    stats = applied.stats.steps
    return Unit(
        file_bytes=file_bytes * rows.num_rows,
        rows_in=rows.num_rows,
        rows_out=stats[-1].rows_out,
        text_bytes=stats[-1].bytes_out,
        cpu_seconds=seconds + reading * rows.num_rows,
        steps={number: step.rows_out for number, step in zip(numbers, stats[1:], strict=True)},
    )


def _ratio(values: Floats, files: Floats, whole: int, factor: float) -> Bar:
    number = len(values)
    ratio = values.sum() / files.sum()
    estimate = ratio * whole * factor
    error = 0.0
    if number > 1:
        spread = ((values - ratio * files) ** 2).sum() * number / (number - 1)
        student = STUDENT[number - 2] if number - 2 < len(STUDENT) else 1.96
        unseen = max(0.0, 1 - files.sum() / whole)  # nothing is left to guess in a whole pool
        error = student * float(np.sqrt(spread * unseen)) / files.sum() * whole * factor
    low, high = max(0.0, estimate - error), estimate + error
    return Bar(value=float(estimate), low=float(low), high=float(high))


def _selected(pipeline: Pipeline) -> tuple[float, float | None]:
    """The share that selections keep, and the most rows that any lets through."""
    share, most = 1.0, None
    for step in pipeline.steps:
        operator = step.operator
        if isinstance(operator, Select) and operator.fraction is not None:
            share *= operator.fraction
        elif isinstance(operator, Select) and operator.total is not None and operator.of == "rows":
            most = operator.total if most is None else min(most, operator.total)
    return share, most


def _notes(pipeline: Pipeline) -> Iterator[str]:
    for step in pipeline.steps:
        kind = step.operator.kind
        if kind in ("dedup", "fold"):
            yield (
                f"{step.label} looks at the whole pool, of which a sample shows few copies: from "
                "and to are bounds (copies grow with the pool, or are all seen), no interval"
            )
        elif kind == "splitter":
            yield f"{step.label} makes rows of rows: those behind it count its parts"


# ---- where it is kept


def write_forecast(store: Store, forecast: Forecast) -> None:
    write_bytes(store, FORECAST, forecast.model_dump_json(indent=2).encode())


def read_forecast(store: Store) -> Forecast | None:
    """The forecast that was made for this run's folder, if any."""
    if not store.exists(FORECAST):
        return None
    return Forecast.model_validate(orjson.loads(store.read_bytes(FORECAST)))


def compare(forecast: Forecast, summary: RunSummary) -> Iterator[tuple[str, Bar, float]]:
    """Predicted and actual figures side by side, where both are known."""
    steps = summary.stats.steps
    yield "rows in", forecast.rows_in, summary.stats.rows_in
    for step in steps[1:]:
        if str(step.number) not in forecast.steps:
            break  # behind a step over the whole pool, rows were not predicted
        name = f"rows behind step {step.number + 1} ({step.name})"
        yield name, forecast.steps[str(step.number)], step.rows_out
    yield "rows out", forecast.rows_out, summary.stats.rows_out
    if forecast.text_bytes.value or steps[-1].bytes_out:
        yield "bytes of text out", forecast.text_bytes, steps[-1].bytes_out
    yield "CPU seconds", forecast.cpu_seconds, summary.cpu_seconds


def forecast_text(prediction: Forecast) -> str:
    """The forecast as a table."""
    rows = [
        (name, short(bar.value), short(bar.low), short(bar.high))
        for name, bar in (
            ("rows in", prediction.rows_in),
            ("rows out", prediction.rows_out),
            ("bytes of text out", prediction.text_bytes),
            ("CPU seconds", prediction.cpu_seconds),
        )
    ]
    if not prediction.text_bytes.value:  # pairs
        del rows[2]
    behind = [
        (f"rows behind step {int(n) + 1}", short(bar.value), short(bar.low), short(bar.high))
        for n, bar in prediction.steps.items()
    ]
    rows[1:1] = behind
    share = prediction.sample_bytes / max(prediction.pool_bytes, 1)
    lines = [
        f"from {prediction.sample_rows:,} rows, {share:.2%} of the pool's bytes, in "
        f"{prediction.pieces} pieces; intervals hold 95 %:",
        "",
        table(rows, header=("what", "predicted", "from", "to")),
        "",
        f"about {prediction.wall_seconds or 0:,.0f} s with {prediction.workers} "
        f"worker{'' if prediction.workers == 1 else 's'} on this machine",
    ]
    return "\n".join([*lines, *prediction.notes])
