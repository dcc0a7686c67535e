"""What took the service down, each attack with its bound. On SQLite and PostgreSQL alike."""

from __future__ import annotations

import os
import resource
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from leaderboard.database import people
from leaderboard.database.store import Store
from leaderboard.service.reader import Readers
from leaderboard.submissions.bundle import LIMITS
from leaderboard.submissions.faults import BundleError
from leaderboard.web.app import create_app
from tests.leaderboard.attacked_site import BOARD, MIB, Site
from tests.leaderboard.made_up import make_zip


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database, tmp_path)
    yield made
    made.store.close()


def peak() -> int:
    """Bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def zip_of(path: Path, files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_json_bomb_is_read_by_a_process_that_may_not_grow(site: Site, tmp_path: Path) -> None:
    """28 MB of `[],` took the web process 37 seconds and 1.7 GB."""
    bomb = b'{"kind":"submission","x":[' + b"[]," * (9 * MIB) + b"[]]}"
    path = zip_of(
        tmp_path / "bomb.zip", {"bundle.json": b"{}", "submission.json": bomb}, zipfile.ZIP_STORED
    )
    before = peak()
    with pytest.raises(BundleError):
        site.service.receive(path, site.token)
    assert peak() - before < 100 * MIB
    assert site.send(make_zip(tmp_path)) is not None  # and the next one is read


def test_a_reader_that_ends_itself_between_two_bundles_costs_none(tmp_path: Path) -> None:
    """It ends when it has grown; the next bundle may come before anybody can see that."""
    readers = Readers(1)
    bundle = make_zip(tmp_path)
    assert readers.claim(bundle, LIMITS).team == "a team"
    reader = readers._free.get()
    assert reader is not None
    assert reader._process.stdin is not None
    reader._process.stdin.close()
    reader._process.wait(timeout=300)
    reader.alive = lambda: True  # type: ignore[method-assign]  # as it looked a moment before
    reader._process.stdin = open(os.devnull, "wb")  # noqa: SIM115
    readers._free.put(reader)
    assert readers.claim(bundle, LIMITS).team == "a team"
    readers.close()


def test_a_reader_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    readers = Readers(1, seconds=0.0)
    readers._free.get()
    from leaderboard.service.reader import READ_BYTES, _Reader

    slow = _Reader(READ_BYTES)
    slow._asked = True  # no time for its libraries either
    readers._free.put(slow)
    with pytest.raises(BundleError, match="takes more than 0 seconds"):
        readers.claim(make_zip(tmp_path), LIMITS)
    assert not slow.alive()
    readers.close()  # as at a server's end; what another service asks later finds new ones
    readers.seconds = 60.0
    assert readers.claim(make_zip(tmp_path), LIMITS).team == "a team"
    readers.close()


def test_a_long_text_in_a_log_never_reaches_a_page(site: Site, tmp_path: Path) -> None:
    """A dictionary of one text of 1 MB for 800 rows: 28 KB that became 2.3 GB."""

    def edit(task: object, log: pa.Table) -> pa.Table:
        if "credit" not in log.column_names or "generated" in log.column_names:
            return log
        text = pa.array(["x" * MIB])
        codes = pa.array(np.zeros(len(log), np.int32))
        column = pa.DictionaryArray.from_arrays(codes, text).cast(pa.string())
        return log.append_column("generated", column)

    id_ = site.send(make_zip(tmp_path, edit=edit))
    site.service.check_next("check")
    submission = site.store.get(id_)
    assert submission.state == "refused"
    assert submission.faults[0].rule == "form.columns"
    before = peak()
    url = f"/api/v1/submissions/{id_}/questions/heldout_ending"
    response = site.client.get(url, headers={"authorization": f"Bearer {site.reviewer}"})
    assert response.status_code == 404
    assert peak() - before < 50 * MIB


def test_pages_open_no_bundle(site: Site, tmp_path: Path) -> None:
    """Every page of a checked submission is there when its bundle is not."""
    first, second = (
        site.accept(make_zip(tmp_path, method=f"m {k}", chance=k, skill=0.5 + k / 9))
        for k in (0, 1)
    )
    for path in (tmp_path / "files" / "bundles").iterdir():
        path.write_bytes(b"PK\x05\x06 not a zip any more")
    for page in (
        "/",
        BOARD,
        f"{BOARD}/plots",
        "/scales/dclm",
        "/speedruns/dclm",
        "/crossings/dclm",
        f"/submissions/{first}",
        f"/submissions/{first}?rival={second}",
        f"/submissions/{first}/tasks/heldout_ending?wrong=true",
        f"/compare?id={first}&id={second}",
        f"/api/v1/compare?id={first}&id={second}",
        f"/api/v1/submissions/{first}/questions/heldout_ending",
    ):
        assert site.client.get(page).status_code == 200, page


def test_a_cache_s_key_holds_nothing_that_no_route_has_read(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path))
    honest = site.client.get(BOARD).text
    for k in range(600):
        assert site.client.get(f"/?junk={k}").status_code == 200
    assert len(site.app.state.answers.kept.pages) < 10
    for path in (f"{BOARD}%09", f"{BOARD}%0a", "/scales/dclm%09", "/boards/%00/x/y", "/?q=%00"):
        assert site.client.get(path).status_code == 400, path
    for path in (
        "/boards/foo/bar/baz",
        "/scales/nope",
        "/boards/dclm/tiny/nope",
        "/boards/dclm/x/y",
    ):
        response = site.client.get(path)
        assert response.status_code == 404, path
        assert "<h1>Not found</h1>" in response.text
    assert site.client.get(BOARD).text == honest
    for k in range(200):
        site.client.get(f"{BOARD}?q=word{k}")
    assert len(site.app.state.answers.searched.pages) <= 64
    kept = [key[0] for key in site.app.state.answers.kept.pages]
    assert "board" in kept


def test_errors_are_pages_for_browsers_and_json_for_programs(site: Site) -> None:
    for path, status in (
        (f"{BOARD}?limit=0", 422),
        ("/submissions/zzz", 404),
        ("/nothing", 404),
        ("/logout", 405),
        (f"{BOARD}?sort=nonsense", 200),  # nothing is there to sort
    ):
        response = site.client.get(path)
        assert response.status_code == status, path
        assert response.headers["content-type"].startswith("text/html"), path
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert len(response.headers["x-request-id"]) == 16
    response = site.client.get("/api/v1/boards/dclm/tiny/filtering?limit=0")
    assert (response.status_code, list(response.json())) == (422, ["error", "faults"])


def test_an_error_of_ours_is_a_page_with_all_headers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(site.service.library, "boards", broken)
    for path in ("/", "/api/v1/boards"):
        response = site.client.get(path)
        assert response.status_code == 500
        assert "broken" not in response.text
        assert "default-src 'none'" in response.headers["content-security-policy"]


def test_head_is_get_without_a_body(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path))
    for path in ("/", BOARD, f"/submissions/{id_}", "/static/style.css", "/healthz", "/nothing"):
        got, head = site.client.get(path), site.client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]


def test_no_host_that_a_caller_invents_comes_back(site: Site) -> None:
    response = site.client.get("/submit/", headers={"host": "evil.example"}, follow_redirects=False)
    assert response.status_code == 404
    assert "evil" not in response.text
    app = create_app(site.service, hosts=("board.example.org",))
    client = TestClient(app, base_url="http://evil.example")
    assert client.get("/").status_code == 400
    assert client.get("/healthz").status_code == 200  # monitors ask by address
    assert TestClient(app, base_url="http://board.example.org").get("/").status_code == 200


def test_control_characters_never_reach_the_database(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path))
    headers = {"authorization": f"Bearer {site.reviewer}"}
    body = {"decision": "refused", "why": "a\0b"}
    response = site.client.post(f"/api/v1/submissions/{id_}/review", json=body, headers=headers)
    assert response.status_code == 422
    assert site.client.post("/login", data={"token": "lb_\0_x"}).status_code in (401, 422)
    headers = {"authorization": "Bearer lb_\xff_x".encode("latin-1")}
    assert site.client.get("/api/v1/submissions", headers=headers).status_code == 401
    assert site.store.get(id_).state == "accepted"


def test_a_big_board_as_json_is_compressed_and_kept(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path))
    url = "/api/v1/boards/dclm/tiny/filtering"
    packed = site.client.get(url, headers={"accept-encoding": "gzip"})
    plain = site.client.get(url, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert packed.headers["etag"] == plain.headers["etag"]
    assert int(packed.headers["content-length"]) < len(plain.content) / 2


def test_the_csv_of_a_view_has_all_its_rows_and_a_name(site: Site, tmp_path: Path) -> None:
    for k in range(3):
        site.accept(make_zip(tmp_path, method=f"m {k}", chance=k))
    response = site.client.get("/api/v1/boards/dclm/tiny/filtering?format=csv&limit=1")
    assert len(response.text.splitlines()) == 4
    assert (
        response.headers["content-disposition"] == 'attachment; filename="dclm-tiny-filtering.csv"'
    )


# ---- the queue


def test_a_hundred_of_one_team_delay_another_team_by_one(site: Site) -> None:
    def put(number: int, team: str) -> str:
        id_ = f"{number:032x}"
        site.store.receive(
            id=id_,
            team=team,
            token="t",
            benchmark="dclm",
            scale="tiny",
            track="filtering",
            method="m",
            bundle="b",
            bundle_sha256="0" * 64,
            bundle_bytes=1,
        )
        return id_

    flood = [put(n, "flood") for n in range(100)]
    first = site.store.claim("check 1")
    assert first is not None
    assert first.id == flood[0]
    late = put(1000, "late")
    assert site.store.place_in_line(site.store.get(late)) == 1  # the one that is checked now
    assert site.store.place_in_line(site.store.get(flood[1])) == 2
    order = []
    for n in range(3):
        claimed = site.store.claim(f"check {n + 2}")
        assert claimed is not None
        order.append(claimed.id)
    assert order == [late, flood[1], flood[2]]


def test_a_check_that_dies_says_so_and_waits_again_at_once(site: Site, tmp_path: Path) -> None:
    id_ = site.send(make_zip(tmp_path))
    assert site.store.claim("check aa") is not None
    why = "the check process was killed, as for want of memory"
    assert site.store.released("check aa", why) == id_
    assert site.store.released("check bb", why) is None
    assert site.store.history(id_)[-1].why == why
    again = site.store.claim("check bb")
    assert again is not None
    assert (again.id, again.attempts) == (id_, 2)
    assert site.store.checks()["died"][0] == 1


def test_what_a_maintainer_refused_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    id_ = site.accept(path)
    site.store.move(id_, "refused", who="ada", why="made up")
    headers = {"authorization": f"Bearer {site.secret}", "content-type": "application/zip"}
    response = site.client.post("/api/v1/submissions", content=path.read_bytes(), headers=headers)
    assert response.status_code == 403
    assert "was refused by a maintainer" in response.json()["error"]


def test_a_banned_team_and_one_over_its_quota_may_not_send(site: Site, tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    people.decide(site.store, "a team", banned=True, why="fraud", who="ada")
    with pytest.raises(PermissionError, match="may not submit: fraud"):
        site.send(path)
    people.decide(site.store, "a team", banned=False, quota_bytes=10, who="ada")
    with pytest.raises(PermissionError, match="may have 10"):
        site.send(path)
    people.decide(site.store, "a team", quota_bytes=10 * MIB, who="ada")
    assert site.send(path)


def test_a_team_s_notices_come_as_a_feed(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path, method="<b>&"))
    key = people.feed_key(site.store, "a team")
    assert people.feed_key(site.store, "a team") == key
    response = site.client.get(f"/feeds/{key}.atom")
    assert response.headers["content-type"].startswith("application/atom+xml")
    feed = ElementTree.fromstring(response.text)
    atom = "{http://www.w3.org/2005/Atom}"
    titles = [entry.findtext(f"{atom}title") for entry in feed.iter(f"{atom}entry")]
    assert titles == ["<b>&: accepted", "<b>&: needs review", "<b>&: received"]
    assert site.client.get(f"/feeds/{'0' * 32}.atom").status_code == 404


def test_what_was_on_the_board_says_who_took_it_off(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path))
    site.store.move(id_, "withdrawn", who="team (token x)", team="a team")
    response = site.client.get(f"/submissions/{id_}")
    assert response.status_code == 410
    assert "was taken off by its team on 20" in response.text
    other = site.send(make_zip(tmp_path, method="never accepted", chance=9))
    assert site.client.get(f"/submissions/{other}").status_code == 404


# ---- secrets


def test_a_forgotten_submission_leaves_only_that_it_was(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path, method="secret method"))
    people.forget(site.store, id_, who="ada")
    submission = site.store.get(id_)
    assert (submission.team, submission.method, submission.bundle) == ("(removed)", "(removed)", "")
    lines = site.store.history(id_)
    assert {line.who for line in lines[:-1]} == {"removed"}
    assert [line.after for line in lines][-1] == "forgotten"
    assert "secret method" not in site.client.get(BOARD).text
    for change in ("DELETE FROM audit", "UPDATE audit SET why = 'x'", "UPDATE audit SET at = 0"):
        with (
            pytest.raises(Exception, match="append-only"),
            site.store.writer.begin() as connection,
        ):
            connection.exec_driver_sql(change)


def test_everybody_sees_roles_and_reviewers_names(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path))
    url = f"/api/v1/submissions/{id_}"
    assert {change["who"] for change in site.client.get(url).json()["history"]} == {
        "the team",
        "a check",
        "a maintainer",
    }
    headers = {"authorization": f"Bearer {site.reviewer}"}
    assert "ada" in {
        change["who"] for change in site.client.get(url, headers=headers).json()["history"]
    }


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    Store(f"sqlite:///{tmp_path / 'x.db'}").close()
    assert os.stat(tmp_path / "x.db").st_mode & 0o777 == 0o600
