"""Opening a database: its engine, the version of its tables, and migrations.

SQLite waits for a lock instead of failing, and commits durably; PostgreSQL keeps a pool.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from leaderboard.database.address import DEFAULT
from pipelines.errors import DataError

LOCK_SECONDS = 60
"""How long SQLite waits for another writer."""
DATABASE_DOWN = (OperationalError, InterfaceError, PoolTimeoutError)
"""What is raised when the database cannot be reached, or cannot write."""


def down(text: str) -> Exception:
    """One of `DATABASE_DOWN` with a text alone: the drivers' own cannot always be pickled."""
    return OperationalError("", None, Exception(text))


class StoreError(DataError):
    """A change that the states do not allow, or a database that cannot be used."""


class Database:
    """A database whose tables have the version that this program needs."""

    def __init__(self, url: str = DEFAULT, *, migrate: bool = True) -> None:
        self.url = url
        self.engine = _engine(url)
        self.writer = self.engine.execution_options(immediate=True)
        file = _file_of(self.engine)
        if migrate:
            if file is not None and not file.exists():
                _private(file)
            self.migrate()
        elif file is not None and not file.exists():  # opening it would leave an empty file
            raise StoreError(self._absent())
        self._check_version()

    def _absent(self) -> str:
        return (
            f"there is no board in the database {self.shown} yet; `leaderboard serve` and "
            "`leaderboard import` make one, --database names another"
        )

    def migrate(self) -> None:
        """Bring the tables to this version. Safe to run from many processes at once."""
        try:
            with self.writer.begin() as connection:
                if self.engine.dialect.name == "postgresql":
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(427001)")
                version = self.version(connection)
                if version == latest_version():
                    return
                if version is not None and version not in _known_versions():
                    raise StoreError(self._newer(version))
                _upgrade(connection)
        except OperationalError as error:
            raise StoreError(f"the database {self.shown} cannot be used: {error.orig}") from None

    def version(self, connection: Connection | None = None) -> str | None:
        """The version of the tables; None before the first migration."""
        if connection is not None:
            return _version_of(connection)
        with self.engine.connect() as own:
            return _version_of(own)

    def _check_version(self) -> None:
        try:
            version, latest = self.version(), latest_version()
        except DATABASE_DOWN as error:
            cause = getattr(error, "orig", error)
            raise StoreError(f"the database {self.shown} cannot be used: {cause}") from None
        if version is None:
            raise StoreError(self._absent())
        if version not in _known_versions():
            raise StoreError(self._newer(version))
        if version != latest:
            raise StoreError(
                f"the database {self.shown} has version {version}, this program needs {latest}; "
                "run `leaderboard migrate` (make a backup first)"
            )

    def _newer(self, version: str) -> str:
        return (
            f"the database {self.shown} has version {version}, this program needs "
            f"{latest_version()}: it is of a newer program; use that one, or restore the backup "
            "that was made before"
        )

    @property
    def shown(self) -> str:
        """The address without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self.engine.dispose()


MIGRATIONS = Path(__file__).parents[1] / "migrations"


def _upgrade(connection: Connection) -> None:
    """Bring the tables to the latest version, by the migrations that are missing."""
    from alembic import command  # a third of a second: not for a database that has its version
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _version_of(connection: Connection) -> str | None:
    """What alembic noted after the last migration."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.exec_driver_sql(
        "SELECT version_num FROM alembic_version"
    ).scalar()
    return version


def _known_versions() -> tuple[str, ...]:
    """The versions in order: the names of the migrations begin with them."""
    return tuple(sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def latest_version() -> str:
    """The version of the tables that this program needs."""
    return _known_versions()[-1]


def _write_ahead(connection: Any) -> None:
    """Have the journal written ahead; SQLite waits for no lock here, so that we do."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _file_of(engine: Engine) -> Path | None:
    """The file of an SQLite database; None in memory, and for other kinds."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or path == ":memory:":
        return None
    return None if path.startswith("file:") else Path(path)


def _private(path: Path) -> None:
    """Make a new SQLite file readable by its owner alone; its journal has the same mode."""
    with contextlib.suppress(OSError):  # the engine says better what is wrong
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _engine(url: str) -> Engine:
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        if not url.startswith("sqlite"):
            return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=30)
        engine = create_engine(
            url, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False}
        )
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise StoreError(
            f"{url!r} is not an address of a database ({error}); write sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/NAME"
        ) from None

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says
        _write_ahead(connection)
        for line in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {line}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Who means to write takes the lock at once: two readers that both want to write deadlock.
        write = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
