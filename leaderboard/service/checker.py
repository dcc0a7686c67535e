"""Check waiting submissions: `leaderboard.service.checker FILES LIMITS LEASE PARENT NAME DATA`

The database URL is in the variable LEADERBOARD_DATABASE, since every user of a machine can read the
arguments of a process.
"""

from __future__ import annotations

import os
import resource
import secrets
import sys
import time
from collections.abc import Callable

from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.database.store import LEASE_SECONDS, Store
from leaderboard.service.renew import renew
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import LIMITS, Limits
from pipelines.storage.open import open_store

CHECK_BYTES = 8 << 30  # address space of one check; a stage has less (see `limits`)


def main() -> None:
    """Check until the parent ends."""
    os.umask(0o077)
    os.nice(5)  # pages first
    try:
        _check(*sys.argv[1:7])
    except (*DATABASE_DOWN, StoreError) as error:
        sys.exit(f"a check process ends: {error}")


def _check(files: str, limits: str, lease_seconds: str, parent: str, name: str, data: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (CHECK_BYTES, hard))
    check_forever(
        os.environ["LEADERBOARD_DATABASE"],
        files,
        limits=Limits.model_validate_json(limits),
        lease_seconds=float(lease_seconds),
        parent=int(parent),
        name=name,
        eval_data=data,
    )


def check_forever(
    database: str,
    files: str,
    *,
    limits: Limits = LIMITS,
    lease_seconds: float = LEASE_SECONDS,
    parent: int | None = None,
    name: str = "",
    eval_data: str = "",
    pause: float = 0.25,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Check waiting submissions until the parent ends. `main` bounds the memory of the process."""
    service = Service(
        Store(database, migrate=False), open_store(files), limits, eval_data=eval_data
    )
    owner = f"check {name or secrets.token_hex(4)}"  # shown in public: no host, no process id
    old = renew(service)  # rewrites evidence of earlier versions while no submission waits
    while not until():
        if parent is not None and os.getppid() != parent:
            return
        if service.check_next(owner, lease_seconds=lease_seconds) is not None:
            continue
        if next(old, None) is None:
            time.sleep(pause)


if __name__ == "__main__":
    main()
