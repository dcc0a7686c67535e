"""The board as a static site: the service's pages as files, and the data as JSON and CSV.

index.html  board.json  board.csv  static/
boards/<benchmark>-<scale>-<track>[-<metric>|-plots].html and .json and .csv
scales/<benchmark>.html  submissions/<id>.html  help/<topic>.html
submissions/<id>-<task>.html and .json   the first questions of each task, chosen by a script
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.board.formats import board_csv, board_json, board_table
from leaderboard.board.ranking import board, measure
from leaderboard.submissions.results import Row
from leaderboard.submissions.submission import pack, read_entries
from pipelines.storage.open import open_store

if TYPE_CHECKING:
    from leaderboard.database.states import Held
    from leaderboard.service.service import Service
    from leaderboard.web.links import Links

QUESTIONS = 50  # of each task that the site has; all of CORE's would be a thousand pages a row


@contextmanager
def service_of_folder(submissions: Path) -> Iterator[Service]:
    """A service over a folder of submissions, for as long as the block runs."""
    from leaderboard.database.store import Store
    from leaderboard.service.evidence import write_evidence
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
            measured = measure(entry)
            store.checked(entry.record.id, "export", (), measured)
            bundle = replace(entry.bundle, record=entry.record)
            write_evidence(service.files, store.get(entry.record.id), bundle, measured)
            store.move(entry.record.id, "accepted", who="export")
        try:
            yield service
        finally:
            store.close()


def export_site(submissions: Path, folder: Path, *, questions: int = QUESTIONS) -> Path:
    """Write the site of a folder of submissions; returns the path of its first page."""
    with service_of_folder(submissions) as service:
        return export_service(service, folder, questions=questions)


def _write(folder: Path, name: str, data: bytes) -> None:
    """Write a file whole or not at all; made again at will, so it is not forced to the disk."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _questions(
    service: Service, submission: Held, links: Links, number: int
) -> Iterator[tuple[str, bytes]]:
    """The pages of the first questions of each task of a row, with the same as JSON."""
    from leaderboard.service.drill_down import Asked, page_of
    from leaderboard.service.evidence import read_evidence
    from leaderboard.service.nearest import read_nearest
    from leaderboard.web import views
    from leaderboard.web.links import file_name

    evidence = read_evidence(service.files, submission)
    for task in evidence.tasks if evidence is not None and number else ():
        page = page_of(service.files, submission, Asked(task, limit=number))
        stem = f"{submission.id}-{file_name(task)}"
        yield f"{stem}.json", page.model_dump_json().encode()
        yield (
            f"{stem}.html",
            views.question_page(
                submission,
                page,
                [],
                "",
                links,
                documents=read_nearest(service.files, submission, task),
            ).encode(),
        )


def export_service(service: Service, folder: Path, *, questions: int = QUESTIONS) -> Path:
    """Write the site of a service's accepted rows below `folder`.

    `questions`: how many of each task of each submission have pages; 0: none.
    """
    from leaderboard.board.boards import MAX_LIMIT, View
    from leaderboard.board.plots import STATIC
    from leaderboard.service.comparison import across_scales
    from leaderboard.service.evidence import read_samples
    from leaderboard.web import views
    from leaderboard.web.help import topics
    from leaderboard.web.links import FileLinks, file_name
    from leaderboard.web.texts import front_text, submission_text

    library = service.library
    links = FileLinks(up="../")
    _write(folder, "index.html", front_text(service, FileLinks()).encode())
    for name in ("style.css", "board.js", "favicon.svg"):
        _write(folder, f"static/{name}", (STATIC / name).read_bytes())
    everything: list[Row] = []
    for listed in library.boards():
        key = (listed.benchmark, listed.scale, listed.track)
        rows = library.rows(*key)
        everything += rows
        stem = f"boards/{file_name(*key)}"
        _write(folder, f"{stem}.json", board_json(rows))
        _write(folder, f"{stem}.csv", board_csv(rows).encode())
        view = View(limit=MAX_LIMIT)
        page = library.page(*key, view)
        _write(folder, f"{stem}.html", views.board_page(page, view, links).encode())
        _write(folder, f"{stem}-plots.html", views.plots_page(page, view, links).encode())
        for metric in page.metrics:
            chosen = view.model_copy(update={"metric": metric})
            text = views.board_page(library.page(*key, chosen), chosen, links)
            _write(folder, f"{stem}-{file_name(metric)}.html", text.encode())
        for row in rows:
            submission = service.store.get(row.submission_id)
            text = submission_text(service, submission, links)
            _write(folder, f"submissions/{row.submission_id}.html", text.encode())
            for name, data in _questions(service, submission, links, questions):
                _write(folder, f"submissions/{name}", data)
            for each in row.seeds if row.shows_images else ():
                png = read_samples(service.files, submission, each.seed)
                if png is not None:
                    _write(folder, f"submissions/{row.submission_id}-{each.seed}-samples.png", png)
    for benchmark in {listed.benchmark for listed in library.boards()}:
        text = views.scales_page(benchmark, across_scales(library, benchmark), links)
        _write(folder, f"scales/{file_name(benchmark)}.html", text.encode())
    for topic in ("", *topics()):
        text = views.help_page(topic, links)
        _write(folder, f"help/{topic or 'index'}.html", text.encode())
    _write(folder, "board.json", board_json(everything))
    _write(folder, "board.csv", board_csv(everything).encode())
    return folder / "index.html"


__all__ = ["board", "board_csv", "board_json", "board_table", "export_service", "export_site"]
