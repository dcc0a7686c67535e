"""Attacks on connections, and what monitors see meanwhile; on SQLite and PostgreSQL alike."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from starlette.testclient import TestClient

from leaderboard.service.service import Service
from leaderboard.web.app import create_app
from leaderboard.web.logs import Bounded
from leaderboard.web.makers import ThreadMaker
from tests.leaderboard.attacked_site import BOARD, Site, listening
from tests.leaderboard.made_up import make_zip


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database, tmp_path)
    yield made
    made.store.close()


# ---- connections


def test_half_a_request_lives_as_long_as_its_head_may_take(site: Site) -> None:
    with listening(site, head_seconds=0.5) as address:
        slow = [socket.create_connection(address, timeout=300) for _ in range(50)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        for connection in slow:  # without the limit they live for ever, and this times out
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(10) == b""
            connection.close()
        with socket.create_connection(address, timeout=90) as honest:
            for _ in range(2):  # keep-alive still works
                honest.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += honest.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200")


def test_connections_over_the_limit_are_closed_at_once(site: Site) -> None:
    with listening(site, most=5) as address:
        connections = [socket.create_connection(address, timeout=90) for _ in range(5)]
        time.sleep(0.2)
        with (
            socket.create_connection(address, timeout=90) as more,
            contextlib.suppress(ConnectionResetError),
        ):
            assert more.recv(10) == b""
        for item in connections:
            item.close()
        answer, until = b"", time.monotonic() + 300
        while not answer and time.monotonic() < until:  # until the five closed ones are noticed
            with (
                socket.create_connection(address, timeout=90) as again,
                contextlib.suppress(ConnectionError),
            ):
                again.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = again.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come_is_given_up(site: Site) -> None:
    site.app = create_app(site.service, body_seconds=0.3)
    with listening(site) as address, socket.create_connection(address, timeout=90) as slow:
        head = (
            f"POST /api/v1/submissions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.secret}"
        )
        slow.sendall(head.encode() + b"\r\nContent-Length: 1000\r\n\r\nPK")
        # without the limit it lives for ever, and this times out
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    assert list(site.service.scratch.glob("upload-*")) == []


def test_too_many_requests_at_once_are_told_to_come_back(site: Site) -> None:
    app = create_app(site.service, most_requests=0)
    response = TestClient(app).get("/")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    kept = Bounded(10)
    lines = [logging.LogRecord("x", logging.INFO, "", 0, "the same", (), None) for _ in range(1000)]
    for line in lines:
        line.created = 1000.0
    assert sum(kept.filter(line) for line in lines) <= 11
    later = logging.LogRecord("x", logging.INFO, "", 0, "later", (), None)
    later.created = 1001.0
    assert kept.filter(later)
    assert later.getMessage() == "990 lines left out; later"


# ---- monitors


def test_a_database_that_is_down_is_503_everywhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def down(*_: object, **__: object) -> None:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(site.store.engine, "connect", down)
    site.service.library._asked = -1e9
    for path in ("/", BOARD, "/healthz", "/readyz", "/api/v1/boards"):
        response = site.client.get(path)
        assert response.status_code == 503, path
        assert response.headers["retry-after"] == "5"
        assert "connection refused" not in response.text
    assert site.client.get("/livez").status_code == 200


def test_a_service_that_prepares_its_boards_is_alive_and_not_ready(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.client.get("/readyz").json()["status"] == "ok"
    monkeypatch.setattr(ThreadMaker, "ready", lambda self: False)
    response = site.client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"status": "boards are being prepared"}
    assert site.client.get("/healthz").status_code == 200


def test_metrics_count_requests_queue_and_checks(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path))
    site.client.get(BOARD)
    text = site.client.get("/metrics").text
    route = 'route="/boards/{benchmark}/{scale}/{track}"'
    assert f'leaderboard_requests_total{{method="GET",{route},status="200"}} 1' in text
    assert 'leaderboard_submissions{state="accepted"} 1' in text
    assert 'leaderboard_checks_total{outcome="needs_review"} 1' in text
    response = site.client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"})
    assert response.status_code == 401


def test_one_odd_row_in_the_database_breaks_no_other(site: Site, tmp_path: Path) -> None:
    ids = [site.accept(make_zip(tmp_path, method=f"m {k}", chance=k)) for k in range(2)]
    with site.store.writer.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE rows SET row = '{{\"odd\": 1}}', changed = changed + 1 WHERE id = '{ids[0]}'"
        )
        connection.exec_driver_sql("UPDATE revisions SET number = number + 1")
    fresh = TestClient(create_app(Service(site.store, site.service.files)))
    response = fresh.get(BOARD)
    assert response.status_code == 200
    assert "m 1" in response.text
    assert "m 0" not in response.text
    assert fresh.get(f"/submissions/{ids[0]}").status_code == 200


def test_a_log_line_is_json_with_the_request_s_id(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "leaderboard.access"):
        response = site.client.get("/livez")
    line = orjson.loads(caplog.records[-1].getMessage())
    assert line["request"] == response.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/livez", 200)
    assert io.StringIO(caplog.text).read().count("Bearer") == 0
