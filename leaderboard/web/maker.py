"""The process that makes pages: `leaderboard.web.maker FILES DATA`

It answers jobs that come on its standard input until that closes; between them it reads and ranks
the boards, so that the first reader of each need not wait. The address of the database comes by the
variable LEADERBOARD_DATABASE, since everybody on a machine can read the arguments of a process.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from leaderboard.board.boards import View
from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web.links import LINKS
from leaderboard.web.makers import read, reply_to, write
from leaderboard.web.texts import front_text, submission_text
from pipelines.storage.open import open_store


def main() -> None:
    """Make pages until the other side closes."""
    os.umask(0o077)
    source, target = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no message
    files, eval_data = sys.argv[1:3]
    try:
        store = Store(os.environ["LEADERBOARD_DATABASE"], migrate=False)
    except StoreError as error:
        sys.exit(f"the process that makes pages ends: {error}")
    service = Service(store, open_store(files), eval_data=eval_data)
    before = _warm(service)
    while True:
        while not select.select([source], [], [], 0)[0]:
            if next(before, None) is None:
                break
        try:
            job = read(source)
        except EOFError:
            return
        write(target, reply_to(job, service))


def _warm(service: Service) -> Iterator[bool]:
    """What the first readers need, piece by piece."""
    with contextlib.suppress(*DATABASE_DOWN):
        for board in service.library.boards():
            service.library.page(board.benchmark, board.scale, board.track, View())
            yield True
        front_text(service, LINKS)
        yield True
        for submission in service.store.find(states=["accepted"], limit=1):
            submission_text(service, submission, LINKS)
            yield True


if __name__ == "__main__":
    main()
