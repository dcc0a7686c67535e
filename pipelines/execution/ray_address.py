"""Whether a Ray cluster answers at an address, known within a minute.

Ray itself tries a wrong address for minutes, or for ever: a port where something else listens, the
port of its client without `ray://`, a host behind a firewall. So the address is tried in two steps:
whether anything speaks HTTP/2 there, as all parts of Ray do, and whether another process, which can
be ended, becomes a driver of that cluster.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from threading import Thread

from pipelines.execution.executors import WorkerLost

ANSWER_SECONDS = 10.0  # for a name to be looked up, a connection, and a server's first bytes
CONNECT_SECONDS = 60.0  # a head that is busy, or starts a process for a client, takes some 10 s
CLIENT_PORT = 10001  # of `ray://HOST`
# What each HTTP/2 connection begins with (RFC 9113, 3.4), an empty frame of settings behind it.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4  # the type of the frame that a server answers with, its fourth byte
# Run with -P: a participant's file beside the pipeline may be called as a module that Ray imports.
DRIVER = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"


def check_cluster(address: str) -> None:
    """Return when a driver can join the cluster there. WorkerLost says what to check."""
    host, port = _host_and_port(address)
    if host:
        problem = _within(ANSWER_SECONDS, host, port)
        if problem:
            raise WorkerLost(_message(address, problem))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", DRIVER, address],
            capture_output=True,
            timeout=CONNECT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        problem = f"something answers there, but let no driver join in {CONNECT_SECONDS:g} s"
        raise WorkerLost(_message(address, problem)) from None
    if done.returncode:
        problem = _last_error(done.stderr.decode(errors="replace"))
        raise WorkerLost(_message(address, problem or f"exit {done.returncode}"))


def _host_and_port(address: str) -> tuple[str, int]:
    """Host and port of an address; no host for `auto` and others that Ray resolves."""
    if "://" in address and not address.startswith("ray://"):
        return "", 0
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if port.isdigit():
        return host.strip("[]"), int(port)
    return (port, CLIENT_PORT) if address.startswith("ray://") else ("", 0)


def _within(seconds: float, host: str, port: int) -> str | None:
    """What is wrong there. In a thread of its own: looking up a name has no time limit."""
    problems: list[str | None] = []
    thread = Thread(target=lambda: problems.append(_greet(host, port, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return problems[0] if problems else f"no answer in {seconds:g} s"


def _greet(host: str, port: int, seconds: float) -> str | None:
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return None  # such a server answers nobody without a certificate
            connection.sendall(GREETING)
            answer = b""
            while len(answer) < 4:
                more = connection.recv(64)
                if not more:
                    return "what listens there is not Ray: it closed the connection"
                answer += more
    except TimeoutError:
        return f"no answer in {seconds:g} s"
    except (OSError, OverflowError, UnicodeError) as error:
        return str(error)
    return None if answer[3] == SETTINGS else "what listens there is not Ray"


def _last_error(output: str) -> str:
    """The error that a traceback ends with, on one line, or else the last line."""
    lines = output.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if re.match(r"[\w.]+: ", line)]
    return " ".join(" ".join(lines[starts[-1] if starts else -1 :]).split())


def _message(address: str, problem: str) -> str:
    return (
        f"there is no Ray cluster at {address!r} ({problem}); check the address (HOST:6379 on a "
        "machine of the cluster, ray://HOST:10001 from elsewhere), that this machine reaches it, "
        "and that both have the same versions of Ray and Python; start a cluster with "
        "`ray start --head`, or use --cluster local"
    )
