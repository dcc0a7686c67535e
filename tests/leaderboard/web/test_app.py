"""The service over HTTP, in this process: the way of a submission, who may do what, limits."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dclm.results import aggregate
from leaderboard.database.auth import Rate, create_token, open_session
from leaderboard.database.people import feed_key
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import Limits
from leaderboard.web.access import COOKIE, Rates
from leaderboard.web.app import create_app
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip

ZIP = {"content-type": "application/zip"}


@dataclass
class Running:
    """A service with a token for each role."""

    client: TestClient
    service: Service
    tokens: dict[str, str]

    def headers(self, role: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[role]}"} if role != "nobody" else {}

    def send(self, path: Path, role: str = "team"):
        return self.client.post(
            "/api/v1/submissions", content=path.read_bytes(), headers=ZIP | self.headers(role)
        )

    def accept(self, path: Path) -> str:
        id_ = self.send(path).json()["id"]
        while self.service.check_next("check") is not None:
            pass
        response = self.client.post(
            f"/api/v1/submissions/{id_}/review",
            json={"decision": "accepted", "why": "fine"},
            headers=self.headers("reviewer"),
        )
        assert response.status_code == 200, response.text
        return id_


ROLES = {
    "team": (["submit"], "a team"),
    "other": (["submit"], "other team"),
    "reviewer": (["review"], ""),
    "admin": (["admin"], ""),
}


def run(
    database: str, folder: Path, limits: Limits = Limits(), tokens: dict[str, str] | None = None
) -> Iterator[Running]:
    """A service; `tokens`: those that its database has."""
    store = Store(database)
    service = Service(store, open_store(folder / "files"), limits)
    tokens = tokens or {
        role: create_token(store, role, scopes=scopes, team=team)[1]
        for role, (scopes, team) in ROLES.items()
    }
    rates = Rates(uploads=Rate(1000, 1), failures=Rate(10_000, 1))
    with TestClient(create_app(service, rates=rates), raise_server_exceptions=True) as client:
        yield Running(client, service, tokens)
    store.close()


@pytest.fixture
def running(database: str, tmp_path: Path) -> Iterator[Running]:
    yield from run(database, tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Running]:
    limits = Limits(bundle_bytes=100_000)
    yield from run(f"sqlite:///{tmp_path / 'x.db'}", tmp_path, limits=limits)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: make_zip(folder, method=name, skill=skill, chance=n)
        for n, (name, skill) in enumerate({"no_filter": 0.4, "good": 0.6, "better": 0.9}.items())
    }


def test_a_bundle_is_sent_checked_reviewed_and_ranked(
    running: Running, bundles: dict[str, Path]
) -> None:
    response = running.send(bundles["good"])
    assert response.status_code == 201
    id_ = response.json()["id"]
    assert (response.json()["state"], response.json()["before_it"]) == ("received", 0)
    assert running.client.get("/api/v1/boards").json() == []
    running.service.check_next("check")
    response = running.client.get(f"/api/v1/submissions/{id_}", headers=running.headers("team"))
    assert response.json()["state"] == "needs_review"
    running.client.post(
        f"/api/v1/submissions/{id_}/review",
        json={"decision": "accepted", "why": "fine"},
        headers=running.headers("reviewer"),
    )
    page = running.client.get("/api/v1/boards/dclm/tiny/filtering").json()
    assert [row["method"] for row in page["rows"]] == ["good"]
    assert (page["total"], page["next"], page["metric"]) == (1, None, "bits_per_byte")
    history = running.client.get(f"/api/v1/submissions/{id_}").json()["history"]
    assert [change["after"] for change in history] == [
        "received",
        "checking",
        "needs_review",
        "accepted",
    ]
    assert [change["who"] for change in history] == [
        "the team",
        "a check",
        "a check",
        "a maintainer",
    ]
    seen = running.client.get(f"/api/v1/submissions/{id_}", headers=running.headers("reviewer"))
    assert seen.json()["history"][-1]["who"].startswith("reviewer (token ")


def test_sending_twice_is_one_submission(running: Running, bundles: dict[str, Path]) -> None:
    first, second = running.send(bundles["good"]), running.send(bundles["good"])
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_a_refused_bundle_says_why(running: Running, tmp_path: Path) -> None:
    path = make_zip(tmp_path, changed={"scale": "huge"})
    id_ = running.send(path).json()["id"]
    running.service.check_next("check")
    response = running.client.get(
        f"/api/v1/submissions/{id_}", headers=running.headers("team")
    ).json()
    assert response["state"] == "refused"
    assert response["faults"][0]["field"] == "work.scale"
    assert running.client.get("/api/v1/boards/dclm/huge/filtering").status_code == 404


def test_what_is_no_bundle_is_refused_at_once(running: Running, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    response = running.send(tmp_path / "x.zip")
    assert response.status_code == 422
    assert "a zip without a comment" in response.json()["error"]
    assert response.json()["faults"]
    assert running.service.store.counts() == {}


def test_another_team_s_name_is_refused(running: Running, bundles: dict[str, Path]) -> None:
    response = running.send(bundles["good"], "other")
    assert response.status_code == 403
    assert "work.team: found 'a team', expected 'other team'" in response.json()["error"]


def test_a_body_over_the_limit_is_refused(small: Running) -> None:
    response = small.client.post(
        "/api/v1/submissions",
        content=b"\0" * 300_000,
        headers=ZIP | small.headers("team"),
    )
    assert response.status_code == 413
    assert "longer than the 165,536 bytes" in response.json()["error"]
    long = small.headers("team") | ZIP | {"content-length": str(2 << 30)}
    response = small.client.post("/api/v1/submissions", content=iter([b"x"]), headers=long)
    assert response.status_code == 413
    assert list(small.service.scratch.glob("upload-*")) == []
    response = small.client.post(
        "/api/v1/submissions/" + "0" * 32 + "/withdraw",
        content=b"x" * 100_000,
        headers=small.headers("team"),
    )
    assert response.status_code == 413


def test_uploads_are_rate_limited(small: Running, bundles: dict[str, Path]) -> None:
    small.client.app.state.rates = Rates(uploads=Rate(2, 3600), failures=Rate(2, 60))
    response = [small.send(bundles["good"]).status_code for _ in range(3)]
    assert response == [201, 200, 429]
    wrong = {"authorization": "Bearer lb_x_y"}
    response = [small.client.get("/api/v1/submissions", headers=wrong) for _ in range(3)]
    assert [item.status_code for item in response] == [401, 401, 429]
    assert int(response[-1].headers["retry-after"]) > 0


def test_views_have_tags_pages_and_exports(running: Running, bundles: dict[str, Path]) -> None:
    for path in bundles.values():
        running.accept(path)
    board = "/api/v1/boards/dclm/tiny/filtering"
    first = running.client.get(board, params={"limit": 2})
    assert [row["method"] for row in first.json()["rows"]] == ["better", "good"]
    rest = running.client.get(f"{board}?{first.json()['next']}").json()
    assert [row["method"] for row in rest["rows"]] == ["no_filter"]
    assert rest["next"] is None
    tag = first.headers["etag"]
    again = running.client.get(board, params={"limit": 2}, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    text = running.client.get(board, params={"format": "csv", "sort": "method"})
    assert text.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(text.text)))
    assert [line["method"] for line in lines] == ["better", "good", "no_filter"]
    assert lines[0]["heldout_ending"] != ""
    page = running.client.get("/boards/dclm/tiny/filtering")
    assert page.status_code == 200
    kept = running.client.get(
        "/boards/dclm/tiny/filtering", headers={"if-none-match": page.headers["etag"]}
    )
    assert kept.status_code == 304
    running.client.post(
        f"/api/v1/submissions/{first.json()['rows'][0]['submission_id']}/withdraw",
        json={"why": "a mistake"},
        headers=running.headers("team"),
    )
    assert running.client.get("/boards/dclm/tiny/filtering").headers["etag"] != page.headers["etag"]


def test_versions_of_a_score_rank_the_same_entries(
    running: Running, bundles: dict[str, Path]
) -> None:
    for path in bundles.values():
        running.accept(path)
    board = "/api/v1/boards/dclm/tiny/filtering"
    for metric, best in (("bits_per_byte", "better"), ("cloze", "better")):
        response = running.client.get(board, params={"metric": metric}).json()
        assert response["metric"] == metric
        assert response["rows"][0]["method"] == best
        assert len(response["rows"]) == 3
    assert running.client.get(board, params={"metric": "nothing"}).status_code == 404


def test_core_ranks_the_same_entries_in_version_1_and_2(local: Running, tmp_path: Path) -> None:
    """Two whole bundles of CORE: 23 tasks with as many questions as they have."""
    ids = [
        local.accept(make_zip(tmp_path, scale="400m-1x", method=f"m{n}", skill=skill, chance=n))
        for n, skill in enumerate((0.5, 0.6))
    ]
    board = "/api/v1/boards/dclm/400m-1x/filtering"
    for version in ("v2", "v1"):
        page = local.client.get(board, params={"metric": f"core_{version}"}).json()
        assert page["metrics"] == ["core_v2", "core_v1", "mmlu"]
        assert [row["submission_id"] for row in page["rows"]] == ids[::-1]
        for row in page["rows"]:
            icl = {task["task"]: task["value"] for task in row["tasks"]}
            expected = aggregate(icl, version).core  # of the single tasks, by another function
            assert row["headline"]["value"] == pytest.approx(expected)
        assert page["rows"][1]["behind_leader"]["low"] > 0
        html = local.client.get("/boards/dclm/400m-1x/filtering", params={"metric": "core_v1"})
        assert '<strong aria-current="true">core v1</strong>' in html.text


def test_questions_compare_and_bundle_are_public_once_accepted(
    running: Running, bundles: dict[str, Path]
) -> None:
    first, second = (running.accept(bundles[name]) for name in ("good", "better"))
    response = running.client.get(
        f"/api/v1/submissions/{first}/questions/heldout_ending", params={"wrong": True}
    ).json()
    assert response["total"] == 60 - response["right"]
    assert all(question["correct"] is False for question in response["questions"])
    path = f"/api/v1/submissions/{first}/questions/nothing"
    assert running.client.get(path).status_code == 404
    compared = running.client.get("/api/v1/compare", params={"id": [second, first]}).json()
    assert compared[1]["behind_first"]["value"] > 0
    data = running.client.get(f"/api/v1/submissions/{first}/bundle")
    assert data.content == bundles["good"].read_bytes()
    page = running.client.get("/compare", params={"id": [second, first]})
    assert "Better by (95%)" in page.text
    page = running.client.get(f"/submissions/{first}", params={"rival": second})
    assert "300,000" in page.text  # rows that stop_words rejected
    assert "dclm run --scale tiny" in page.text
    page = running.client.get(
        f"/submissions/{first}/tasks/heldout_ending", params={"wrong": "true"}
    )
    assert '<option value="wrong" selected>' in page.text


def test_files_that_no_check_has_seen_are_not_opened(
    running: Running, bundles: dict[str, Path]
) -> None:
    id_ = running.accept(bundles["good"])
    asked = f"/api/v1/submissions/{id_}/questions/heldout_ending"
    team = running.headers("team")
    assert running.client.get(asked, headers=team).status_code == 200
    withdraw = f"/api/v1/submissions/{id_}/withdraw"
    running.client.post(withdraw, json={"why": "again"}, headers=team)
    running.send(bundles["good"])  # other bytes could be behind the same id by now
    response = running.client.get(asked, headers=team)
    assert response.status_code == 404
    assert "has not passed its check" in response.json()["error"]
    assert running.client.get(f"/api/v1/submissions/{id_}/row", headers=team).status_code == 404
    running.service.check_next("check")
    assert running.client.get(asked, headers=team).status_code == 200


# ---- who may do what

NOBODY, TEAM, OTHER, REVIEWER, ADMIN = "nobody", "team", "other", "reviewer", "admin"
EVERYBODY = {NOBODY, TEAM, OTHER, REVIEWER, ADMIN}
HIDDEN = {TEAM, REVIEWER, ADMIN}  # who may see a submission that is not accepted
MATRIX = {
    ("GET", "/healthz"): EVERYBODY,
    ("GET", "/readyz"): EVERYBODY,
    ("GET", "/livez"): EVERYBODY,
    ("GET", "/robots.txt"): EVERYBODY,
    ("GET", "/boards"): EVERYBODY,
    ("GET", "/submissions"): EVERYBODY,
    ("GET", "/metrics"): EVERYBODY,  # the test's client is on this machine
    ("GET", "/openapi.json"): EVERYBODY,
    ("GET", "/api/v1/boards"): EVERYBODY,
    ("GET", "/api/v1/boards/{benchmark}/{scale}/{track}"): EVERYBODY,
    ("GET", "/api/v1/submissions"): EVERYBODY,
    ("POST", "/api/v1/submissions"): {TEAM},
    ("GET", "/api/v1/submissions/{id}"): HIDDEN,
    ("GET", "/api/v1/submissions/{id}/row"): HIDDEN,
    ("GET", "/api/v1/submissions/{id}/bundle"): HIDDEN,
    ("GET", "/api/v1/submissions/{id}/questions/{task}"): HIDDEN,
    ("POST", "/api/v1/submissions/{id}/review"): {REVIEWER, ADMIN},
    ("POST", "/api/v1/submissions/{id}/withdraw"): {TEAM},
    ("GET", "/api/v1/compare"): set(),  # not accepted: nobody
    ("GET", "/api/v1/tokens"): {ADMIN},
    ("POST", "/api/v1/tokens"): {ADMIN},
    ("DELETE", "/api/v1/tokens/{id}"): {ADMIN},
    ("GET", "/"): EVERYBODY,
    ("GET", "/search"): EVERYBODY,
    ("GET", "/boards/{benchmark}/{scale}/{track}"): EVERYBODY,
    ("GET", "/boards/{benchmark}/{scale}/{track}/plots"): EVERYBODY,
    ("GET", "/scales/{benchmark}"): EVERYBODY,
    ("GET", "/speedruns/{benchmark}"): EVERYBODY,
    ("GET", "/crossings/{benchmark}"): EVERYBODY,
    ("GET", "/methods/{benchmark}"): set(),  # not accepted: nobody
    ("GET", "/teams"): set(),
    ("GET", "/help"): EVERYBODY,
    ("GET", "/help/{topic}"): EVERYBODY,
    ("GET", "/compare"): set(),
    ("GET", "/submissions/{id}"): HIDDEN,
    ("GET", "/submissions/{id}/tasks/{task}"): HIDDEN,
    ("GET", "/submissions/{id}/tasks/{task}/images/{number}.webp"): set(),  # none is there
    ("GET", "/submissions/{id}/samples/{seed}.png"): set(),  # none is there
    ("POST", "/submissions/{id}"): set(),  # a form: a token alone does not do
    ("GET", "/static/{name}"): EVERYBODY,
    ("GET", "/favicon.ico"): EVERYBODY,
    ("GET", "/feeds/{key}.atom"): EVERYBODY,  # who knows the address
    ("GET", "/login"): EVERYBODY,
    ("POST", "/login"): set(),
    ("POST", "/logout"): set(),
    ("GET", "/submit"): EVERYBODY,
    ("POST", "/submit"): set(),
    ("GET", "/review"): {REVIEWER, ADMIN},
}


def routes(running: Running) -> set[tuple[str, str]]:
    collected = set()
    waiting = list(running.client.app.routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(getattr(route, "original_router", None), "routes", [])
        for method in getattr(route, "methods", None) or ():
            if method not in ("HEAD", "OPTIONS"):
                collected.add((method, route.path))
    return collected


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, to be copied: quicker than to make one for every cell of the matrix."""
    path = tmp_path_factory.mktemp("migrated") / "x.db"
    Store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def local(migrated: Path, tmp_path: Path) -> Iterator[Running]:
    shutil.copy(migrated, tmp_path / "x.db")
    yield from run(f"sqlite:///{tmp_path / 'x.db'}", tmp_path)


