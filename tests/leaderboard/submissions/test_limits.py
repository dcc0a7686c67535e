"""Limits of a process that several threads ask for."""

from __future__ import annotations

import resource
import signal
import threading
import time

import numpy as np
import pytest

from leaderboard.submissions.limits import Limit, TooLong, limited

GIB = 1 << 30


def space() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_AS)


def test_memory_beyond_the_limit_is_an_error_and_the_limit_ends() -> None:
    before = space()
    with pytest.raises(MemoryError), limited(Limit(seconds=60, num_bytes=GIB)):
        np.ones(4 * GIB, np.uint8)
    assert space() == before


def test_a_timer_around_a_limit_goes_on() -> None:
    before = signal.getitimer(signal.ITIMER_REAL)[0]  # of the test itself
    with limited(Limit(seconds=600, num_bytes=GIB)):
        with pytest.raises(TooLong), limited(Limit(seconds=0.01, num_bytes=GIB)):
            time.sleep(60)
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] < 600
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (before > 0)


def test_threads_that_overlap_leave_no_limit_behind() -> None:
    """The first begins, the second begins, the first ends, the second ends."""
    before = space()
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    seen = []

    def first() -> None:
        with limited(Limit(seconds=60, num_bytes=GIB)):
            first_in.set()
            second_in.wait(60)
        first_out.set()

    def second() -> None:
        first_in.wait(60)
        with limited(Limit(seconds=60, num_bytes=2 * GIB)):
            second_in.set()
            first_out.wait(60)
            seen.append(space())

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert space() == before
    assert seen != [before]  # the second one's limit held after the first had ended
