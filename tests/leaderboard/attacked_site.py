"""A service in this process, and one on a socket, for the tests of attacks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.testclient import TestClient

from leaderboard.database.auth import Rate, create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web.access import Rates
from leaderboard.web.app import create_app
from leaderboard.web.connections import bounded
from pipelines.storage.open import open_store

BOARD = "/boards/dclm/tiny/filtering"


MIB = 1 << 20


class Site:
    """A service in this process, with one accepted submission."""

    def __init__(self, database: str, folder: Path) -> None:
        self.store = Store(database)
        self.service = Service(self.store, open_store(folder / "files"))
        self.token, self.secret = create_token(self.store, "ci", scopes=["submit"], team="a team")
        self.reviewer = create_token(self.store, "ada", scopes=["review"])[1]
        rates = Rates(uploads=Rate(1000, 1), failures=Rate(10_000, 1))
        self.app = create_app(self.service, rates=rates)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.folder = folder

    def send(self, path: Path) -> str:
        submission, _ = self.service.receive(path, self.token)
        return submission.id

    def accept(self, path: Path) -> str:
        id_ = self.send(path)
        while self.service.check_next("check") is not None:
            pass
        self.store.move(id_, "accepted", who="ada")
        return id_


@contextlib.contextmanager
def listening(site: Site, **limits: float) -> Iterator[tuple[str, int]]:
    """The application behind the bounded protocol, on a socket."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            site.app,
            log_config=None,
            lifespan="off",
            http=bounded(**limits),  # type: ignore[arg-type]
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        yield taken.getsockname()
        server.should_exit = True
        thread.join()
