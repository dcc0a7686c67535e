"""report.html of a finished run: the funnel as a plot, why rows went, and what rules measured.

One file without any other: plain HTML, plots as SVG, no script. Rejected image-text pairs are shown
with their images where the pool has them in tars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import pyarrow.parquet as pq

from pipelines.engine.run_folder import Result, RunSummary
from pipelines.images.pairs import UID
from pipelines.records import JSON, DatasetRecord
from pipelines.reports.forecast import compare, read_forecast
from pipelines.reports.funnel import funnel_cells
from pipelines.stats import Histogram, StepStats
from pipelines.storage.base import Store, write_bytes

REPORT = "report.html"
SAMPLES = 3  # shown of each reason
MAX_FILES = 20  # with rejected rows that are looked into for samples
CSS = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.2rem .5rem;text-align:right}
td:first-child,th:first-child,.last td:last-child,.last th:last-child{text-align:left}
tr{border-bottom:1px solid #e5e5e5}
.scroll{overflow-x:auto}.reason{display:grid;grid-template-columns:minmax(0,1fr) 260px;gap:1rem}
@media(max-width:45rem){.reason{grid-template-columns:1fr}}
blockquote{margin:.4rem 0;padding:.4rem .7rem;background:#f6f6f4;border-left:3px solid #c8c2b5;
font-size:13px;overflow-wrap:anywhere}
blockquote p{margin:.2rem 0}
blockquote img{float:right;margin-left:.7rem}blockquote{overflow:auto}
mark{background:#ffe9a8}small,.dim{color:#666}svg text{font-size:11px}
"""


def report_html(store: Store, record: DatasetRecord, summary: RunSummary) -> str:
    """The page of a finished run; reads some of its files of rejected rows."""
    samples = _samples(store)
    uids = [row[UID] for rows in samples.values() for row in rows if row.get(UID)]
    images = _thumbnails(record, uids)
    counts = record.counts
    steps = summary.stats.steps
    name = record.work.pipeline.get("name", "pipeline")
    title = f"{name}: {counts['rows_out']:,} of {counts['rows_in']:,} rows"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=dim>dataset {escape(record.id)}, in {escape(store.uri)}; "
        f"{summary.cpu_seconds:,.1f} CPU seconds, {summary.wall_seconds:,.1f} s</p>",
        "<h2>The funnel</h2>",
        _funnel_image(steps),
        _funnel_table(summary),
        _predicted(store, summary),
        "<h2>Why rows went</h2>",
    ]
    for step in steps:
        for reason, number in sorted(step.reasons.items(), key=lambda item: -item[1]):
            step_samples = samples.get((step.number, reason), [])
            parts.append(_reason(step, reason, number, step_samples, images))
    if not any(step.reasons for step in steps):
        parts.append("<p>No row was rejected.</p>")
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<style>{CSS}</style><body>{body}</body></html>\n"
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


def _funnel_image(steps: Sequence[StepStats]) -> str:
    """A bar of the rows behind each step, the part that the step took in another colour."""
    top = max((step.rows_in + step.split for step in steps), default=0) or 1
    height, width, left = 22, 560, 190
    bars = []
    for position, step in enumerate(steps):
        y = position * height
        entering = width * (step.rows_in + step.split) / top
        staying = width * step.rows_out / top
        share = step.rows_out / max(steps[0].rows_in, 1)
        label = escape(step.name if step.number < 0 else f"{step.number + 1} {step.name}")
        bars.append(
            f'<text x="{left - 6}" y="{y + 14}" text-anchor="end">{label[:30]}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{entering:.1f}" height="14" fill="#e3a08c">'
            f"<title>{step.rejected:,} rejected</title></rect>"
            f'<rect x="{left}" y="{y + 3}" width="{staying:.1f}" height="14" fill="#5a8fb0">'
            f"<title>{step.rows_out:,} rows</title></rect>"
            f'<text x="{left + entering + 6:.1f}" y="{y + 14}">{step.rows_out:,} '
            f"({share:.1%})</text>"
        )
    total = left + width + 130
    return (
        f'<div class=scroll><svg viewBox="0 0 {total} {len(steps) * height + 4}" width="{total}" '
        f'role=img aria-label="rows behind each step">{"".join(bars)}</svg></div>'
    )


