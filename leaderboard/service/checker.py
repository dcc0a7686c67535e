"""A process that checks what waits: `leaderboard.service.checker FILES LIMITS LEASE PARENT NAME`.

The address of the database comes by the variable LEADERBOARD_DATABASE, since everybody on a machine
can read the arguments of a process.
"""

from __future__ import annotations

import os
import sys

from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.service.service import check_forever
from leaderboard.submissions.bundle import Limits


def main() -> None:
    """Check until the parent ends."""
    os.umask(0o077)
    os.nice(5)  # pages first
    files, limits, lease_seconds, parent, name = sys.argv[1:6]
    try:
        _check(files, limits, lease_seconds, parent, name)
    except (*DATABASE_DOWN, StoreError) as error:
        sys.exit(f"a check process ends: {error}")


def _check(files: str, limits: str, lease_seconds: str, parent: str, name: str) -> None:
    check_forever(
        os.environ["LEADERBOARD_DATABASE"],
        files,
        limits=Limits.model_validate_json(limits),
        lease_seconds=float(lease_seconds),
        parent=int(parent),
        name=name,
    )


if __name__ == "__main__":
    main()
