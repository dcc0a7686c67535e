"""The service as a process: the web server, and the processes that check beside it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import uvicorn

from leaderboard.database.store import DEFAULT, LEASE_SECONDS, Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import Limits
from leaderboard.web.access import Rates
from leaderboard.web.app import create_app
from pipelines.console import out
from pipelines.storage.open import open_store

log = logging.getLogger("leaderboard")
PAUSE = 1.0  # seconds before a check process that ended is started again


def files_of(database: str) -> str:
    """Where bundles lie when nobody says: a folder beside the SQLite file."""
    parts = urlsplit(database)
    if parts.scheme == "sqlite" and parts.path:
        return str(Path(parts.path[1:]).with_suffix("")) + "-files"
    return "leaderboard-files"


def serve(
    *,
    database: str = DEFAULT,
    files: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    checks: int = 1,
    limits: Limits = Limits(),
    uploads_per_hour: int = 60,
    lease_seconds: float = LEASE_SECONDS,
    behind_proxy: bool = False,
) -> None:
    """Serve until stopped. The checks run in processes of their own, which end with this one."""
    files = files or files_of(database)
    store = Store(database)
    _references(store)
    service = Service(store, open_store(files), limits)
    app = create_app(service, rates=Rates.usual(uploads_per_hour))
    stop = Event()
    keepers = [
        Thread(target=_keep_checking, args=(database, files, limits, lease_seconds, stop))
        for _ in range(checks)
    ]
    for keeper in keepers:
        keeper.start()
    Thread(target=service.library.warm, daemon=True).start()
    out(f"http://{host}:{port}/")
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1" if behind_proxy else "",
            timeout_graceful_shutdown=20,
            server_header=False,
        )
    finally:
        stop.set()
        for keeper in keepers:
            keeper.join()
        store.close()


def _references(store: Store) -> None:
    """The papers' headline figures, where nothing else is on the board yet."""
    from leaderboard.published.references import put_references

    if not store.boards():
        put_references(store)


def _keep_checking(
    database: str, files: str, limits: Limits, lease_seconds: float, stop: Event
) -> None:
    """Run one check process, and another when it ends."""
    code = (
        "from leaderboard.service.service import check_forever; "
        "from leaderboard.submissions.bundle import Limits; "
        "import sys; check_forever(sys.argv[1], sys.argv[2], "
        "limits=Limits.model_validate_json(sys.argv[3]), lease_seconds=float(sys.argv[4]), "
        "parent=int(sys.argv[5]))"
    )
    told = [database, files, limits.model_dump_json(), str(lease_seconds), str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    while not stop.is_set():
        process = subprocess.Popen([sys.executable, "-c", code, *told], env=environment)
        while process.poll() is None and not stop.wait(0.1):
            pass
        if stop.is_set():
            process.terminate()
            process.wait()
            return
        log.warning("a check process ended with %s; starting another", process.returncode)
        time.sleep(PAUSE)
