"""Make pages in threads of this process, or in another process.

A page of a large board is pure Python for milliseconds to seconds. In a thread of the process that
answers requests it would hold the interpreter lock for that long; so `leaderboard serve` has pages
made by a process with its own copy of the board (`leaderboard.web.maker`), and caches the replies.
A job is a picklable function of a `Service`; pages come back compressed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import Empty, Full, PriorityQueue
from threading import Thread
from typing import Protocol

from leaderboard.database.connection import DATABASE_DOWN, down
from leaderboard.service.reader import kill
from leaderboard.service.service import Service

Make = Callable[[Service], str | bytes]
SMALL = 1400  # bytes that fit into one packet are not worth compressing
MOST_WAITING = 256  # jobs; more than a process makes in the time that anybody waits
MOST_EACH = 128  # of one asker: a proxy that is not trusted is one, with everybody behind it
START_SECONDS = 1.0  # after which the process starts though no page was asked for
SECONDS = 120.0  # for one page: reading and ranking ten thousand rows takes about five
READY_SECONDS = 120.0  # after which it is ready though it could not prepare every board
READY_PATIENCE = 0.5  # seconds that a monitor waits for the process that makes pages
THREADS = 2  # of this process; pages are pure Python, so more threads make none sooner


@dataclass(frozen=True)
class Page:
    """A finished answer."""

    body: bytes
    packed: bytes
    tag: str


class Busy(Exception):
    """More pages are waiting than can be made in time."""


class Maker(Protocol):
    """What makes pages."""

    def ask(self, make: Make, *, later: bool = False, who: str = "") -> Future[Page]:
        """The page, once it is made; `later`: after all other jobs. Busy when too many wait.

        `who` is the asker: the first page of each asker comes before the second of any.
        """
        ...

    def ready(self) -> bool:
        """Whether every view of a large board can be made in a moment."""
        ...

    def close(self) -> None:
        """Stop making pages."""
        ...


def prepared(service: Service) -> str:
    """A page with a letter, once the process that makes it has prepared the large boards."""
    return "y" if service.library.prepared else ""


def finished(made: str | bytes) -> Page:
    """A page from its text: compressed once, with its ETag."""
    body = made.encode() if isinstance(made, str) else made
    packed = gzip.compress(body, 5, mtime=0) if len(body) > SMALL else b""
    return Page(body, packed, tag_of(body))


def tag_of(body: bytes) -> str:
    """The ETag of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class ThreadMaker:
    """Makes pages in this process: for tests, and for services with small boards."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._threads = ThreadPoolExecutor(THREADS, "page")

    def ask(self, make: Make, *, later: bool = False, who: str = "") -> Future[Page]:
        return self._threads.submit(lambda: finished(make(self.service)))

    def ready(self) -> bool:
        return True  # it prepares nothing

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(order=True)
class _Job:
    later: bool
    turn: int  # how many pages the same asker waited for already
    number: int
    who: str = field(compare=False)
    make: Make = field(compare=False)
    page: Future[Page] = field(compare=False)


class Worker(Protocol):
    """A process that answers jobs, as its parent sees it: two pipes, and a way to end it."""

    source: int
    target: int

    def running(self) -> bool:
        """Whether the process is alive."""
        ...

    def end(self) -> None:
        """Kill it and close the pipes."""
        ...


class Spawned:
    """A new Python process, which takes a second or two to load its libraries."""

    def __init__(self, database: str, files: str, eval_data: str) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "LEADERBOARD_DATABASE": database,  # it may hold a password: never in the arguments
        }
        command = [sys.executable, "-m", "leaderboard.web.maker", files, eval_data]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.target = self._process.stdin.fileno()
        self.source = self._process.stdout.fileno()

    def running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        kill(self._process)


class Forked:
    """A fork of this process, which has its libraries loaded and starts at once.

    It must be made before this process has a second thread: a fork of a threaded process may wait
    forever for a lock that another thread had. `work` gets the two ends of the pipes and what
    `configure` sent.
    """

    def __init__(self, work: Callable[[int, int, Sequence[str]], None]) -> None:
        if threading.active_count() > 1:
            raise RuntimeError("this process has threads already")
        job_source, self.target = os.pipe()
        self.source, page_target = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.target)
                os.close(self.source)
                work(job_source, page_target, pickle.loads(read(job_source)))
                status = 0
            except (EOFError, BrokenPipeError):
                status = 0  # the service has ended
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(job_source)
        os.close(page_target)
        self._ended = False

    def configure(self, *words: str) -> None:
        """Send the arguments of its `work`."""
        write(self.target, pickle.dumps(words))

    def running(self) -> bool:
        if not self._ended:
            self._ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return not self._ended

    def end(self) -> None:
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True
        for pipe in (self.source, self.target):
            with contextlib.suppress(OSError):
                os.close(pipe)
        self.source = self.target = -1


class ProcessMaker:
    """Makes pages in a process, one after the other; a process that ends is replaced."""

    def __init__(
        self, database: str, files: str, *, eval_data: str = "", first: Forked | None = None
    ) -> None:
        """`first`: a process that was made when this one had no threads."""
        self._start = partial(Spawned, database, files, eval_data)
        self._jobs: PriorityQueue[_Job] = PriorityQueue(MOST_WAITING)
        self._numbers = count()
        self._waiting: Counter[str] = Counter()  # jobs by who asked
        self._lock = threading.Lock()
        self._closed = False
        self._begun = time.monotonic()
        self._ready = False
        self._asked: Future[Page] | None = None
        self._worker: Worker | None = first
        if first is not None:
            first.configure(database, files, eval_data)
        Thread(target=self._work, daemon=True, name="maker").start()

    def ask(self, make: Make, *, later: bool = False, who: str = "") -> Future[Page]:
        with self._lock:
            turn = self._waiting[who]
            if turn >= MOST_EACH:
                raise Busy("you wait for too many pages; try again in a few seconds")
            job = _Job(later, turn, next(self._numbers), who, make, Future())
            try:
                self._jobs.put_nowait(job)
            except Full:
                raise Busy("too many pages wait to be made; try again in a few seconds") from None
            self._waiting[who] += 1
        return job.page

    def ready(self) -> bool:
        """Once it is, it remains so: after a change of a board, its old pages are served."""
        late = time.monotonic() > self._begun + READY_SECONDS
        if self._ready or late:
            return True
        try:
            asked = self._asked = self._asked or self.ask(prepared, later=True, who="ready")
            self._ready = bool(asked.result(READY_PATIENCE).body)
        except TimeoutError:
            return False
        except (Busy, OSError, RuntimeError, *DATABASE_DOWN):
            pass
        self._asked = None
        return self._ready

    def close(self) -> None:
        self._closed = True
        self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def _work(self) -> None:
        """Give jobs to the process, one by one.

        A process that does not exist yet is started a little after the service, since loading its
        libraries would slow down the first requests.
        """
        begun = time.monotonic()
        while not self._closed:
            late = begun + START_SECONDS - time.monotonic()
            try:
                job = self._jobs.get(timeout=max(0.0, late) if self._worker is None else None)
            except Empty:
                if not self._closed:
                    self._worker = self._start()
                continue
            with self._lock:
                self._waiting[job.who] -= 1
                if not self._waiting[job.who]:
                    del self._waiting[job.who]
            if not job.page.set_running_or_notify_cancel():
                continue
            try:
                job.page.set_result(self._made(job.make))
            except BaseException as error:  # goes to the caller that waits for the page
                job.page.set_exception(error)

    def _made(self, make: Make) -> Page:
        worker = self._worker
        if worker is None or not worker.running():
            self._end()
            worker = self._worker = self._start()
        try:
            write(worker.target, pickle.dumps(make))
            reply = pickle.loads(read(worker.source, seconds=SECONDS))
        except (OSError, EOFError, TimeoutError) as error:
            self._end()
            raise Busy(f"the process that makes pages ended ({error}); try again") from None
        if isinstance(reply, Exception):
            raise reply
        page: Page = reply
        return page


def reply_to(job: bytes, service: Service) -> bytes:
    """In the maker's process: the pickled page of a job, or the error that its caller raises."""
    make: Make = pickle.loads(job)
    reply: object
    try:
        reply = finished(make(service))
    except KeyError as error:
        reply = KeyError(*(str(argument) for argument in error.args))
    except DATABASE_DOWN as error:  # a driver's own errors cannot always be pickled
        reply = down(str(error))
    except OSError as error:
        reply = OSError(error.errno, error.strerror)
    except Exception as error:
        reply = RuntimeError("".join(traceback.format_exception(error))[-4000:])
    return pickle.dumps(reply)


# ---- messages: a length of 8 bytes (little-endian), then that many bytes


def write(target: int, data: bytes) -> None:
    """Send a message whole."""
    whole = memoryview(struct.pack("<Q", len(data)) + data)
    while whole:
        whole = whole[os.write(target, whole) :]


def read(source: int, *, seconds: float | None = None) -> bytes:
    """Receive a message whole. EOFError when the other side has closed, TimeoutError when late."""
    until = None if seconds is None else time.monotonic() + seconds
    (length,) = struct.unpack("<Q", _exactly(source, 8, until))
    return _exactly(source, length, until)


def _exactly(source: int, number: int, until: float | None) -> bytes:
    parts = []
    while number:
        if until is not None:
            waits = select.poll()  # a server may have more open files than `select` can count
            waits.register(source, select.POLLIN | select.POLLHUP)
            if not waits.poll(1000 * max(0.0, until - time.monotonic())):
                raise TimeoutError("no answer in time")
        data = os.read(source, min(number, 1 << 20))
        if not data:
            raise EOFError("it has ended")
        parts.append(data)
        number -= len(data)
    return b"".join(parts)