@dataclass
class Prepared:
    """A folder with a database and files to be copied: one bundle was sent and checked."""

    folder: Path
    tokens: dict[str, str]
    submission: str
    spare: str  # the id of a token that may be removed


@pytest.fixture(scope="module")
def prepared(
    migrated: Path, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """As `migrated`, for the 225 cells that each need a submission."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copy(migrated, folder / "x.db")
    services = run(f"sqlite:///{folder / 'x.db'}", folder)
    running = next(services)
    id_ = running.send(bundles["good"]).json()["id"]
    running.service.check_next("check")
    spare = create_token(running.service.store, "spare", scopes=["review"])[0]
    assert next(services, None) is None  # it has ended, and all is on the disk
    return Prepared(folder, running.tokens, id_, spare.id)


@pytest.fixture
def cell(prepared: Prepared, tmp_path: Path) -> Iterator[Running]:
    folder = shutil.copytree(prepared.folder, tmp_path / "cell")
    yield from run(f"sqlite:///{folder / 'x.db'}", folder, tokens=prepared.tokens)


def test_the_matrix_names_every_route(local: Running) -> None:
    assert routes(local) == set(MATRIX)


@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize(("method", "path"), list(MATRIX))
def test_each_role_may_do_what_the_matrix_says(
    cell: Running,
    prepared: Prepared,
    bundles: dict[str, Path],
    method: str,
    path: str,
    role: str,
) -> None:
    id_ = prepared.submission
    target = path.format(
        benchmark="dclm",
        scale="tiny",
        track="filtering",
        id=prepared.spare if "tokens" in path else id_,
        task="heldout_ending",
        topic="scores",
        number=0,
        seed=124,
        name="style.css",
        key=feed_key(cell.service.store, "a team"),
    )
    options: dict[str, object] = {"headers": cell.headers(role), "follow_redirects": False}
    if path in ("/api/v1/compare", "/compare"):
        options["params"] = {"id": [id_, id_]}
    if method == "POST" and path == "/api/v1/submissions":
        options |= {"content": bundles["good"].read_bytes()}
    elif path.endswith("/review") and method == "POST":
        options["json"] = {"decision": "accepted", "why": ""}
    elif path.endswith("/withdraw"):
        options["json"] = {"why": ""}
    elif path == "/api/v1/tokens" and method == "POST":
        options["json"] = {"name": "x", "scopes": ["review"]}
    elif method == "POST":
        options["data"] = {"key": "0" * 64, "decision": "accepted", "token": "lb_x_y"}
    response = cell.client.request(method, target, **options)
    allowed = role in MATRIX[method, path]
    shown = response.status_code < 300 or response.status_code == 307  # moved, and no login
    assert shown == allowed, (response.status_code, response.text[:300])
    if not allowed:
        assert response.status_code in (303, 401, 403, 404), response.text[:300]


def test_a_cookie_without_the_form_s_key_does_nothing(
    local: Running, bundles: dict[str, Path]
) -> None:
    """Another site can make a browser send a form with its cookie; it cannot know the key."""
    id_ = local.send(bundles["good"]).json()["id"]
    local.service.check_next("check")
    token, _ = create_token(local.service.store, "r", scopes=["review"])
    local.client.cookies.set(COOKIE, open_session(local.service.store, token))
    form = {"decision": "accepted", "key": "0" * 64}
    assert local.client.post(f"/submissions/{id_}", data=form).status_code == 403
    response = local.client.post(
        f"/api/v1/submissions/{id_}/review", json={"decision": "accepted", "why": ""}
    )
    assert response.status_code == 403
    assert local.service.store.get(id_).state == "needs_review"


def test_every_answer_has_the_headers(local: Running) -> None:
    for path in ("/", "/healthz", "/nothing", "/api/v1/boards/a/b/c?limit=0", "/static/style.css"):
        response = local.client.get(path)
        assert "default-src 'none'" in response.headers["content-security-policy"], path
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_a_page_names_its_own_address_and_its_image(
    local: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.client.app.state, "public_url", "https://board.example")  # type: ignore[attr-defined]
    page = local.client.get("/boards/dclm/7b-2x/filtering?sort=date&limit=5").text
    address = "https://board.example/boards/dclm/7b-2x/filtering"
    assert f'<link rel="canonical" href="{address}">' in page
    assert 'content="https://board.example/static/card.png"' in page
    assert "Disallow: /search" in local.client.get("/robots.txt").text
    for path in ("/boards", "/submissions"):
        answer = local.client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/")


def test_login_goes_nowhere_else(local: Running) -> None:
    form = {"token": local.tokens["team"], "next": "//evil.example/x"}
    response = local.client.post("/login", data=form, follow_redirects=False)
    assert response.headers["location"] == "/submit"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert local.tokens["team"] not in cookie


def test_the_document_of_the_api_declares_the_token(running: Running) -> None:
    document = running.client.get("/openapi.json").json()
    scheme = document["components"]["securitySchemes"]["HTTPBearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert {"HTTPBearer": []} in document["paths"]["/api/v1/submissions"]["post"]["security"]


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer nothing", "x"])
def test_another_authorization_is_refused(header: str, running: Running) -> None:
    answer = running.client.get("/api/v1/submissions", headers={"authorization": header})
    assert answer.status_code == 401
