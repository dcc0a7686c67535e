"""The board as `deploy/board` puts it up: nginx with TLS in front, a restart, a full disk."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from tests.leaderboard.made_up import make_zip

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy" / "board"

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Running:
    """`leaderboard serve` behind nginx, both started as the files of `deploy/board` say."""

    nginx: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path, data: Path) -> None:
        program = shutil.which("nginx")
        if program is None:
            pytest.skip("no nginx: apt-get install nginx")
        self.folder, self.data = folder, data
        self.inner, self.plain, self.outer = free_port(), free_port(), free_port()
        self.board = self._serve()
        try:
            self.nginx = self._nginx(program)
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _serve(self) -> subprocess.Popen[bytes]:
        command = re.search(
            r"^ExecStart=\S+/leaderboard (.*)$",
            (BOARD / "leaderboard.service").read_text(),
            re.MULTILINE,
        )
        assert command is not None
        given = command.group(1).replace("--checks 2", "--checks 1").split()
        more = ["--port", str(self.inner), "--log", str(self.folder / "board.log")]
        environment = os.environ | {"LEADERBOARD_DATABASE": f"sqlite:///{self.data}/board.db"}
        return subprocess.Popen(
            [sys.executable, "-m", "leaderboard", *given, *more],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    def _nginx(self, program: str) -> subprocess.Popen[bytes]:
        key, certificate = self.folder / "board.key", self.folder / "board.pem"
        asked = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=board.example.org"
        subprocess.run(
            [*asked.split(), "-keyout", str(key), "-out", str(certificate)],
            check=True,
            capture_output=True,
        )
        text = (BOARD / "nginx.conf").read_text()
        for old, new in (
            ("listen 80;", f"listen 127.0.0.1:{self.plain};"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.outer} ssl;"),
            ("127.0.0.1:8000", f"127.0.0.1:{self.inner}"),
            ("/etc/ssl/board.pem", str(certificate)),
            ("/etc/ssl/board.key", str(key)),
        ):
            assert old in text
            text = text.replace(old, new)
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = (
            f"daemon off; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;\n"
            "worker_processes 1; events { worker_connections 256; }\n"
            f"http {{ access_log off; {temporary} {text} }}\n"
        )
        (self.folder / "nginx.conf").write_text(whole)
        if os.geteuid() == 0:
            os.chmod(self.folder, 0o755)
            whole = f"user root;\n{whole}"
            (self.folder / "nginx.conf").write_text(whole)
        return subprocess.Popen([program, "-p", str(self.folder), "-c", "nginx.conf"])

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        context = ssl.create_default_context(cafile=str(self.folder / "board.pem"))
        context.check_hostname = False
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.outer, timeout=60, context=context
        )
        try:
            given = {"Host": "board.example.org"} | headers
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def _wait(self) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("/readyz")[0] == 200:
                    return
            time.sleep(0.1)
        raise AssertionError("the board did not start")

    def restart(self, how: signal.Signals) -> None:
        self.board.send_signal(how)
        self.board.wait(timeout=300)
        self.board = self._serve()
        self._wait()

    def stop(self) -> None:
        for process in filter(None, (self.nginx, self.board)):
            process.terminate()
            process.wait(timeout=300)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    data = tmp_path / "data"
    data.mkdir()
    made = Running(tmp_path, data)
    yield made
    made.stop()


def test_behind_nginx_with_tls_and_through_restarts(running: Running, tmp_path: Path) -> None:
    store = Store(f"sqlite:///{running.data}/board.db", migrate=False)
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    status, headers, _ = running.ask("/")
    assert (status, "max-age" in headers["strict-transport-security"]) == (200, True)
    assert running.ask("/metrics")[0] == 403
    assert running.ask("/", Host="evil.example")[0] == 400
    given = {"Authorization": f"Bearer {secret}", "Content-Type": "application/zip"}
    sent = make_zip(tmp_path).read_bytes()
    status, _, answer = running.ask("/api/v1/submissions", "POST", sent, **given)
    assert status == 201, answer
    id_ = orjson.loads(answer)["id"]
    for how in (signal.SIGTERM, signal.SIGKILL):
        running.restart(how)
        assert running.ask(f"/api/v1/submissions/{id_}", **given)[0] == 200
    lines = (tmp_path / "board.log").read_bytes().splitlines()
    addresses = {orjson.loads(line).get("address") for line in lines}
    assert "127.0.0.1" in addresses
    assert secret.encode() not in b"".join(lines)
    arguments = Path(f"/proc/{running.board.pid}/cmdline").read_bytes()
    assert b"sqlite" not in arguments
    store.close()


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    unit = tmp_path / "leaderboard.service"
    text = (BOARD / "leaderboard.service").read_text()
    unit.write_text(text.replace("/srv/leaderboard/.venv/bin/leaderboard", "/bin/true"))
    run = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_full_disk_refuses_uploads_and_shows_pages(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(data)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("a small disk needs the right to mount one")
    running = None
    try:
        running = Running(tmp_path, data)
        store = Store(f"sqlite:///{data}/board.db", migrate=False)
        _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
        store.close()
        given = {"Authorization": f"Bearer {secret}", "Content-Type": "application/zip"}
        status, _, answer = running.ask("/api/v1/submissions", "POST", bytes(8 << 20), **given)
        assert status == 507, answer
        assert b"no space left" in answer
        assert running.ask("/")[0] == 200
        sent = make_zip(tmp_path / "made").read_bytes()
        assert running.ask("/api/v1/submissions", "POST", sent, **given)[0] == 201
    finally:
        if running is not None:
            running.stop()
        subprocess.run(["umount", "-l", str(data)], check=True)
