"""The board as a static site: the service's pages as files, and the data as JSON and CSV.

index.html  board.json  board.csv  static/
boards/<benchmark>-<scale>-<track>[-<metric>|-plots].html and .json and .csv
scales/<benchmark>.html  speedruns/<benchmark>.html  crossings/<benchmark>[-<metric>].html
submissions/<id>.html  help/<topic>.html
submissions/<id>-<task>.html and .json   the first questions of each task, chosen by a script
compare/<id>.html   one of the best rows of a board beside the first
compare/index.html   rows of the reader's choice, by a script, from compare/<id>.json
images/<task>-<data>-<number>.webp   methods/<benchmark>-<hash>.html   teams/<hash>.html
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.board.formats import board_csv, board_json, board_table
from leaderboard.board.plots import STATIC
from leaderboard.board.ranking import board, measure
from leaderboard.board.spreads import SeedSpread, seed_spread
from leaderboard.submissions.results import Row
from leaderboard.submissions.submission import pack, read_entries
from pipelines.storage.open import open_store

if TYPE_CHECKING:
    from leaderboard.database.states import StoredSubmission
    from leaderboard.service.service import Service
    from leaderboard.web.links import Links

MOST_RIVALS = 20  # rows whose answers a page of questions may show beside its own
COPIED_FROM = 100  # rows; fewer are written sooner than processes start
MOST_COPIES = 8  # of the process: each needs its memory again
PAGES_BETWEEN = 200  # rows that a copy writes between two searches for garbage
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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


@dataclass
class _Site:
    """A site that is being written."""

    service: Service
    folder: Path
    links: Links
    questions: int
    images: set[str] = field(default_factory=set)
    spreads: dict[str, dict[str, SeedSpread | None]] = field(default_factory=dict)  # by group

    def write(self, name: str, data: str | bytes) -> None:
        _write(self.folder, name, data.encode() if isinstance(data, str) else data)

    def board(self, key: tuple[str, str, str], rows: Sequence[Row]) -> None:
        """The pages of a board."""
        from leaderboard.board.boards import MAX_LIMIT, View
        from leaderboard.web import views
        from leaderboard.web.links import file_name
        from leaderboard.web.texts import plots_text

        library, links = self.service.library, self.links
        stem = f"boards/{file_name(*key)}"
        self.write(f"{stem}.json", board_json(rows))
        self.write(f"{stem}.csv", board_csv(rows))
        view = View(limit=MAX_LIMIT)
        page = library.page(*key, view)
        self.write(f"{stem}.html", views.board_page(page, view, links))
        self.write(f"{stem}-plots.html", plots_text(self.service, key, view, links))
        for metric in page.metrics:
            chosen = view.model_copy(update={"metric": metric})
            text = views.board_page(library.page(*key, chosen), chosen, links)
            self.write(f"{stem}-{file_name(metric)}.html", text)

    def row(self, row: Row) -> None:
        """The pages of a row, and what it is compared by."""
        from leaderboard.web import views
        from leaderboard.web.texts import compared_text

        leader = views.leader_among(row, self.service.library.peers(row))
        if leader is not None:
            ids = [leader.submission_id, row.submission_id]
            text = compared_text(self.service, [leader, row], ids, self.links)
            self.write(f"compare/{row.submission_id}.html", text)
        submission = self.service.store.get(row.submission_id)
        self.submission(row, submission)
        self.compared(row, submission)

    def compared(self, row: Row, submission: StoredSubmission) -> None:
        """What the script compares a row by; single answers where single questions have pages."""
        from leaderboard.board.boards import key_of
        from leaderboard.service.evidence import read_answers
        from leaderboard.web.static_rows import row_file

        service, id_ = self.service, row.submission_id
        answers = read_answers(service.files, submission) if self.questions else {}
        draws = service.store.resamples_of(id_)
        spreads = self.spreads.get(key_of(row), {})
        self.write(f"compare/{id_}.json", row_file(row, draws, answers, spreads))

    def submission(self, row: Row, submission: StoredSubmission) -> None:
        """The page of a row, its images, and the first questions of its tasks."""
        from leaderboard.service.evidence import read_evidence, read_samples
        from leaderboard.web.texts import submission_text

        self.write(
            f"submissions/{submission.id}.html",
            submission_text(self.service, submission, self.links),
        )
        evidence = read_evidence(self.service.files, submission)
        if evidence is not None and self.questions:
            peers = self.service.library.peers(row)[:MOST_RIVALS]
            rivals = [other for other in peers if other.kind == "submission"]
            for task in evidence.tasks:
                self.task(submission, task, evidence.data.get(task, ""), rivals)
        for seed in row.seeds if row.shows_images else ():
            png = read_samples(self.service.files, submission, seed.seed)
            if png is not None:
                self.write(f"submissions/{submission.id}-{seed.seed}-samples.png", png)

    def task(
        self, submission: StoredSubmission, task: str, data: str, rivals: Sequence[Row]
    ) -> None:
        """The first questions of a task, as a page and as JSON, with their images."""
        from leaderboard.service.drill_down import Asked, image_of, page_of
        from leaderboard.service.nearest import read_nearest
        from leaderboard.web import views
        from leaderboard.web.links import file_name

        files = self.service.files
        page = page_of(files, submission, Asked(task, limit=self.questions))
        stem = f"{submission.id}-{file_name(task)}"
        self.write(f"submissions/{stem}.json", page.model_dump_json())
        others = [
            (other.method, f"{other.submission_id}-{file_name(task)}.json")
            for other in rivals
            if other.submission_id != submission.id
            and task in [value.task for value in other.tasks]
        ]
        text = views.question_page(
            submission,
            page,
            [],
            "",
            self.links,
            documents=read_nearest(files, submission, task),
            data=data,
            rival_files=others,
        )
        self.write(f"submissions/{stem}.html", text)
        for question in page.texts:
            number = question.image if question is not None else None
            if number is None:
                continue
            name = f"images/{file_name(task, data[:16])}-{number}.webp"
            if name not in self.images:
                self.images.add(name)
                with contextlib.suppress(KeyError):  # an image that could not be made small
                    self.write(name, image_of(files, submission, task, number))

    def others(self, rows: Sequence[Row]) -> None:
        """Methods, teams, scales and help."""
        from leaderboard.service.comparison import across_scales
        from leaderboard.service.over_budgets import over_budgets
        from leaderboard.web import views
        from leaderboard.web.help import topics
        from leaderboard.web.texts import crossings_text, speedruns_text
        from pipelines.installed import packages

        library, links = self.service.library, self.links
        methods: dict[tuple[str, str], list[Row]] = {}
        teams: dict[str, list[Row]] = {}
        for row in rows:
            methods.setdefault((row.benchmark, row.method), []).append(row)
            if row.team:
                teams.setdefault(row.team, []).append(row)
        for (benchmark, name), own in methods.items():
            address = links.method(benchmark, name).removeprefix(links.up)
            self.write(address, views.method_page(own, name, "", benchmark, links))
        for name, own in teams.items():
            self.write(links.team(name).removeprefix(links.up), views.team_page(own, name, links))
        for benchmark in {listed.benchmark for listed in library.boards()} | set(packages()):
            first = across_scales(library, benchmark)
            for metric in ("", *first["metrics"]):
                chosen = across_scales(library, benchmark, metric=metric) if metric else first
                address = links.scales(benchmark, metric=metric).removeprefix(links.up)
                self.write(address, views.scales_page(benchmark, chosen, links))
        for benchmark in sorted(packages()):
            address = links.speedruns(benchmark).removeprefix(links.up)
            self.write(address, speedruns_text(self.service, benchmark, links))
            for metric in ("", *over_budgets(library, benchmark).metrics):
                address = links.crossings(benchmark, metric=metric).removeprefix(links.up)
                text = crossings_text(self.service, benchmark, "", metric, (), links)
                self.write(address, text)
        for topic in ("", *topics()):
            self.write(f"help/{topic or 'index'}.html", views.help_page(topic, links))


def export_service(service: Service, folder: Path, *, questions: int = QUESTIONS) -> Path:
    """Write the site of a service's accepted rows below `folder`.

    `questions`: how many of each task of each submission have pages; 0: none.
    """
    from leaderboard.board.boards import key_of
    from leaderboard.web import views
    from leaderboard.web.links import FileLinks
    from leaderboard.web.texts import front_text

    site = _Site(service, folder, FileLinks(up="../"), questions)
    with service.library.at_rest():
        boards = {
            (listed.benchmark, listed.scale, listed.track): service.library.rows(
                listed.benchmark, listed.scale, listed.track
            )
            for listed in service.library.boards()
        }
        everything = [row for rows in boards.values() for row in rows]
        groups: dict[str, list[Row]] = {}
        for row in everything:
            groups.setdefault(key_of(row), []).append(row)
        site.spreads = {key: _spreads(rows) for key, rows in groups.items()}
        with _copies(service, everything, site.row):
            site.write("index.html", front_text(service, FileLinks()))
            for name in ("style.css", "board.js", "compare.js", "favicon.svg"):
                site.write(f"static/{name}", (STATIC / name).read_bytes())
            for key, rows in boards.items():
                site.board(key, rows)
            site.others(everything)
            site.write("compare/index.html", views.render("compare_rows.html", site.links))
            site.write("board.json", board_json(everything))
            site.write("board.csv", board_csv(everything))
    return folder / "index.html"


def _spreads(rows: Sequence[Row]) -> dict[str, SeedSpread | None]:
    """How each figure of a group varies between runs."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    return {name: seed_spread([row for row in rows if name in row.figures], name) for name in names}


