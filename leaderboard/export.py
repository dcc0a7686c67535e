"""The board as a static site: pages, plots and the same data as JSON and CSV. No network is needed.

index.html  board.json  board.csv  submissions/<id>.html
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, select_autoescape

from leaderboard import rules
from leaderboard.plots import Point, score_against_size
from leaderboard.ranking import Row, board
from leaderboard.submission import Entry, chain_of, read_entries
from pipelines.progress import short
from pipelines.storage import LocalStore, write_bytes

CSV_COLUMNS = (
    "benchmark",
    "scale",
    "track",
    "pool_id",
    "suite",
    "suite_version",
    "rank",
    "tied_with_leader",
    "method",
    "team",
    "submission_id",
    "metric",
    "value",
    "stderr",
    "size",
    "size_unit",
    "seen",
    "budget_unit",
    "seeds",
)
STYLE = Path(__file__).parent / "static" / "style.css"


def board_json(rows: Sequence[Row]) -> bytes:
    """The rows as a JSON list."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps([row.model_dump(mode="json") for row in rows], option=options)


def board_csv(rows: Sequence[Row]) -> str:
    """One line per row; one column per task after the common ones."""
    tasks = list(dict.fromkeys(task.task for row in rows for task in row.tasks))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *tasks])
    for row in rows:
        values = {task.task: task.value for task in row.tasks}
        writer.writerow(
            [
                row.benchmark,
                row.scale,
                row.track,
                row.pool_id,
                row.suite,
                row.suite_version,
                row.rank,
                row.tied_with_leader,
                row.method,
                row.team,
                row.submission_id,
                row.headline.metric,
                row.headline.value,
                row.headline.stderr,
                row.dataset.size,
                row.dataset.unit,
                row.budget.seen,
                row.budget.unit,
                " ".join(str(seed.seed) for seed in row.seeds),
                *[values.get(task) for task in tasks],
            ]
        )
    return file.getvalue()


def board_table(rows: Sequence[Row]) -> tuple[list[str], list[list[object]]]:
    """The board for a terminal: header and cells."""
    header = ["rank", "method", "score", "stderr", "behind the leader (95%)", "dataset", "seeds"]
    cells: list[list[object]] = []
    for row in rows:
        cells.append(
            [
                f"{row.rank}{' (tie)' if row.tied_with_leader else ''}",
                row.method,
                f"{row.headline.value:.4f} {_metric(row)}",
                f"{row.headline.stderr:.4f}",
                behind(row),
                f"{short(row.dataset.size or 0)} {row.dataset.unit}",
                len(row.seeds),
            ]
        )
    return header, cells


def behind(row: Row) -> str:
    """How far a row is behind the leader, with its interval."""
    if row.behind_leader is None:
        return "leads"
    gap = row.behind_leader
    return f"{gap.value:.4f} [{gap.low:.4f}, {gap.high:.4f}]"


def _metric(row: Row) -> str:
    better = "higher" if row.headline.higher_is_better else "lower"
    return f"{row.headline.metric.replace('_', ' ')} ({better} is better)"


def export_site(submissions: Path, folder: Path) -> Path:
    """Write the site below `folder`; returns the path of its first page."""
    entries = read_entries(submissions)
    rows = board(entries)
    place = LocalStore(folder)
    write_bytes(place, "board.json", board_json(rows))
    write_bytes(place, "board.csv", board_csv(rows).encode())
    write_bytes(place, "index.html", render("board.html", groups=groups_of(rows), home="").encode())
    by_id = {row.submission_id: row for row in rows}
    for entry in entries:
        page = submission_page(entry, by_id[entry.record.id], rows)
        write_bytes(place, f"submissions/{entry.record.id}.html", page.encode())
    return folder / "index.html"


def groups_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows that may be compared, with what their table and plot need."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.benchmark, row.scale, row.track, row.pool_id, row.suite_version)
        groups.setdefault(key, []).append(row)
    found = []
    for members in groups.values():
        first = members[0]
        book = rules.load_benchmark(first.benchmark)
        found.append(
            {
                "title": book.title,
                "benchmark": first.benchmark,
                "scale": book.scale(first.scale),
                "track": book.track(first.track),
                "rows": members,
                "first": first,
                "better": "higher" if first.headline.higher_is_better else "lower",
                "plot": score_against_size([point_of(row) for row in members], axes=_axes(first)),
                "verdict": verdict(members),
            }
        )
    return found


def point_of(row: Row) -> Point:
    return Point(
        label=row.method,
        size=row.dataset.size or 0,
        value=row.headline.value,
        error=1.96 * (row.headline.stderr or 0.0),
        rank=row.rank,
    )


def _axes(row: Row) -> tuple[str, str]:
    return f"dataset, {row.dataset.unit}", _metric(row)


def verdict(rows: Sequence[Row]) -> str:
    """One sentence: who is ahead, and whether to believe it."""
    leader = rows[0]
    if len(rows) == 1:
        return f"{leader.method} stands alone here; there is nothing to compare it with yet."
    ties = [row.method for row in rows[1:] if row.tied_with_leader]
    beaten = [row.method for row in rows[1:] if not row.tied_with_leader]
    parts = []
    if beaten:
        parts.append(
            f"{leader.method} beats {_and(beaten)}: the 95% interval of each difference is off zero"
        )
    if ties:
        parts.append(
            f"{leader.method} cannot be told from {_and(ties)}: the 95% interval of the "
            "difference holds zero"
        )
    few = min(len(row.seeds) for row in rows)
    note = "" if few > 1 else " With one seed, the variance between trainings is not in it."
    return "; ".join(parts) + "." + note


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def submission_page(entry: Entry, row: Row, rows: Sequence[Row]) -> str:
    """Everything about one submission: chain, pipeline, funnel, tasks, how to do it again."""
    kinds = chain_of(entry.record)
    [dataset] = kinds["dataset"]
    rivals = [
        other
        for other in rows
        if (other.scale, other.track, other.pool_id) == (row.scale, row.track, row.pool_id)
        and other.submission_id != row.submission_id
    ]
    return render(
        "submission.html",
        row=row,
        rivals=rivals,
        record=entry.record,
        chain=entry.record.chain,
        dataset=dataset,
        steps=dataset.work.pipeline["steps"],
        rejected=_rejected(dataset.counts),
        modules=dataset.work.modules,
        home="../",
        better="higher" if row.headline.higher_is_better else "lower",
        behind=behind(row),
    )


def _rejected(counts: dict[str, int]) -> dict[int, list[tuple[str, int]]]:
    """Rejected rows by step number (from 1; 0 is reading) and reason."""
    found: dict[int, list[tuple[str, int]]] = {}
    for name, number in counts.items():
        if name.startswith("rejected/"):
            _, step, _, reason = name.split("/", 3)
            found.setdefault(int(step), []).append((reason, number))
    return found


def render(template: str, **values: Any) -> str:
    """A page from its template; all text in it is escaped."""
    pages = Environment(
        loader=PackageLoader("leaderboard"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"short": short, "behind": behind}
    return pages.get_template(template).render(style=STYLE.read_text(encoding="utf-8"), **values)
