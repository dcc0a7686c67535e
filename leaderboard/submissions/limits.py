"""Bounds of time and memory around a stage of a check.

A stage that takes too long or too much is stopped with a fault of its own; the next submission is
checked all the same. Time is a timer of the process (in its main thread; elsewhere `Clock.check`,
which stages call between files, sees it); memory is the process's address space.
"""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pydantic import Field

from pipelines.records import Frozen


class Limit(Frozen):
    """What a stage may take at most."""

    seconds: float = Field(gt=0)
    num_bytes: int = Field(gt=0, description="address space beyond what the process has already")


class TooLong(Exception):
    """A stage ran past its time."""


class Clock:
    """The time that is left of a stage."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """TooLong when the time is over."""
        if time.monotonic() > self._end:
            raise TooLong


@contextmanager
def limited(limit: Limit) -> Iterator[Clock]:
    """Run a block within a limit. TooLong or MemoryError when it is passed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + limit.num_bytes
    bounded = [bound for bound in (soft, hard, most) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounded), hard))
    main = threading.current_thread() is threading.main_thread()

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over) if main else None
    if main:
        signal.setitimer(signal.ITIMER_REAL, limit.seconds)
    try:
        yield Clock(limit.seconds)
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 1 << 40
    return pages * resource.getpagesize()
