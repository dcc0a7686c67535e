"""The service as a process: the web server, and the processes that check submissions."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import uvicorn

from leaderboard.database.address import DEFAULT
from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.database.store import LEASE_SECONDS, Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import Limits
from leaderboard.web.access import Rates
from leaderboard.web.answers import STALE_SECONDS
from leaderboard.web.app import create_app
from leaderboard.web.connections import HEAD_SECONDS, bounded, networks
from leaderboard.web.logs import set_up
from leaderboard.web.maker import answer
from leaderboard.web.makers import Forked, ProcessMaker
from leaderboard.web.shelf import Shelf, folder_for
from pipelines.console import out
from pipelines.records import Frozen
from pipelines.storage.open import open_store

log = logging.getLogger("leaderboard")
PAUSE = 1.0  # seconds before a check process that ended is started again


def files_of(database: str) -> str:
    """Where bundles are when nobody says: a folder next to the SQLite file."""
    parts = urlsplit(database)
    if parts.scheme == "sqlite" and parts.path:
        return str(Path(parts.path[1:]).with_suffix("")) + "-files"
    return "leaderboard-files"


class Serving(Frozen):
    """How a service is reached, and what its clients may take."""

    host: str = "127.0.0.1"
    port: int = 8000
    checks: int = 1
    uploads_per_hour: int = 60
    lease_seconds: float = LEASE_SECONDS
    trusted_proxies: tuple[str, ...] = ()
    public_url: str = ""
    head_seconds: float = HEAD_SECONDS
    eval_data: str = ""
    log: Path | None = None
    log_requests: bool = True


def serve(
    *,
    database: str = DEFAULT,
    files: str | None = None,
    limits: Limits = Limits(),
    serving: Serving = Serving(),
) -> None:
    """Serve until stopped. The checks run in processes of their own, which end with this one."""
    os.umask(0o077)  # bundles that nobody reviewed are not for every user of the machine
    set_up(serving.log, requests=serving.log_requests)
    _more_files()
    if any("://" in argument and "@" in argument and argument == database for argument in sys.argv):
        log.warning("the database's address is in the arguments; use LEADERBOARD_DATABASE")
    trusted = networks(serving.trusted_proxies)
    files = files or files_of(database)
    gc.freeze()  # the libraries' objects are no garbage: neither here nor in the copy
    gc.enable()
    first = _first_maker()
    store = Store(database)
    _references(store)
    service = Service(store, open_store(files), limits, eval_data=serving.eval_data)
    host_name = urlsplit(serving.public_url).hostname
    maker = ProcessMaker(store.url, files, eval_data=serving.eval_data, first=first)
    shelf = folder_for(service.files, "pages")
    app = create_app(
        service,
        maker=maker,
        shelf=Shelf(shelf, of=serving.public_url) if shelf is not None else None,
        stale_seconds=STALE_SECONDS,
        rates=Rates.usual(serving.uploads_per_hour),
        hosts=(host_name, "127.0.0.1", "localhost") if host_name else (),
        public_url=serving.public_url,
    )
    stop = Event()
    keepers = [
        Thread(target=_keep_checking, args=(service, files, serving.lease_seconds, stop))
        for _ in range(serving.checks)
    ]
    for keeper in keepers:
        keeper.start()
    out(f"http://{serving.host}:{serving.port}/")
    try:
        uvicorn.run(
            app,
            host=serving.host,
            port=serving.port,
            log_config=None,
            access_log=False,
            http=bounded(head_seconds=serving.head_seconds, trusted=trusted),
            proxy_headers=bool(trusted),
            forwarded_allow_ips=",".join(serving.trusted_proxies),
            timeout_graceful_shutdown=20,
            server_header=False,
        )
    finally:
        stop.set()
        for keeper in keepers:
            keeper.join()
        maker.close()
        service.readers.close()
        store.close()


def _first_maker() -> Forked | None:
    """The process that makes pages, with the libraries that this one has read already."""
    try:
        return Forked(answer)
    except RuntimeError:  # a program that has threads serves a board
        return None


def _more_files() -> None:
    """As many open files as the machine allows: every connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))


def _references(store: Store) -> None:
    """The papers' headline figures, where nothing else is on the board yet; else as known today."""
    from leaderboard.published.literature import put_references, renew_references

    if not store.boards():
        put_references(store)
    else:
        renew_references(store)


def _keep_checking(service: Service, files: str, lease_seconds: float, stop: Event) -> None:
    """Run one check process, and another when it ends; what it was checking waits again."""
    # The database's address may hold a password: it goes by the environment, never by arguments.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LEADERBOARD_DATABASE": service.store.url,
    }
    while not stop.is_set():
        name = secrets.token_hex(4)
        arguments = [
            files,
            service.limits.model_dump_json(),
            str(lease_seconds),
            str(os.getpid()),
            name,
            service.eval_data,
        ]
        command = [sys.executable, "-m", "leaderboard.service.checker", *arguments]
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not stop.wait(0.1):
            pass
        if stop.is_set():
            process.terminate()
            process.wait()
        why = _ended(process.returncode) if not stop.is_set() else "the service was stopped"
        with contextlib.suppress(*DATABASE_DOWN, StoreError):
            id_ = service.store.released(f"check {name}", why)
            log.warning("%s; it was checking %s", why, id_ or "nothing")
        if not stop.is_set():
            time.sleep(PAUSE)


def _ended(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "the check process was killed, as for want of memory"
    if code < 0:
        return f"the check process ended with {signal.Signals(-code).name}"
    return f"the check process ended with status {code}"
