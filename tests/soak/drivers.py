"""Commands that are killed in their middle, and uploads that are held halfway.

A kill counts when the command had begun to leave something and had not ended. When that is, is read
from what it leaves, not from a clock: the command is frozen first (SIGSTOP, with all processes of
its group), looked at, and killed frozen, so nothing can end between the look and the kill.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tests.soak.flaky import Relay


class NotKilled(Exception):
    """A command ended, or its stage did, before it could be killed in its middle."""


@dataclass(frozen=True)
class Moment:
    """The middle of a stage: it has begun to leave something, and it has not ended."""

    begun: Callable[[], bool]
    ended: Callable[[], bool]
    look_seconds: float = 0.02  # between two looks: less than the stage takes from begun to ended


def kill_in_the_middle(
    process: subprocess.Popen[bytes], moment: Moment, *, limit_seconds: float
) -> None:
    """Kill the process group of a command at a moment. NotKilled when the moment never came."""
    deadline = time.monotonic() + limit_seconds
    while not moment.begun():
        if process.poll() is not None:
            raise NotKilled(f"the command ended with {process.returncode} before it had begun")
        if time.monotonic() > deadline:
            raise NotKilled(f"nothing had begun after {limit_seconds:.0f} s")
        time.sleep(moment.look_seconds)
    if not freeze(process):
        raise NotKilled(f"the command ended with {process.wait()} before it could be killed")
    if moment.ended():
        raise NotKilled("the stage had ended before the command could be killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def freeze(process: subprocess.Popen[bytes]) -> bool:
    """Stop a command with its group; False when it had ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return state is not None and state.si_code == os.CLD_STOPPED


class HoldingRelay(Relay):
    """A relay that passes the first `num_bytes` of the first connection that sends more.

    `held` is set when it holds; the connection breaks when the target does. Connections after it
    are passed whole.
    """

    def __init__(self, target: int, *, num_bytes: int) -> None:
        self.held = threading.Event()
        self.num_bytes = num_bytes
        super().__init__(target)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        if target.getpeername()[1] != self.target or self.held.is_set():
            super()._pass(source, target)
            return
        sent = 0
        with suppress(OSError):
            while not self.held.is_set() and (data := source.recv(1 << 12)):
                if sent + len(data) > self.num_bytes:
                    target.sendall(data[: self.num_bytes - sent])
                    self.held.set()
                    return  # the rest is never read; the other direction closes both
                target.sendall(data)
                sent += len(data)
        super()._pass(source, target)
