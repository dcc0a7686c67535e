"""Who makes pages: threads of this process, or processes of their own.

A page of a large board is pure Python for milliseconds to seconds. Made beside the thread that
answers requests, it takes the interpreter from it; so `leaderboard serve` has pages made by a
process with a copy of the board of its own (`leaderboard.web.maker`), and keeps what comes back. A
job is a function of a `Service` that can be pickled; pages come compressed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, Full, PriorityQueue
from threading import Thread
from typing import Protocol

from leaderboard.database.connection import DATABASE_DOWN, down
from leaderboard.service.service import Service

Make = Callable[[Service], str | bytes]
SMALL = 1400  # bytes that fit into one packet are not worth compressing
MOST_WAITING = 256  # jobs; more than a process makes in the time that anybody waits
START_SECONDS = 1.0  # after which the process starts though no page was asked for
SECONDS = 120.0  # for one page: reading and ranking ten thousand rows takes about five
THREADS = 2  # of this process; pages are pure Python, so more threads make none sooner


@dataclass(frozen=True)
class Page:
    """A finished answer."""

    body: bytes
    packed: bytes
    tag: str


class Busy(Exception):
    """More pages wait to be made than can be."""


class Maker(Protocol):
    """What makes pages."""

    def ask(self, make: Make, *, later: bool = False) -> Future[Page]:
        """A page, some time; `later`: after those of others. Busy when too many wait."""
        ...

    def close(self) -> None:
        """Make no more."""
        ...


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

    def ask(self, make: Make, *, later: bool = False) -> Future[Page]:
        return self._threads.submit(lambda: finished(make(self.service)))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(order=True)
class _Job:
    later: bool
    number: int
    make: Make = field(compare=False)
    page: Future[Page] = field(compare=False)


class ProcessMaker:
    """Makes pages in a process, one after the other; a process that ends is replaced."""

    def __init__(self, database: str, files: str, *, eval_data: str = "") -> None:
        self._environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "LEADERBOARD_DATABASE": database,  # it may hold a password: never in the arguments
        }
        self._arguments = [files, eval_data]
        self._jobs: PriorityQueue[_Job] = PriorityQueue(MOST_WAITING)
        self._numbers = count()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        Thread(target=self._work, daemon=True, name="maker").start()

    def ask(self, make: Make, *, later: bool = False) -> Future[Page]:
        job = _Job(later, next(self._numbers), make, Future())
        try:
            self._jobs.put_nowait(job)
        except Full:
            raise Busy("too many pages wait to be made; try again in a few seconds") from None
        return job.page

    def close(self) -> None:
        self._closed = True
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "leaderboard.web.maker", *self._arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _work(self) -> None:
        """Give jobs to the process, one by one. It starts a little later than the service: what is
        on the shelf is answered without it, and its libraries would take the processor from that.
        """
        begun = time.monotonic()
        while not self._closed:
            late = begun + START_SECONDS - time.monotonic()
            try:
                job = self._jobs.get(timeout=max(0.0, late) if self._process is None else None)
            except Empty:
                if not self._closed:
                    self._start()
                continue
            if not job.page.set_running_or_notify_cancel():
                continue
            try:
                job.page.set_result(self._made(job.make))
            except BaseException as error:  # it is the caller's: whoever waits for the page
                job.page.set_exception(error)

    def _made(self, make: Make) -> Page:
        process = self._process
        if process is None or process.poll() is not None:
            self._end()
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write(process.stdin.fileno(), pickle.dumps(make))
            reply = pickle.loads(read(process.stdout.fileno(), seconds=SECONDS))
        except (OSError, EOFError, TimeoutError) as error:
            self._end()
            raise Busy(f"the process that makes pages ended ({error}); try again") from None
        if isinstance(reply, Exception):
            raise reply
        page: Page = reply
        return page


def reply_to(job: bytes, service: Service) -> bytes:
    """In the maker's process: the page of a job, or the error that its caller is to see."""
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
        import traceback

        reply = RuntimeError("".join(traceback.format_exception(error))[-4000:])
    return pickle.dumps(reply)


# ---- messages between the two: a length of 8 bytes, and so many


def write(target: int, data: bytes) -> None:
    """Send a message whole."""
    whole = memoryview(struct.pack("<Q", len(data)) + data)
    while whole:
        whole = whole[os.write(target, whole) :]


def read(source: int, *, seconds: float | None = None) -> bytes:
    """Receive a message whole. EOFError when the other side is gone, TimeoutError when late."""
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
                raise TimeoutError("it took too long")
        data = os.read(source, min(number, 1 << 20))
        if not data:
            raise EOFError("it has ended")
        parts.append(data)
        number -= len(data)
    return b"".join(parts)
