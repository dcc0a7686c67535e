"""Fills a board for `bench_leaderboard`: some submissions by the whole way, the others as copies.

A log of CORE's size has 105,079 questions, and making and measuring one takes two CPU-seconds; ten
thousand of them would take six hours. So `TEMPLATES` of them are made, measured and written down by
the code that a check runs, and all others are copies of these rows with scores, resamples, names,
ids and dates of their own, written into the database directly. Pages cannot tell the difference:
they read rows, resamples and the files of the check, and never a bundle.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
from sqlalchemy import Connection, insert, select

from leaderboard.board.ranking import measure
from leaderboard.database import tables as t
from leaderboard.database.auth import create_token
from leaderboard.database.lines import count_change, note
from leaderboard.database.states import StoredSubmission
from leaderboard.database.store import Store
from leaderboard.service.evidence import folder_of, write_evidence
from leaderboard.service.service import Service
from leaderboard.submissions.submission import Entry
from tests.leaderboard.made_up import make_folder, make_zip

TEMPLATES = 8
SCALE = "400m-1x"  # its suite is CORE: 23 tasks, 105,079 questions
BATCH = 500


class Databases:
    """SQLite files in the folders, or databases of a server, made here and dropped at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[str] = []

    def of(self, folder: Path, *, keep: bool = False) -> str:
        """The address of a folder's database: a new one, or with `keep` the one that is there."""
        folder.mkdir(parents=True, exist_ok=True)
        if not self.url:
            return f"sqlite:///{folder}/board.db"
        name = f"bench_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        if not keep:
            self._run(f"DROP DATABASE IF EXISTS {name}")
            self.made.append(name)
        if not self._run(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self._run(f"CREATE DATABASE {name}")
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def drop(self) -> None:
        for name in self.made:
            self._run(f"DROP DATABASE IF EXISTS {name}")

    def _run(self, statement: str) -> bool:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            lines = connection.execute(statement)  # type: ignore[call-overload]
            return lines.description is not None and lines.fetchone() is not None


def fill_board(service: Service, files: Path, number: int) -> None:
    """Accepted submissions of the scale `SCALE`, up to so many."""
    store = service.store
    here = sum(board.number for board in store.boards() if board.scale == SCALE)
    if here >= number:
        return
    token, _ = create_token(store, "bench", scopes=["submit"], team="a team")
    scratch = Path(tempfile.mkdtemp(prefix="bench-made-"))
    templates = []
    for k in range(TEMPLATES):
        shape: dict[str, Any] = {
            "scale": SCALE,
            "method": "no_filter" if k == 0 else f"method {k:05d}",
            "skill": 0.3 + 0.05 * k,
            "chance": k,
            "seeds": (124, 125) if k == TEMPLATES - 1 else None,
        }
        template, _ = service.receive(make_zip(scratch, **shape), token)
        claimed = store.claim("bench")
        if claimed is None:  # it is here already
            templates.append(template)
            continue
        folder = make_folder(scratch, **shape)
        bundle = service.bundle(template)
        # Its rules are not checked: a made-up log has not the right answers of the pinned data.
        measured = measure(Entry(bundle.record, folder))
        write_evidence(service.files, template, bundle, measured)
        store.checked(template.id, "bench", (), measured)
        templates.append(store.move(template.id, "accepted", who="bench"))
        shutil.rmtree(folder)
    shutil.rmtree(scratch)
    for start in range(max(here, TEMPLATES), number, BATCH):
        _copies(store, files, templates, range(start, min(start + BATCH, number)))


def _copies(store: Store, files: Path, templates: list[StoredSubmission], numbers: range) -> None:
    now = time.time()
    lines: dict[Any, list[dict[str, Any]]] = {t.Submission: [], t.StoredRow: [], t.Draw: []}
    with store.writer.begin() as connection:
        of = {template.id: _lines_of(connection, template.id) for template in templates}
        for k in numbers:
            template = templates[k % len(templates)]
            submission, row, drawn = of[template.id]
            id_ = hashlib.sha256(f"copy {k}".encode()).hexdigest()[:32]
            rng = np.random.default_rng(k)
            shift = 0.1 * float(rng.standard_normal())
            method = f"method {k:05d}"
            own = {"id": id_, "changed": now}
            received = now + k / 1e4
            lines[t.Submission].append(submission | own | {"method": method, "received": received})
            moved = orjson.dumps(_moved(row, id_, k, shift)).decode()
            lines[t.StoredRow].append(own | {"row": moved})
            for metric, data in drawn:
                values = np.frombuffer(data, "<f4") + shift
                apart = (values + rng.normal(0.0, 1e-3, values.shape)).astype("<f4")
                lines[t.Draw].append({"id": id_, "metric": metric, "resamples": apart.tobytes()})
            note(connection, id_, "bench", "needs_review", "accepted", "a copy")
            _link(files, template, id_)
        for table, values_ in lines.items():
            connection.execute(insert(table), values_)
        count_change(connection)
    store.changes += 1


def _lines_of(
    connection: Connection, id_: str
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[str, bytes]]]:
    """What the database has of a submission: its line, its row, its resamples by metric."""
    line = connection.execute(select(t.Submission.__table__).where(t.Submission.id == id_))
    row = connection.execute(select(t.StoredRow.row).where(t.StoredRow.id == id_)).scalar_one()
    drawn = connection.execute(select(t.Draw.metric, t.Draw.resamples).where(t.Draw.id == id_))
    return (
        dict(line.mappings().one()),
        orjson.loads(row),
        [(metric, data) for metric, data in drawn],
    )


def _moved(row: dict[str, Any], id_: str, k: int, shift: float) -> dict[str, Any]:
    """The row of a copy: its own names, and every score moved by `shift`."""
    figures = {
        name: figure | {"values": [value + shift for value in figure["values"]]}
        for name, figure in row["figures"].items()
    }
    return row | {
        "submission_id": id_,
        "dataset_id": id_,
        "method": f"method {k:05d}",
        "team": f"team {k % 97}",
        "baseline_of": "",
        "date": f"2026-{1 + k % 11:02d}-{1 + k % 28:02d}",
        "dataset": row["dataset"] | {"size": row["dataset"]["size"] + k},
        "headline": row["headline"] | {"value": row["headline"]["value"] + shift},
        "seeds": [seed | {"value": seed["value"] + shift} for seed in row["seeds"]],
        "tasks": [task | {"value": task["value"] + shift} for task in row["tasks"]],
        "aggregates": {name: value + shift for name, value in row["aggregates"].items()},
        "figures": figures,
    }


def _link(files: Path, template: StoredSubmission, id_: str) -> None:
    """The files that a check wrote, for a copy: links, but for what holds the id."""
    source = files / folder_of(template)
    target = files / folder_of(template.model_copy(update={"id": id_}))
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name == "evidence.json":
            text = path.read_text().replace(template.id, id_)
            (target / path.name).write_text(text)
        elif not (target / path.name).exists():
            os.link(path, target / path.name)
