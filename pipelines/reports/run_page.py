"""report.html of a finished run: the funnel as a plot, why rows went, and what rules measured.

One file without any other: plain HTML, plots as SVG, no script. Rejected image-text pairs are shown
with their images where the pool has them in tars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.run_folder import Result, RunSummary, read_run
from pipelines.errors import DataError
from pipelines.formats.readers import read_shard
from pipelines.images.pairs import TEXT, UID, URL
from pipelines.records import JSON, DatasetRecord
from pipelines.reports.forecast import compare, read_forecast
from pipelines.reports.funnel import funnel_cells
from pipelines.reports.pool_rows import run_pool
from pipelines.stats import Histogram, StepStats
from pipelines.storage.base import Store, write_bytes
from pipelines.templates import templates

REPORT = "report.html"
SAMPLES = 3  # shown of each reason
EXCERPT = 400  # characters of a rejected text
MAX_FILES = 20  # with rejected rows that are looked into for samples


def report_html(store: Store, record: DatasetRecord, summary: RunSummary) -> str:
    """The page of a finished run; reads some of its files of rejected rows."""
    samples, kept = _samples(store), _kept(store, record)
    shown = [*kept, *(row for rows in samples.values() for row in rows)]
    uids = [row[UID] for row in shown if row.get(UID)]
    images = _thumbnails(record, uids)
    counts = record.counts
    steps = summary.stats.steps
    name = record.work.pipeline.get("name", "pipeline")
    header, rows = _funnel_table(summary)
    reasons = [
        _reason(step, reason, number, samples.get((step.number, reason), []), images)
        for step in steps
        for reason, number in sorted(step.reasons.items(), key=lambda item: -item[1])
    ]
    return (
        templates("pipelines.reports")
        .get_template("run.html")
        .render(
            title=f"{name}: {counts['rows_out']:,} of {counts['rows_in']:,} rows",
            record=record,
            uri=store.uri,
            summary=summary,
            funnel=_funnel_plot(steps),
            funnel_header=header,
            funnel_rows=rows,
            predicted=_predicted(store, summary),
            kept=[_sample(row, images) for row in kept],
            reasons=reasons,
            has_plots=any(reason["plot"] for reason in reasons),
            has_nearest=any(row["value"] is not None for rows in samples.values() for row in rows),
        )
    )


def _thumbnails(record: DatasetRecord, uids: Sequence[str]) -> dict[str, str]:
    if not uids:  # a pool of text: no need to load the code that reads tars
        return {}
    from pipelines.reports.sample_images import thumbnails

    return thumbnails(record.made_by.locations.get("pool", ""), uids)


def write(store: Store, result: Result) -> None:
    """Write the page into the run's folder."""
    page = report_html(store, result.record, result.summary)
    write_bytes(store, REPORT, page.encode())


def _funnel_plot(steps: Sequence[StepStats]) -> dict[str, JSON]:
    """A bar of the rows behind each step, the part that the step took in another colour."""
    top = max((step.rows_in + step.split for step in steps), default=0) or 1
    height, width, left = 22, 560, 190  # pixels: of a bar, of the longest bar, of the names
    bars = [
        {
            "y": position * height,
            "label": (step.name if step.number < 0 else f"{step.number + 1} {step.name}")[:30],
            "entering": width * (step.rows_in + step.split) / top,
            "staying": width * step.rows_out / top,
            "rejected": step.rejected,
            "rows": step.rows_out,
            "share": step.rows_out / max(steps[0].rows_in, 1),
        }
        for position, step in enumerate(steps)
    ]
    total = left + width + 130  # behind the bars, their numbers
    return {"bars": bars, "left": left, "width": total, "height": len(steps) * height + 4}


def _funnel_table(summary: RunSummary) -> tuple[list[str], list[list[str]]]:
    header, cells = funnel_cells(summary)
    rows = [
        [
            f"{step} {operator}",
            *(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in rest),
        ]
        for step, operator, *rest in cells
    ]
    return ["step", *header[2:]], rows


def _predicted(store: Store, summary: RunSummary) -> dict[str, JSON] | None:
    """The prediction for this run next to the actual figures."""
    forecast = read_forecast(store)
    if forecast is None:
        return None
    rows = [
        (name, f"{bar.value:,.6g}", f"{bar.low:,.6g}", f"{bar.high:,.6g}", f"{actual:,.6g}")
        for name, bar, actual in compare(forecast, summary)
    ]
    return {"notes": forecast.notes, "rows": rows}


# ---- reasons


