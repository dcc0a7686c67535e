"""A process ends with its exit code, its output whole, and after the exit functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.ending import _lent, lent
from pipelines.execution.executors import ProcessMap
from pipelines.storage.local import LocalStore

ENDS = """
import atexit, sys, tempfile, threading, time
from pipelines.ending import end_process
atexit.register(lambda: print("exit function", flush=True))
def late():
    time.sleep(0.2)
    print("thread")
threading.Thread(target=late).start()
print("x" * 100_000)
end_process({code!r})
"""
# A thread that is no Python thread at first, holds a file, and lets go of it after the last line.
HOLDS = """
import ctypes, pathlib, sys, threading, time
from pipelines.execution.executors import ProcessMap
from pipelines.storage.local import LocalStore
file = LocalStore(pathlib.Path(sys.argv[1])).open("a")
file.close()
class Slow:
    def __init__(self, file): self.file = file
    def __call__(self):
        time.sleep(0.15)
        print("the file is back", flush=True)
        del self.file
threading.Thread(target=Slow(file), daemon=True).start()
del file
"""


@pytest.mark.parametrize(
    ("code", "expected"), [(0, 0), (None, 0), (3, 3), ("one sentence", 1), (True, 1)]
)
def test_it_ends_with_its_code_after_threads_and_exit_functions(
    code: object, expected: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS.format(code=code)], capture_output=True, text=True
    )
    assert done.returncode == expected
    assert done.stdout.split() == ["x" * 100_000, "thread", "exit", "function"]
    assert done.stderr == ("one sentence\n" if isinstance(code, str) else "")


def test_a_script_waits_for_a_file_that_a_thread_still_holds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    done = subprocess.run(
        [sys.executable, "-c", HOLDS, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "the file is back\n"), done.stderr


def test_files_of_a_store_are_waited_for_until_they_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with LocalStore(tmp_path).open("a") as file:
        assert file in _lent
        assert lent(file) is file
    number = len(_lent)
    del file
    assert len(_lent) == number - 1


POOL = """
import atexit
from concurrent.futures.process import _threads_wakeups
import threading
from pipelines.ending import end_process
class Closing:  # a pool's pipe that is closed just when it is to be written to
    times = 0
    def wakeup(self):
        Closing.times += 1
        if Closing.times == 1:
            raise OSError(9, "Bad file descriptor")
holder = threading.Thread(target=lambda: None)
holder.start()
_threads_wakeups[holder] = Closing()
atexit.register(lambda: print("exit function", flush=True))
end_process(3)
"""


def test_a_pool_that_closes_itself_at_the_end_is_no_fault() -> None:
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "exit function\n", "")


def test_workers_have_ended_when_their_pool_is_let_go() -> None:
    workers = ProcessMap(2)
    assert workers(abs, [-1, -2]) == [1, 2]
    assert workers._pool is not None
    processes = list(workers._pool._processes.values())
    assert len(processes) > 0
    del workers
    assert [process.exitcode for process in processes] == [0] * len(processes)
