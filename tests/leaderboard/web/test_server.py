"""The service as a process: what docs/operating.md tells an operator to do, done."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from benches.bench_leaderboard import Server, settled, upload
from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import open_bundle
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip

if TYPE_CHECKING:
    from tests.postgres_server import PostgresServer

ROOT = Path(__file__).parents[3]


def command(*arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "leaderboard", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextlib.contextmanager
def serving(folder: Path, *more: str, checks: int = 1) -> Iterator[Server]:
    server = Server(folder, *more, checks=checks)
    try:
        yield server
    finally:
        server.stop()


def children_of(pid: int) -> dict[int, str]:
    """The processes that a server has started, with their command lines."""
    pids: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        pids |= set(map(int, (thread / "children").read_text().split()))
    lines = {}
    for child in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return lines


def checks_of(pid: int) -> list[int]:
    """The processes that a server checks in."""
    return sorted(child for child, line in children_of(pid).items() if "checker" in line)


def makers_of(pid: int) -> list[int]:
    """The copies of a server that make its pages."""
    return sorted(child for child, line in children_of(pid).items() if " serve " in line)


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_tokens_reviews_and_the_static_site_by_command(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'board.db'}"
    given = ("--database", database)
    content = orjson.loads(
        command("token", "create", "ci", "--scope", "submit", "--team", "a team", "--json", *given)
    )
    secret, id_ = content["secret"], content["token"]["id"]
    with serving(tmp_path) as server:
        status, first = upload(server.port, secret, make_zip(tmp_path / "made"))
        assert status == 201
        settled(tmp_path)
        assert first in command("review", *given)
        assert "bits_per_byte" in command("review", first, *given)
        command("review", first, "--accept", "--why", "fine", "--who", "ada", *given)
        assert b"a method" in server.get("/boards/dclm/tiny/filtering")[1]
        command("token", "revoke", id_, *given)
        assert "revoked" in command("token", "list", *given)
        status, content = upload(server.port, secret, make_zip(tmp_path / "made", method="x"))
        assert (status, content) == (401, "this token is unknown, revoked or expired")
    files = ("--files", str(tmp_path / "files"))
    command("recheck", first, *given, *files)
    command("export", str(tmp_path / "site"), *given, *files)
    assert "recheck: sampled" in (tmp_path / "site" / "submissions" / f"{first}.html").read_text()
    assert (tmp_path / "site" / "submissions" / f"{first}.html").is_file()


def test_a_server_that_is_killed_leaves_no_check_behind_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    paths = [make_zip(tmp_path / "made", chance=k, method=f"m {k}") for k in range(6)]
    server = Server(tmp_path)
    sure = [upload(server.port, secret, path)[1] for path in paths[:3]]
    assert server.get("/")[0] == 200
    checks, makers = checks_of(server.process.pid), makers_of(server.process.pid)
    assert checks
    assert len(makers) == 1
    server.kill()
    until = time.monotonic() + 300
    while not all(has_ended(pid) for pid in (*checks, *makers)):
        assert time.monotonic() < until, "a process outlives its server"
        time.sleep(0.05)
    with store.writer.begin() as connection:  # the lease of a check that was killed ends at once
        connection.exec_driver_sql("UPDATE submissions SET lease_until = 0")
    with serving(tmp_path) as again:
        answer = [upload(again.port, secret, path) for path in paths]
        settled(tmp_path)
    assert [status for status, _ in answer] == [200, 200, 200, 201, 201, 201]
    assert [id_ for _, id_ in answer[:3]] == sure
    assert store.counts()["needs_review"] == 6
    store.close()


def test_a_check_that_is_killed_is_started_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    with serving(tmp_path) as server:
        until = time.monotonic() + 300
        while not (checks := checks_of(server.process.pid)):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(checks[0], signal.SIGKILL)
        assert upload(server.port, secret, make_zip(tmp_path / "made"))[0] == 201
        assert settled(tmp_path)["needs_review"] == 1
    store.close()


def test_two_gigabytes_are_refused_after_the_first_megabyte(tmp_path: Path) -> None:
    """Chunked, so that nothing says beforehand how long it will be."""
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    store.close()
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 << 30:
            sent += 1 << 16
            yield b"\0" * (1 << 16)

    with serving(tmp_path, "--max-upload", "1", checks=0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Authorization": f"Bearer {secret}", "Transfer-Encoding": "chunked"}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/api/v1/submissions", body(), headers, encode_chunked=True)
            assert connection.getresponse().status == 413
        connection.close()
        assert sent < 64 << 20
        assert server.get("/healthz")[0] == 200
        assert list((tmp_path / "files" / "incoming").iterdir()) == []


def test_a_backup_of_a_running_service_is_a_service(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    paths = [make_zip(tmp_path / "made", chance=k, method=f"m {k}") for k in range(3)]
    copy = tmp_path / "copy"
    given = ("--database", f"sqlite:///{tmp_path / 'board.db'}", "--files", str(tmp_path / "files"))
    with serving(tmp_path) as server:
        sent = [upload(server.port, secret, path)[1] for path in paths[:2]]
        settled(tmp_path)
        assert "2 bundles" in command("backup", str(copy), *given)
        sent.append(upload(server.port, secret, paths[2])[1])
        settled(tmp_path)
        assert "3 bundles" in command("backup", str(copy), *given)
    store.close()
    restored = Service(Store(f"sqlite:///{copy / 'board.db'}"), open_store(copy / "board-files"))
    for id_ in sent:
        submission = restored.store.get(id_)
        assert submission.state == "needs_review"
        assert restored.bundle(submission).record.id == id_
        assert len(restored.store.history(id_)) == 3
    restored.store.close()


@pytest.mark.postgres
def test_a_dump_of_postgresql_is_a_service(postgres_server: PostgresServer, tmp_path: Path) -> None:
    url = postgres_server.database("original")
    store = Store(url)
    service = Service(store, open_store(tmp_path / "files"))
    token, _ = create_token(store, "ci", scopes=["submit"], team="a team")
    path = make_zip(tmp_path)
    submission, _ = service.receive(path, token)
    service.check_next("check")
    dump = tmp_path / "board.dump"
    tool = str(postgres_server.bin / "pg_dump")
    subprocess.run([tool, "--format=custom", f"--file={dump}", url], check=True)
    command(
        "backup",
        str(tmp_path / "copy"),
        "--bundles",
        "--database",
        url,
        "--files",
        str(tmp_path / "files"),
    )
    other = postgres_server.database("restored")
    restore = str(postgres_server.bin / "pg_restore")
    subprocess.run([restore, f"--dbname={other}", str(dump)], check=True)
    restored = Service(Store(other), open_store(tmp_path / "copy" / "board-files"))
    assert restored.store.get(submission.id).state == "needs_review"
    assert restored.bundle(submission).record == open_bundle(path).record
    with pytest.raises(Exception, match="append-only"), restored.store.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
    for item in (store, restored.store):
        item.close()
