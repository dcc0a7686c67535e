"""The board as a static site: the service's pages as files, and the data as JSON and CSV.

index.html  board.json  board.csv  static/
boards/<benchmark>-<scale>-<track>[-<metric>|-plots].html and .json and .csv
scales/<benchmark>.html  submissions/<id>.html  help/<topic>.html
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from leaderboard.board.ranking import board, measure
from leaderboard.submissions.results import Row
from leaderboard.submissions.submission import pack, read_entries
from pipelines.execution.progress import short
from pipelines.storage.base import LocalStore, open_store, write_bytes

if TYPE_CHECKING:
    from leaderboard.service.service import Service

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
MORE_COLUMNS = ("kind", "recheck", "params", "flops", "date", "behind_leader", "over_baseline")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def board_json(rows: Sequence[Row]) -> bytes:
    """The rows as a JSON list."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps([row.model_dump(mode="json") for row in rows], option=options)


def board_csv(rows: Sequence[Row]) -> str:
    """One line per row; after the common columns one per aggregate and one per task."""
    tasks = list(dict.fromkeys(task.task for row in rows for task in row.tasks))
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*CSV_COLUMNS, *tasks, *MORE_COLUMNS, *(f"figure:{name}" for name in figures)])
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
                _text(row.method),
                _text(row.team),
                row.submission_id,
                row.headline.metric,
                row.headline.value,
                row.headline.stderr,
                row.dataset.size,
                row.dataset.unit,
                row.budget.seen,
                row.budget.unit,
                " ".join(str(seed.seed) for seed in row.seeds),
                *(values.get(task) for task in tasks),
                row.kind,
                row.recheck,
                row.params,
                row.flops,
                row.date,
                row.behind_leader.value if row.behind_leader else None,
                row.over_baseline.value if row.over_baseline else None,
                *(row.figures[name].value if name in row.figures else None for name in figures),
            ]
        )
    return file.getvalue()


def _text(value: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if value.startswith(FORMULA) else value


def board_table(rows: Sequence[Row]) -> tuple[list[str], list[list[object]]]:
    """The board for a terminal: header and cells."""
    from leaderboard.web.views import behind, metric_name

    header = ["rank", "method", "score", "stderr", "behind the leader (95%)", "dataset", "seeds"]
    cells: list[list[object]] = []
    for row in rows:
        stderr = row.headline.stderr
        cells.append(
            [
                f"{row.rank}{' (tie)' if row.tied_with_leader else ''}",
                row.method,
                f"{row.headline.value:.4f} {metric_name(row)}",
                "-" if stderr is None else f"{stderr:.4f}",
                behind(row),
                f"{short(row.dataset.size or 0)} {row.dataset.unit}",
                len(row.seeds),
            ]
        )
    return header, cells


@contextmanager
def service_of_folder(submissions: Path) -> Iterator[Service]:
    """A service over a folder of submissions, for as long as the block runs."""
    from leaderboard.database.store import Store
    from leaderboard.service.service import Service

    with tempfile.TemporaryDirectory(prefix="leaderboard-") as folder:
        store = Store(f"sqlite:///{folder}/board.db")
        service = Service(store, open_store(f"{folder}/files"))
        for entry in read_entries(submissions):
            work = entry.record.work
            name = f"bundles/{entry.record.id}.zip"
            path = Path(folder) / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pack(entry, path)
            store.receive(
                id=entry.record.id,
                team=work.team,
                token="",
                benchmark=work.benchmark,
                scale=work.scale,
                track=work.track,
                method=work.method,
                bundle=name,
                bundle_sha256="",
                bundle_bytes=path.stat().st_size,
            )
            store.claim("export")
            store.checked(entry.record.id, "export", (), measure(entry))
            store.move(entry.record.id, "accepted", who="export")
        try:
            yield service
        finally:
            store.close()


def export_site(submissions: Path, folder: Path) -> Path:
    """Write the site of a folder of submissions; returns the path of its first page."""
    with service_of_folder(submissions) as service:
        return export_service(service, folder)


def export_service(service: Service, folder: Path) -> Path:
    """Write the site of a service's accepted rows below `folder`."""
    from leaderboard.board.boards import MAX_LIMIT, View
    from leaderboard.service.comparison import across_scales
    from leaderboard.web import views
    from leaderboard.web.help import topics
    from leaderboard.web.pages import front_text, submission_text
    from leaderboard.web.views import FileLinks, file_name

    place = LocalStore(folder)
    library = service.library
    links = FileLinks(up="../")
    write_bytes(place, "index.html", front_text(service, FileLinks()).encode())
    for name in ("style.css", "board.js"):
        write_bytes(place, f"static/{name}", (views.STATIC / name).read_bytes())
    everything: list[Row] = []
    for one in library.boards():
        key = (one.benchmark, one.scale, one.track)
        rows = library.rows(*key)
        everything += rows
        stem = f"boards/{file_name(*key)}"
        write_bytes(place, f"{stem}.json", board_json(rows))
        write_bytes(place, f"{stem}.csv", board_csv(rows).encode())
        view = View(limit=MAX_LIMIT)
        page = library.page(*key, view)
        write_bytes(place, f"{stem}.html", views.board_page(page, view, links).encode())
        write_bytes(place, f"{stem}-plots.html", views.plots_page(page, view, links).encode())
        for metric in page.metrics:
            chosen = view.model_copy(update={"metric": metric})
            text = views.board_page(library.page(*key, chosen), chosen, links)
            write_bytes(place, f"{stem}-{file_name(metric)}.html", text.encode())
        for row in rows:
            held = service.store.get(row.submission_id)
            text = submission_text(service, held, links)
            write_bytes(place, f"submissions/{row.submission_id}.html", text.encode())
    for benchmark in {one.benchmark for one in library.boards()}:
        text = views.scales_page(benchmark, across_scales(library, benchmark), links)
        write_bytes(place, f"scales/{file_name(benchmark)}.html", text.encode())
    for topic in ("", *topics()):
        text = views.help_page(topic, links)
        write_bytes(place, f"help/{topic or 'index'}.html", text.encode())
    write_bytes(place, "board.json", board_json(everything))
    write_bytes(place, "board.csv", board_csv(everything).encode())
    return folder / "index.html"


__all__ = ["board", "board_csv", "board_json", "board_table", "export_service", "export_site"]