def _funnel_table(summary: RunSummary) -> str:
    header, cells = funnel_cells(summary)
    rows = [
        [f"{step} {operator}", *(f"{cell:,}" if isinstance(cell, int) else cell for cell in rest)]
        for step, operator, *rest in cells
    ]
    return _table(["step", *header[2:]], rows, kind=" last")


def _table(header: Iterable[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class='scroll{kind}'><table><tr>{head}</tr>{body}</table></div>"


def _predicted(store: Store, summary: RunSummary) -> str:
    """The prediction for this run next to the actual figures."""
    forecast = read_forecast(store)
    if forecast is None:
        return ""
    header = ("what", "predicted", "from", "to", "came")
    rows = [
        (name, f"{bar.value:,.6g}", f"{bar.low:,.6g}", f"{bar.high:,.6g}", f"{came:,.6g}")
        for name, bar, came in compare(forecast, summary)
    ]
    note = "".join(f"<p class=dim>{escape(line)}</p>" for line in forecast.notes)
    return f"<h2>Predicted and found</h2>{note}{_table(header, rows)}"


# ---- reasons


def _reason(
    step: StepStats,
    reason: str,
    number: int,
    samples: Sequence[JSON],
    images: Mapping[str, str],
) -> str:
    head = f"<h3>{step.number + 1} {escape(step.name)}: {escape(reason)}</h3>"
    share = number / max(step.rows_in, 1)
    text = f"<p>{number:,} rows, {share:.2%} of what came in</p>"
    quotes = "".join(_sample(sample, images) for sample in samples[:SAMPLES])
    histogram = step.histograms.get(reason)
    bars = "" if histogram is None else _histogram(histogram)
    return f"{head}<div class=reason><div>{text}{quotes}</div><div>{bars}</div></div>"


def _sample(sample: JSON, images: Mapping[str, str]) -> str:
    parts = []
    if (source := images.get(sample.get(UID) or "")) is not None:
        parts.append(f'<img alt="" src="{escape(source)}">')
    if sample["value"] is not None:
        limit = "" if sample["limit"] is None else f" (limit {sample['limit']:.6g})"
        parts.append(f"<p>measured {sample['value']:.6g}{limit}</p>")
    if sample["passage"]:
        parts.append(f"<p><mark>{escape(sample['passage'])}</mark></p>")
    url = f"<small>{escape(sample['url'])}</small>" if sample["url"] else ""
    start = " ".join((sample["text"] or "")[:400].split())
    return f"<blockquote>{url}{''.join(parts)}<p>{escape(start)}</p></blockquote>"


def _histogram(histogram: Histogram) -> str:
    """Bars of all rows that the step saw, and a line at the limit."""
    if not histogram.bins:
        return ""
    bins = {int(number): count for number, count in histogram.bins.items()}
    limit_bin = next(
        (
            bin_number
            for bin_number in range(-2000, 2000)
            if histogram.limit is not None
            and histogram.edges(bin_number)[0] <= histogram.limit < histogram.edges(bin_number)[1]
        ),
        0,
    )
    first, last = min(*bins, limit_bin), max(*bins, limit_bin)
    width, height = 250, 80
    step = width / (last - first + 1)
    top = max(bins.values())
    bars = "".join(
        f'<rect x="{(number - first) * step:.1f}" y="{height * (1 - count / top):.1f}" '
        f'width="{max(step - 0.5, 0.5):.1f}" height="{height * count / top:.1f}" fill="#9bb6c7"/>'
        for number, count in bins.items()
    )
    line = ""
    if histogram.limit is not None:
        low, high = histogram.edges(limit_bin)
        inside = (histogram.limit - low) / (high - low)
        x = (limit_bin - first + inside) * step
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" stroke="#b3402a"/>'
    left, right = histogram.edges(first)[0], histogram.edges(last)[1]
    limit = "" if histogram.limit is None else f"limit {histogram.limit:.4g}"
    return (
        f'<svg viewBox="0 0 {width} {height + 16}" width="{width}" role=img '
        f'aria-label="what the rule measured">{bars}{line}'
        f'<text x="0" y="{height + 13}">{left:.4g}</text>'
        f'<text x="{width / 2}" y="{height + 13}" text-anchor="middle">{limit}</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end">{right:.4g}</text></svg>'
    )


def _samples(store: Store) -> dict[tuple[int, str], list[JSON]]:
    """Rejected rows with their text, by step and reason, from some of the files."""
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
    return by_reason
