"""A kill counts only in the middle of a stage, and an upload is held until its server dies."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.soak.drivers import HoldingRelay, Moment, NotKilled, kill_in_the_middle

STAGE = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "part").touch()
time.sleep(float(sys.argv[2]))
(folder / "record").touch()
time.sleep(float(sys.argv[3]))
"""


def start(folder: Path, *, stage: float, after: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", STAGE, str(folder), str(stage), str(after)]
    return subprocess.Popen(command, start_new_session=True)


def middle(folder: Path) -> Moment:
    return Moment((folder / "part").exists, (folder / "record").exists)


def test_a_stage_that_has_begun_is_killed_before_it_ends(tmp_path: Path) -> None:
    process = start(tmp_path, stage=60, after=0)
    kill_in_the_middle(process, middle(tmp_path), limit_seconds=60)
    assert process.returncode == -9
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    ("begun", "message"),
    [("part", "the stage had ended"), ("never", "ended with 0 before it had begun")],
)
def test_what_had_ended_is_not_called_killed(begun: str, message: str, tmp_path: Path) -> None:
    process = start(tmp_path, stage=0, after=60 if begun == "part" else 0)
    ended = (tmp_path / "record").exists

    def both() -> bool:
        return (tmp_path / begun).exists() and ended()

    with pytest.raises(NotKilled, match=message):
        kill_in_the_middle(process, Moment(both, ended), limit_seconds=60)
    process.kill()
    process.wait()


def test_an_upload_is_held_until_its_server_is_gone() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    relay = HoldingRelay(listener.getsockname()[1], num_bytes=1000)
    received: list[int] = []

    def serve(number: int) -> None:
        connection, _ = listener.accept()
        with connection:
            while received.count(number) < 1000 and (data := connection.recv(4096)):
                received.extend([number] * len(data))

    threads = [threading.Thread(target=serve, args=(number,)) for number in (1, 2)]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall(b"x" * 5000)
            if number == 1:
                assert relay.held.wait(timeout=30)
            thread.join(timeout=30)
            assert client.recv(1) == b""  # the server has closed
    relay.refuse()
    listener.close()
    assert received.count(1) == 1000
    assert received.count(2) >= 1000  # the next one passes