@contextmanager
def _copies(service: Service, rows: Sequence[Row], work: Callable[[Row], None]) -> Iterator[None]:
    """Do something for each row, in copies of this process while the block runs.

    In this process where there are few rows, one processor, or threads whose locks a copy would
    have; a copy has a database connection of its own. RuntimeError when one fails.
    """
    processors = min(len(os.sched_getaffinity(0)), MOST_COPIES)
    number = processors if len(rows) >= COPIED_FROM and threading.active_count() == 1 else 1

    def some(at: int) -> None:
        gc.disable()  # a search for cycles would go over every row of the board
        service.store.engine.dispose(close=False)
        gc.freeze()
        for done, row in enumerate(rows[at::number], start=1):
            work(row)
            if done % PAGES_BETWEEN == 0:
                gc.collect()

    context = multiprocessing.get_context("fork")
    copies = [context.Process(target=some, args=(at,)) for at in range(number)]
    if number == 1:
        copies = []
        for row in rows:
            work(row)
    for copy in copies:
        copy.start()
    try:
        yield
    finally:
        for copy in copies:
            copy.join()
    if any(copy.exitcode for copy in copies):
        raise RuntimeError("a process that wrote pages ended early; its error is above")


__all__ = ["board", "board_csv", "board_json", "board_table", "export_service", "export_site"]
