"""End a process without an abort in Arrow's reader threads.

Arrow reads Python file objects in threads of its own, and such a thread may release the file
shortly after the table was returned. If the interpreter is shutting down by then, the thread is
ended while it asks for the interpreter lock, which C++ takes for a crash: the process aborts after
its work is done. On a busy machine that happened at about one exit in eighty. So a command exits
without interpreter teardown (`end_process`), and a script that uses the library waits at its exit
for the files that Arrow still refers to (`lent`).
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
"""How long an exit waits for a closed file that is still referenced; a cycle may never let go."""

_lent: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


def lent(file: BinaryIO) -> BinaryIO:
    """The same file; the exit waits until nothing but this module refers to it."""
    _lent.add(file)
    return file


@atexit.register
def _await_files() -> None:
    until = time.monotonic() + RETURN_SECONDS
    while any(file.closed for file in list(_lent)) and time.monotonic() < until:
        time.sleep(0.001)


def end_process(code: object) -> NoReturn:
    """End the process with what `sys.exit` was given, after threads and exit functions.

    It does what Python does at exit, except for the teardown of modules and objects.
    """
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    _join_threads()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has closed its end
            stream.flush()
    os._exit(code or 0)


def _join_threads() -> None:
    """Shut pools down and join threads, as Python does before its exit functions.

    A process pool that was dropped a moment ago may close its wake-up pipe at the same time
    (`concurrent.futures.process._python_exit` takes no lock): the OSError is harmless then.
    """
    for _ in range(8):
        with contextlib.suppress(OSError):
            threading._shutdown()  # type: ignore[attr-defined]
            return
