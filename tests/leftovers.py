"""Processes that tests started and did not end: found by a word in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

NAME = "CURATION_TESTS_STARTED_BY"
END_WITH_US = (
    *("multiprocessing.resource_tracker", "multiprocessing.spawn", "multiprocessing.fork"),
    "leaderboard.service.reader",  # one for all services of a process, ended by atexit
)
"""Children that this process keeps until its own end, and ends then."""


def mark(word: str) -> None:
    """Whatever this process starts from here on can be found by the word."""
    os.environ[NAME] = word


def started(word: str) -> dict[int, str]:
    """The command lines of other processes with the word, by process id."""
    marked = f"{NAME}={word}".encode()
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marked not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            ours = parent == os.getpid() and any(name in line for name in END_WITH_US)
            if int(folder.name) != os.getpid() and line and not ours:
                lines[int(folder.name)] = line.strip()
    return lines


def end_all(word: str, *, seconds: float) -> dict[int, str]:
    """Those that have not ended by themselves after so many seconds; they are killed."""
    until = time.monotonic() + seconds
    while (lines := started(word)) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in lines:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return lines
