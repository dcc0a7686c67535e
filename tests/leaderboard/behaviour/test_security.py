"""What a hostile sender or reader tries: fuzzed requests, script in every text, SQL in filters."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance
from starlette.testclient import TestClient

from leaderboard.database.auth import Rate, create_token
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.web.access import Rates
from leaderboard.web.app import create_app
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip

SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
STEPS = [{"operator": SCRIPT, "parameters": {SCRIPT: SCRIPT}}]
SQL = [
    "' OR '1'='1",
    "'; DROP TABLE submissions; --",
    '" UNION SELECT hash FROM tokens --',
    "%",
    "\\",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, str, Service]]:
    """A service with one accepted submission that has script in every text that is its own."""
    folder = tmp_path_factory.mktemp("hostile")
    store = Store(f"sqlite:///{folder / 'x.db'}")
    service = Service(store, open_store(folder / "files"))
    token, _ = create_token(store, SCRIPT, scopes=["submit"], team=SCRIPT)
    path = make_zip(
        folder,
        method=SCRIPT,
        team=SCRIPT,
        url=f"https://example.org/{SCRIPT.replace(' ', '')}",
        track="mixing",
        pool=SCRIPT,
        steps=STEPS,
    )
    submission, _ = service.receive(path, token)
    service.check_next(SCRIPT)
    store.move(submission.id, "accepted", who=SCRIPT, why=SCRIPT)
    rates = Rates(uploads=Rate(10_000, 1), failures=Rate(10_000, 1))
    with TestClient(create_app(service, rates=rates), raise_server_exceptions=False) as client:
        yield client, submission.id, service
    store.close()


def test_script_in_every_text_is_only_text(hostile: tuple[TestClient, str, Service]) -> None:
    client, id_, _ = hostile
    board = "/boards/dclm/tiny/mixing"
    pages = [
        "/",
        board,
        f"{board}?q=%3Cscript%3E",
        f"{board}/plots",
        "/scales/dclm",
        "/speedruns/dclm",
        "/crossings/dclm",
        f"/submissions/{id_}",
        f"/submissions/{id_}/tasks/heldout_ending",
        f"/compare?id={id_}&id={id_}",
        "/login?next=%22%3E%3Cscript%3E",
    ]
    for page in pages:
        response = client.get(page)
        assert response.status_code == 200, (page, response.status_code)
        assert "<script>" not in response.text, page
        assert "<img" not in response.text, page
        assert "onerror=alert(2)&gt;" in response.text or "onerror" not in response.text, page


@pytest.mark.parametrize("text", SQL)
@pytest.mark.parametrize("name", ["q", "group", "metric", "sort", "since", "recheck", "kind"])
def test_sql_in_a_filter_is_only_text(
    hostile: tuple[TestClient, str, Service], name: str, text: str
) -> None:
    client, id_, service = hostile
    for path in ("/boards/dclm/tiny/mixing", "/api/v1/boards/dclm/tiny/mixing"):
        response = client.get(path, params={name: text})
        assert response.status_code in (200, 404, 422), response.text[:300]
        assert "sqlite" not in response.text.lower()
        if name == "q":
            assert response.status_code == 200
            assert id_ not in response.text  # it is not a pattern either: nothing fits
    assert service.store.counts() == {"accepted": 1}


@pytest.mark.parametrize("text", SQL)
def test_sql_in_a_path_is_only_text(hostile: tuple[TestClient, str, Service], text: str) -> None:
    client, id_, service = hostile
    for path in (
        f"/api/v1/boards/{text}/tiny/filtering",
        f"/api/v1/submissions/{text}",
        f"/api/v1/submissions/{id_}/questions/{text}",
        f"/help/{text}",
    ):
        assert client.get(path).status_code in (200, 404, 422), path
    assert service.store.counts() == {"accepted": 1}


@pytest.mark.parametrize(
    "path",
    [
        "/static/../store.py",
        "/static/..%2fstore.py",
        "/static/%2e%2e/app.py",
        "/help/../../etc",
        "/api/v1/submissions/../../x",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(hostile: tuple[TestClient, str, Service], path: str) -> None:
    response = hostile[0].get(path)
    assert response.status_code in (404, 422)
    assert "import" not in response.text


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"GET /boards/%00/%ff/x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?q=%F0%28%8C%28 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/submissions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_broken_requests_are_no_server_errors(
    hostile: tuple[TestClient, str, Service], raw: bytes
) -> None:
    """Over a real socket, as a client that is not a browser sends them."""
    import threading

    import uvicorn

    app = hostile[0].app
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        with socket.create_connection(listening.getsockname(), timeout=10) as connection:
            connection.sendall(raw)
            status = int(connection.recv(100).split()[1])
        server.should_exit = True
        thread.join()
    assert 400 <= status < 500 or status == 200


def test_the_api_is_as_its_document_says(hostile: tuple[TestClient, str, Service]) -> None:
    """schemathesis: hypothesis over every operation of /openapi.json, as an administrator."""
    client, _, service = hostile
    _, secret = create_token(
        service.store, "fuzz", scopes=["submit", "review", "admin"], team="fuzz"
    )
    schemathesis.serializer.alias("application/zip", "application/octet-stream")
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    failures: list[str] = []
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=25,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def fuzz(case: schemathesis.Case) -> None:
            nonlocal tried
            tried += 1
            response = case.call(headers={"authorization": f"Bearer {secret}"})
            if response.status_code >= 500:
                failures.append(f"{case.method} {case.path}: {response.status_code}")
            case.validate_response(
                response, checks=[not_a_server_error, response_schema_conformance]
            )

        fuzz()
    assert failures == []
    assert tried > 200
    assert service.store.get(hostile[1]).state in ("accepted", "refused")
