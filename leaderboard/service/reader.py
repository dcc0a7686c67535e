"""Read who a bundle claims to be from, in a process with bounded time and memory.

A record is untrusted JSON: 28 MB of it can take gigabytes to parse. So a separate process reads it
(`python -m leaderboard.service.reader`), one request per line; a request that exceeds its time or
memory ends that process, and the next request starts a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from queue import SimpleQueue

import orjson

from leaderboard.submissions.bundle import LIMITS, RECORD, Limits, open_bundle
from leaderboard.submissions.faults import BundleError, Fault, Words, fault
from pipelines.records import Frozen, SubmissionWork

READ_BYTES = 1 << 30  # address space beyond the libraries; a record of a few MB takes a tenth of it
READ_SECONDS = 20.0  # for a record; an honest one takes far less
READERS = 2  # concurrent processes; further requests wait
COLUMNS = {"benchmark": 60, "scale": 60, "track": 60, "method": 120, "team": 120}
KEEP_BYTES = 400 << 20  # a process whose peak was larger is replaced: it keeps that memory


class Claim(Frozen):
    """Who sent what, for which board; only lengths and characters are checked so far."""

    id: str
    benchmark: str
    scale: str
    track: str
    method: str
    team: str


class Reply(Frozen):
    """The answer of a reader: a claim or faults."""

    claim: Claim | None = None
    faults: tuple[Fault, ...] = ()


def claim_of(path: Path, limits: Limits = LIMITS) -> Claim:
    """Read a bundle's claim, in this process. BundleError when it cannot be read."""
    bundle = open_bundle(path, limits=limits)
    work = bundle.record.work
    faults = list(_columns(work))
    if faults:
        raise BundleError(faults)
    return Claim(id=bundle.record.id, **{name: getattr(work, name) for name in COLUMNS})


def _columns(work: SubmissionWork) -> Iterator[Fault]:
    """Faults of values that the database cannot store; the check applies all other rules."""
    for name, most in COLUMNS.items():
        value: str = getattr(work, name)
        if len(value) > most or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            expected = Words(f"at most {most} characters, all printable")
            yield fault(RECORD, f"work.{name}", value, expected)


class Readers:
    """A few processes that read claims, each started when first needed."""

    def __init__(
        self,
        number: int = READERS,
        *,
        num_bytes: int = READ_BYTES,
        seconds: float = READ_SECONDS,
    ) -> None:
        self.num_bytes = num_bytes
        self.seconds = seconds
        self._free: SimpleQueue[_Reader | None] = SimpleQueue()
        for _ in range(number):
            self._free.put(None)

    def claim(self, path: Path, limits: Limits) -> Claim:
        """A bundle's claim. BundleError when it cannot be read, or not within the bounds."""
        reader = self._free.get()
        try:
            if reader is None or not reader.alive():
                reader = _Reader(self.num_bytes)
            reply = reader.ask(path, limits, self.seconds)
            if reply is None and reader.had_ended():
                reader = _Reader(self.num_bytes)
                reply = reader.ask(path, limits, self.seconds)
            if reply is None:
                reader.end()
                reader = None
                problem = Words(f"JSON that takes more than {self.seconds:g} seconds or too much")
                raise BundleError([fault(RECORD, "", problem, Words("a record of some megabytes"))])
        finally:
            self._free.put(reader)
        if reply.claim is None:
            raise BundleError(list(reply.faults))
        return reply.claim

    def close(self) -> None:
        """End the processes that wait for work; a later claim starts new ones."""
        for _ in range(self._free.qsize()):
            reader = self._free.get()
            if reader is not None:
                reader.end()
            self._free.put(None)


@cache
def shared_readers() -> Readers:
    """The readers of this process: they have no state, so all services share them."""
    readers = Readers()
    atexit.register(readers.close)
    return readers


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that answers over pipes, and close them."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _Reader:
    def __init__(self, num_bytes: int) -> None:
        command = [sys.executable, "-m", "leaderboard.service.reader", str(num_bytes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("LEADERBOARD_DATABASE", None)  # it needs no database
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )

    def alive(self) -> bool:
        return self._process.poll() is None

    def had_ended(self) -> bool:
        """Whether it exited after the previous request because it had grown large."""
        try:
            return self._process.wait(timeout=30) == 0
        except subprocess.TimeoutExpired:
            return False

    def ask(self, path: Path, limits: Limits, seconds: float) -> Reply | None:
        """The reply; None when the process died or the time ran out."""
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        try:
            target.write(orjson.dumps({"path": str(path), "limits": limits.model_dump()}) + b"\n")
            target.flush()
        except OSError:
            return None
        # The first request waits for the libraries too, which a busy machine reads slowly.
        waits = select.poll()  # a server may have more open files than `select` can count
        waits.register(source, select.POLLIN | select.POLLHUP)
        ready = waits.poll(1000 * (seconds if self._asked else seconds + 60))
        self._asked = True
        if not ready:
            self.end()
        line = source.readline() if ready else b""
        return Reply.model_validate_json(line) if line else None

    _asked = False

    def end(self) -> None:
        kill(self._process)


def _reply(line: bytes) -> Reply:
    asked = orjson.loads(line)
    try:
        return Reply(claim=claim_of(Path(asked["path"]), Limits(**asked["limits"])))
    except BundleError as error:
        return Reply(faults=error.faults[:20])
    except MemoryError:
        problem = Words("JSON that takes more memory than it may")
        return Reply(faults=(fault(RECORD, "", problem, Words("a record of some megabytes")),))


def main() -> None:
    """Answer requests until the other side closes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(_reply(line).model_dump_json().encode() + b"\n")
        sys.stdout.buffer.flush()
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > KEEP_BYTES:
            return


if __name__ == "__main__":
    main()
