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
    """Run a block within a limit. TooLong or MemoryError when it is passed.

    The address space is that of the process: where several threads are limited, the lowest limit
    applies to all of them, and the one from before is restored when the last block ends.
    """
    most = _address_space() + limit.num_bytes
    main = threading.current_thread() is threading.main_thread()

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong

    _SPACE.enter(most)
    clock = time.monotonic()
    before = signal.signal(signal.SIGALRM, over) if main else None
    left = signal.setitimer(signal.ITIMER_REAL, limit.seconds)[0] if main else 0.0
    try:
        yield Clock(limit.seconds)
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if left:  # a timer of the caller: restart it with its remaining time
                passed = time.monotonic() - clock
                signal.setitimer(signal.ITIMER_REAL, max(left - passed, 0.001))
        _SPACE.leave(most)


class _AddressSpace:
    """The limits in force, and the limit from before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._before = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def enter(self, most: int) -> None:
        with self._lock:
            if not self._limits:
                self._before = resource.getrlimit(resource.RLIMIT_AS)
            self._limits.append(most)
            self._set()

    def leave(self, most: int) -> None:
        with self._lock:
            self._limits.remove(most)
            self._set()

    def _set(self) -> None:
        soft, hard = self._before
        bounds = [b for b in (soft, hard, *self._limits) if b != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(bounds) if self._limits else soft, hard))


_SPACE = _AddressSpace()


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 1 << 40
    return pages * resource.getpagesize()
