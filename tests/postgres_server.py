"""A PostgreSQL server of its own, on loopback, for the tests that are marked `postgres`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = "/usr/lib/postgresql"
PREFIX = "tests-postgres-"  # then the process id of the test run and something random
MEMORY = Path("/dev/shm")  # a new database is 300 files, which take a disk five times as long
ROOM = 2 << 30  # bytes free there; the databases of tests are dropped, a server has a few at a time


class Unavailable(RuntimeError):
    """PostgreSQL cannot be had here; the message says why."""


def programs() -> Path:
    """The folder of initdb and postgres, installed with apt when this is root on Debian."""
    actual = _installed()
    if actual is None and os.geteuid() == 0 and shutil.which("apt-get"):
        run = ["apt-get", "install", "-y", "-qq", "postgresql"]
        subprocess.run(run, capture_output=True, check=False, timeout=300)
        actual = _installed()
    if actual is None:
        raise Unavailable("no PostgreSQL: apt-get install postgresql")
    return actual


def _installed() -> Path | None:
    known = sorted(Path(PROGRAMS).glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return known[-1].parent if known else Path(on_path).parent if on_path else None


def remove_abandoned() -> None:
    """Stop the servers and remove the files of test runs that were killed."""
    for folder in {*Path(tempfile.gettempdir()).glob(f"{PREFIX}*"), *MEMORY.glob(f"{PREFIX}*")}:
        if _runs(int(folder.name.removeprefix(PREFIX).partition("-")[0])):
            continue
        with suppress(OSError, ValueError, IndexError):  # it has ended, or never began
            server = int((folder / "data/postmaster.pid").read_text().splitlines()[0])
            if b"postgres" in Path(f"/proc/{server}/cmdline").read_bytes():
                os.kill(server, signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def _parent() -> Path:
    """Where a server's files are: in memory where there is room."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM:
        return MEMORY
    return Path(tempfile.gettempdir())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class PostgresServer:
    """Started and stopped by its process id; its files are removed."""

    def __init__(self) -> None:
        self.bin = programs()
        remove_abandoned()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_parent()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.owner: dict[str, int] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            try:
                who = pwd.getpwnam("postgres")
            except KeyError:
                raise Unavailable("there is no user `postgres` to run the server as") from None
            self.owner = {"user": who.pw_uid, "group": who.pw_gid}
            os.chown(self.folder, who.pw_uid, who.pw_gid)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/"

    def start(self) -> None:
        data = str(self.folder / "data")
        init = [str(self.bin / "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"]
        init += ["-E", "UTF8"]
        subprocess.run(init, check=True, capture_output=True, cwd="/", **self.owner)
        self.process = subprocess.Popen(
            [
                str(self.bin / "postgres"),
                "-D",
                data,
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-k",
                str(self.folder),
                "-c",
                "max_connections=100",
                "-c",
                "fsync=off",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self.owner,
        )
        self._wait()

    def _wait(self) -> None:
        import psycopg

        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                psycopg.connect(f"{self.url}postgres").close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise Unavailable("PostgreSQL did not start")

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        import psycopg

        with psycopg.connect(f"{self.url}postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"{self.url}{name}"

    def drop(self, name: str) -> None:
        """Remove a database, whoever still has a connection to it."""
        import psycopg

        with psycopg.connect(f"{self.url}postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)  # at once: its data is thrown away
        self.process.wait(timeout=300)
        shutil.rmtree(self.folder, ignore_errors=True)