def _reason(
    step: StepStats,
    reason: str,
    number: int,
    samples: Sequence[JSON],
    images: Mapping[str, str],
) -> dict[str, JSON]:
    histogram = step.histograms.get(reason)
    return {
        "step": step.number + 1,
        "operator": step.name,
        "name": reason,
        "number": number,
        "share": number / max(step.rows_in, 1),
        "samples": [_sample(sample, images) for sample in samples[:SAMPLES]],
        "plot": None if histogram is None else _histogram(histogram),
    }


def _sample(sample: JSON, images: Mapping[str, str]) -> dict[str, JSON]:
    measured = ""
    if sample["value"] is not None:
        limit = "" if sample["limit"] is None else f" (limit {_number(sample['limit'])})"
        measured = f"{_number(sample['value'])}{limit}"
    return {
        "url": sample["url"],
        "image": images.get(sample.get(UID) or ""),
        "measured": measured,
        "passage": sample["passage"],
        "text": " ".join((sample["text"] or "")[:EXCERPT].split()),
    }


def _histogram(histogram: Histogram) -> dict[str, JSON] | None:
    """Bars of all rows that the step saw, and a line at the limit."""
    if not histogram.bins:
        return None
    bins = {int(number): count for number, count in histogram.bins.items()}
    limit = histogram.limit
    limit_bin = 0 if limit is None else _bin_of(histogram, limit)
    first, last = min(*bins, limit_bin), max(*bins, limit_bin)
    width, height = 250, 80
    step = width / (last - first + 1)
    top = max(bins.values())
    limit_x = None
    if limit is not None:
        low, high = histogram.edges(limit_bin)
        limit_x = (limit_bin - first + (limit - low) / (high - low)) * step
    return {
        "width": width,
        "height": height,
        "bars": [
            {
                "x": (number - first) * step,
                "width": max(step - 0.5, 0.5),  # half a pixel between bars
                "height": height * count / top,
            }
            for number, count in bins.items()
        ],
        "limit_x": limit_x,
        "limit": "" if limit is None else f"limit {_number(limit)}",
        "left": _number(histogram.edges(first)[0]),
        "right": _number(histogram.edges(last)[1]),
    }


def _number(value: float) -> str:
    """Four digits and more, as a person writes them: 10,380 and not 1.038e+04."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"


def _bin_of(histogram: Histogram, value: float) -> int:
    """The number of the bin that a value is in; 0 for one outside all bins."""
    for number in range(-2000, 2000):  # fiftieths, or quarters of a doubling: beyond any float64
        low, high = histogram.edges(number)
        if low <= value < high:
            return number
    return 0


def _samples(store: Store) -> dict[tuple[int, str], list[JSON]]:
    """Rejected rows with their text, by step and reason, from some of the files.

    The last one of a reason is the nearest to the limit, where values are known.
    """
    by_reason: dict[tuple[int, str], list[JSON]] = {}
    names = [entry.name for entry in store.list("rejected/")]
    by_pass: dict[str, list[str]] = {}
    for name in names:  # of every pass some, or the later steps would have no samples
        by_pass.setdefault(name.split("/")[-1].split("-")[0], []).append(name)
    chosen = [name for group in by_pass.values() for name in group[:MAX_FILES]]
    for name in chosen:
        with store.open(name) as file:
            table = pq.read_table(file)
        for row in table.filter(table["text"].is_valid()).to_pylist():
            here = by_reason.setdefault((row["step"], row["reason"]), [])
            if len(here) < SAMPLES:
                here.append(row)
            elif _from_limit(row) < _from_limit(here[-1]):
                here[-1] = row
    return by_reason


def _from_limit(row: JSON) -> float:
    """How far a rejected row is from its limit; infinite where that is not known."""
    if row["value"] is None or row["limit"] is None:
        return math.inf
    return abs(row["value"] - row["limit"])  # type: ignore[no-any-return]


def _kept(store: Store, record: DatasetRecord) -> list[JSON]:
    """The first rows that the run kept, as samples; none where the pool of pairs was removed."""
    plan = read_run(store).plan
    if plan is not None and plan.pairs:
        try:
            tables = run_pool(store).kept_pairs(0, (UID, URL, TEXT))
            rows = list(islice((row for table in tables for row in _shown(table)), SAMPLES))
        except (DataError, OSError):
            return []
    else:
        chunk = next(read_shard(store, record.outputs[0].name, shard=0), None)
        rows = [] if chunk is None else _shown(chunk.table)
    empty = dict.fromkeys((UID, URL, TEXT, "value", "limit", "passage"))
    return [empty | row for row in rows]


def _shown(table: pa.Table) -> list[JSON]:
    names = [name for name in (UID, URL, TEXT) if name in table.column_names]
    return table.select(names).slice(0, SAMPLES).to_pylist()  # type: ignore[no-any-return]
