"""A copy of a service that can be started elsewhere: the database, then the bundles it names.

The order matters: a bundle is on disk before the database names it, so a copy of the database never
names a bundle that is not there yet.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from leaderboard.database.connection import StoreError
from leaderboard.database.store import Store
from leaderboard.service.evidence import folder_of
from leaderboard.service.service import Service
from pipelines.records import Frozen
from pipelines.storage.base import Store as Files
from pipelines.storage.base import copy_into
from pipelines.storage.open import open_store


class Copied(Frozen):
    """How many bundles the copy has, and which bundles are missing from the service."""

    number: int
    missing: tuple[str, ...] = ()


PAGE = 1000  # submissions per query: bounds memory, whatever the size of the board


def backup(service: Service, folder: Path) -> Copied:
    """Copy an SQLite database and its bundles below `folder`, while the service runs.

    A missing bundle is listed, and the copy continues. Bundles that the folder already has are
    kept, so a backup into the same folder copies only new ones. StoreError for PostgreSQL,
    which has pg_dump.
    """
    engine = service.store.engine
    if engine.dialect.name != "sqlite":
        raise StoreError(
            "back up PostgreSQL with its own tools: `pg_dump --format=custom NAME > board.dump`, "
            "and then the bundles: `leaderboard backup FOLDER --bundles`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "board.db"
    part = folder / "board.db.part"
    part.unlink(missing_ok=True)
    source = sqlite3.connect(str(engine.url.database))
    target = sqlite3.connect(part)
    with source, target:
        source.backup(target)
    source.close()
    target.close()
    part.replace(whole)
    copied = Store(f"sqlite:///{whole}", migrate=False)
    try:
        return copy_bundles(copied, service.files, open_store(folder / "board-files"))
    finally:
        copied.close()


def copy_bundles(store: Store, source: Files, target: Files) -> Copied:
    """Copy every bundle that a database names, with what its pages read."""
    number, offset = 0, 0
    missing: list[str] = []
    while page := store.find(limit=PAGE, offset=offset):
        offset += len(page)
        for submission in page:
            if not submission.bundle:
                continue
            try:
                _copy(source, target, submission.bundle)
            except FileNotFoundError:
                missing.append(f"{submission.bundle} of {submission.method} ({submission.state})")
                continue
            number += 1
            for entry in source.list(folder_of(submission)):
                _copy(source, target, entry.name)
    return Copied(number=number, missing=tuple(missing))


def _copy(source: Files, target: Files, name: str) -> None:
    if not target.exists(name):
        with source.open(name) as data, target.create(name) as out:
            copy_into(data, out)
