"""The check that runs at the end of every session, on a process that was left on purpose."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import leftovers


def test_a_process_that_was_left_is_named_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leftovers.NAME, "")
    leftovers.mark(f"planted-{os.getpid()}")
    code = "import os, time; os.fork() or time.sleep(600); time.sleep(600)  # planted"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while len(leftovers.started(f"planted-{os.getpid()}")) < 2:  # it and its fork
        assert child.poll() is None
    lines = leftovers.end_all(f"planted-{os.getpid()}", seconds=0.2)
    assert child.pid in lines
    assert len(lines) == 2
    assert all("planted" in line for line in lines.values())
    assert child.wait(timeout=60) < 0
    assert leftovers.started("nobody") == {}
