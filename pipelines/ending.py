"""How a process of the platform ends.

Arrow reads Python's files in threads of its own, and such a thread may drop the file a moment after
the table was there. When Python is being torn down by then, asking it for its lock ends the thread,
which C++ takes for a crash: the process is aborted after all its work is done. On a busy machine
that was about one end in eighty. So a command ends without the teardown (`end_process`), and a
script that uses the library waits for the files that are still out (`lent`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from typing import BinaryIO, NoReturn

RETURN_SECONDS = 0.5
"""How long an end waits for a file that is closed and still held: a cycle may hold it for good."""

_lent: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


def lent(file: BinaryIO) -> BinaryIO:
    """The same file, whose return is waited for before Python is torn down."""
    _lent.add(file)
    return file


@atexit.register
def _await_files() -> None:
    until = time.monotonic() + RETURN_SECONDS
    while any(file.closed for file in list(_lent)) and time.monotonic() < until:
        time.sleep(0.001)


def end_process(code: object) -> NoReturn:
    """End the process with what `sys.exit` was given, once threads and exit functions are through.

    What Python does at its own end, but for the teardown of modules and objects.
    """
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    _join_threads()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it has seen enough
            stream.flush()
    os._exit(code or 0)


def _join_threads() -> None:
    """Have pools ended and threads joined, as Python does before its exit functions.

    A pool of processes that somebody let go of a moment ago closes the pipe by which it is woken at
    the same time (`concurrent.futures.process._python_exit` takes no lock); it needs no waking
    then.
    """
    for _ in range(8):
        with contextlib.suppress(OSError):
            threading._shutdown()  # type: ignore[attr-defined]
            return
