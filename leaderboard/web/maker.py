"""The process that makes pages: `leaderboard.web.maker FILES DATA`

It answers jobs that come on its standard input until that closes; between them it reads and ranks
the boards, so that the first reader of each need not wait. The address of the database comes by the
variable LEADERBOARD_DATABASE, since everybody on a machine can read the arguments of a process.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence

from leaderboard.board.boards import KEPT_FROM, BoardKey, View
from leaderboard.database.connection import DATABASE_DOWN, StoreError
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web.links import LINKS
from leaderboard.web.makers import START_SECONDS, read, reply_to, write
from leaderboard.web.shelf import Shelf, folder_for
from leaderboard.web.texts import front_text, submission_text
from pipelines.storage.open import open_store

TURN_SECONDS = 2.0  # without a pause between jobs, after which a piece is prepared all the same
OBJECTS = 50_000  # made and not freed since the last search for cycles


def main() -> None:
    """Make pages until the other side closes."""
    os.umask(0o077)
    source, target = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no message
    answer(source, target, [os.environ["LEADERBOARD_DATABASE"], *sys.argv[1:3]])


def answer(source: int, target: int, words: Sequence[str]) -> None:
    """Answer jobs of a database, a folder of files and one of evaluation data."""
    database, files, eval_data = words
    try:
        store = Store(database, migrate=False)
    except StoreError as error:
        sys.exit(f"the process that makes pages ends: {error}")
    service = Service(store, open_store(files), eval_data=eval_data)
    folder = folder_for(service.files, "standings")
    service.library.keeper = Shelf(folder) if folder is not None else None
    collector = _Collector(service)
    others = _Others(service, source, target)
    service.library.prepared = False
    revision, before = _revision(service), _warm(service, others)
    due = time.monotonic() + START_SECONDS  # until then the service starts, and readers come first
    while True:
        while not others.begun:
            wait = max(0.0, due - time.monotonic())
            asked = bool(select.select([source], [], [], wait)[0])
            if asked and time.monotonic() < due + TURN_SECONDS:
                break
            collector.between_jobs()
            others.begun = next(before, None) is None
            due = time.monotonic()
        try:
            job = read(source)
        except EOFError:
            others.end()
            return
        others.reap()
        service.library.prepared = others.begun and not others.pid
        write(target, reply_to(job, service))
        collector.between_jobs()
        if (now := _revision(service)) != revision:
            revision, before = now, _warm(service, others)
            others.begun = False


def _revision(service: Service) -> int:
    with contextlib.suppress(*DATABASE_DOWN):
        return service.library.revision()
    return -1


class _Collector:
    """Searches for cycles of objects between jobs, and never among the rows of the boards.

    A search goes over every object: over those of ten thousand rows it takes a second.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.num_read = 0
        gc.disable()

    def between_jobs(self) -> None:
        if self.service.library.num_read > self.num_read:
            self.num_read = self.service.library.num_read
            gc.freeze()
        elif gc.get_count()[0] > OBJECTS:
            gc.collect()


def _warm(service: Service, others: _Others) -> Iterator[bool]:
    """What the first readers need, piece by piece; then, beside it, the order by other metrics."""
    with contextlib.suppress(*DATABASE_DOWN):
        boards = service.library.boards()
        metrics = {}
        for board in boards:
            key = (board.benchmark, board.scale, board.track)
            metrics[key] = service.library.page(*key, View(limit=1)).metrics
            yield True
        front_text(service, LINKS)
        yield True
        for submission in service.store.find(states=["accepted"], limit=1):
            submission_text(service, submission, LINKS)
            yield True
        large = {
            (board.benchmark, board.scale, board.track)
            for board in boards
            if board.number >= KEPT_FROM
        }
        others.start({key: names for key, names in metrics.items() if key in large})
        yield True


class _Others:
    """The order of large boards by their other metrics, found by a copy of this process.

    Ten thousand rows take about a second for each metric, in which this process makes pages; what
    it read ends with it. Its priority is not lower, since readers wait for these orders.
    """

    def __init__(self, service: Service, *pipes: int) -> None:
        self.service = service
        self.pipes = pipes
        self.pid = 0
        self.begun = False  # whether all that is prepared here is done, and the copy started

    def start(self, metrics: Mapping[BoardKey, Sequence[str]]) -> None:
        """Begin anew with these metrics of boards."""
        self.end()
        if not metrics or self.service.library.keeper is None:
            return
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for pipe in self.pipes:  # else they would look open when the original has ended
                    os.close(pipe)
                self._find(metrics)
            except BaseException:  # the first reader of such a view waits for it
                traceback.print_exc()
            finally:
                os._exit(0)

    def _find(self, metrics: Mapping[BoardKey, Sequence[str]]) -> None:
        self.service.store.engine.dispose(close=False)  # the original's connections
        for key, names in metrics.items():
            for name in names:
                with contextlib.suppress(KeyError):  # the board changed meanwhile
                    self.service.library.page(*key, View(metric=name, limit=1))

    def reap(self) -> None:
        """Take note of its end."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0

    def end(self) -> None:
        """Stop it, as when the boards changed."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


if __name__ == "__main__":
    main()
