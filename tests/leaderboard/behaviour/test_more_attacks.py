"""More attacks with their bounds: odd requests over a socket, floods of keys, and what was open."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from leaderboard.service import side_by_side
from leaderboard.service.prune import UPLOAD_SECONDS, prune
from leaderboard.submissions.bundle import MANIFEST
from leaderboard.submissions.limits import Limit, limited
from leaderboard.web.answers import MOST_ADDRESSES
from tests.leaderboard.attacked_site import BOARD, Site, listening
from tests.leaderboard.made_up import make_folder, make_zip

WAIT = 90.0  # seconds, on a busy machine; an honest answer takes milliseconds
HOST = b"Host: x\r\n"


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(database, tmp_path)
    yield made
    made.store.close()


def exchange(address: tuple[str, int], raw: bytes) -> bytes:
    """What comes back on a connection until it is closed, or nothing comes for a second."""
    received = b""
    with socket.create_connection(address, timeout=WAIT) as connection:
        connection.sendall(raw)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
                connection.settimeout(1.0)
                if len(received) > 1 << 20:
                    break
    return received


def answers(address: tuple[str, int], raw: bytes) -> list[int]:
    """The statuses that come back."""
    try:
        received = exchange(address, raw)
    except TimeoutError:
        received = b""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def until_quiet(address: tuple[str, int], raw: bytes) -> list[int]:
    """The statuses of a connection that stays open."""
    received = b""
    with socket.create_connection(address, timeout=WAIT) as connection:
        connection.sendall(raw)
        try:
            while data := connection.recv(65536):
                received += data
                connection.settimeout(2.0)
        except (ConnectionError, TimeoutError):
            pass
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


SMUGGLED = b"GET /api/v1/boards HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /login HTTP/1.1\r\n" + HOST
ODD = {
    "two lengths that differ": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\ntoken" + SMUGGLED,
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\ntoken" + SMUGGLED,
    "a coding that is none": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked under a tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk of a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    "a chunk of 10^30 bytes": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 25 + b"\r\n",
    "a header with NUL": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "no header name": b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "HTTP/2 in the clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "200 KB of one header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "30,000 headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 30_000 + b"\r\n",
    "a request line of 200 KB": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
}


def test_no_odd_request_is_answered_as_two_or_with_an_error_of_ours(site: Site) -> None:
    with listening(site) as address:
        for name, raw in ODD.items():
            statuses = until_quiet(address, raw)
            assert len(statuses) <= (2 if name.startswith("HTTP/2") else 1), name
            assert all(400 <= status < 500 for status in statuses), (name, statuses)
        assert answers(address, SMUGGLED.replace(HOST, HOST + b"Connection: close\r\n")) == [200]


def test_a_length_beside_chunks_ends_the_connection(site: Site) -> None:
    """RFC 9112, 6.3: chunks count, and what comes after is never taken for a request."""
    both = POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    with listening(site) as address:
        statuses = until_quiet(address, both)
    assert len(statuses) <= 1
    assert all(400 <= status < 500 for status in statuses)


def test_other_forms_of_addresses_are_no_errors_of_ours(site: Site) -> None:
    lines = (
        b"GET http://evil.example/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"GET //evil.example/%2e%2e HTTP/1.1",
        b"GET /?" + b"a=b&" * 1500 + b" HTTP/1.1",
        b"GET /boards/%c0%ae%c0%ae/%u0041/%zz HTTP/1.1",
        b"GET /boards/dclm/tiny/%25%32%65%25%32%65 HTTP/1.1",
        b"GET /% HTTP/1.1",
        b"GET /search?q=%ff%fe%c0%80 HTTP/1.1",
        b"GET /help/%f0%9f%98%80 HTTP/1.1",
    )
    with listening(site) as address:
        for line in lines:
            [status] = answers(address, line + b"\r\n" + HOST + b"Connection: close\r\n\r\n")
            assert status == 200 or 400 <= status < 500, line
            assert b"evil" not in exchange(
                address, line + b"\r\n" + HOST + b"Connection: close\r\n\r\n"
            )


def test_many_requests_in_one_packet_are_answered_in_their_order(site: Site) -> None:
    number = 50
    packet = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    last = packet.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with listening(site) as address:
        assert answers(address, packet * number + last) == [200] * (number + 1)


def test_a_thousand_cookies_are_read_once_and_open_nothing(site: Site) -> None:
    cookies = "; ".join(f"leaderboard=a{k}" for k in range(1000))
    response = site.client.get("/submit", headers={"cookie": cookies})
    assert response.status_code == 200
    assert "Log in" in response.text
    assert site.client.get(BOARD, headers={"cookie": "=;;=; a"}).status_code == 200


def test_ranges_of_a_bundle_give_no_more_than_the_bundle(site: Site, tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    id_ = site.accept(path)
    url = f"/api/v1/submissions/{id_}/bundle"
    for ranges in ("0-," * 1500 + "0-", "-1," * 1500 + "-1", "0-18446744073709551616", "5-1", "x"):
        response = site.client.get(url, headers={"range": f"bytes={ranges}"})
        assert response.status_code in (200, 206, 400, 416), ranges[:20]
        assert len(response.content) < 2 * path.stat().st_size, ranges[:20]


@pytest.mark.parametrize("opening", ["[", '{"why":'])
def test_deep_json_is_refused(site: Site, tmp_path: Path, opening: str) -> None:
    id_ = site.accept(make_zip(tmp_path))
    headers = {"authorization": f"Bearer {site.reviewer}", "content-type": "application/json"}
    body = (opening * 30_000)[: 60 << 10]
    response = site.client.post(f"/api/v1/submissions/{id_}/review", content=body, headers=headers)
    assert 400 <= response.status_code < 500
    assert site.store.get(id_).state == "accepted"


def test_repeated_and_huge_parameters_are_refused(site: Site) -> None:
    for query in (
        "&".join("id=" + "a" * 32 for _ in range(200)),
        "id=" + "a" * 32 + "&reference=" + "a" * 3000,
    ):
        assert site.client.get(f"/compare?{query}").status_code in (404, 414, 422)
    for query in ("offset=" + "9" * 5000, "limit=1e3", "limit=0x10", "offset=-0", "limit=%31%30"):
        assert site.client.get(f"{BOARD}?{query}").status_code in (200, 404, 422), query
    answer = site.client.get(f"{BOARD}?limit=5&limit=6&limit=" + "&limit=7" * 800)
    assert answer.status_code in (200, 404, 422)


def test_a_flood_of_views_has_an_end_and_pushes_out_no_searching_reader(
    site: Site, tmp_path: Path
) -> None:
    site.accept(make_zip(tmp_path))
    answers_ = site.app.state.answers
    answers_.kept.most = 10
    for number in range(25):
        assert site.client.get(f"{BOARD}?offset={50 * number}").status_code == 200
        assert site.client.get(f"{BOARD}?limit={number + 1}").status_code == 200
    assert len(answers_.kept.pages) <= 10
    assert len(answers_.searched.pages) <= 64
    assert answers_.kept.size == sum(
        len(kept.page.body) + len(kept.page.packed) for kept in answers_.kept.pages.values()
    )
    assert len(answers_._addresses) <= MOST_ADDRESSES


def test_a_coding_that_a_client_forbids_is_not_used(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path))
    for value, packed in (("gzip;q=0", False), ("gzip; q=0.0, *", False), ("x-gzipped", False)):
        response = site.client.get(BOARD, headers={"accept-encoding": value})
        assert ("content-encoding" in response.headers) is packed, value
    assert (
        "content-encoding"
        in site.client.get(BOARD, headers={"accept-encoding": "br, gzip"}).headers
    )


@pytest.mark.parametrize("kind", ["never ends", "a thousand parts", "no boundary"])
def test_odd_forms_are_refused(site: Site, kind: str) -> None:
    part = '--b\r\nContent-Disposition: form-data; name="token"\r\n\r\nx\r\n'
    body, boundary = {
        "never ends": (part, "b"),
        "a thousand parts": (part * 900 + "--b--", "b"),
        "no boundary": (part, ""),
    }[kind]
    header = {"content-type": f"multipart/form-data{f'; boundary={boundary}' if boundary else ''}"}
    response = site.client.post("/login", content=body, headers=header)
    assert 400 <= response.status_code < 500


@pytest.mark.parametrize("kind", ["lzma", "a folder", "another case", "a device"])
def test_odd_zips_are_refused(site: Site, tmp_path: Path, kind: str) -> None:
    source = make_zip(tmp_path)
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            how = zipfile.ZIP_LZMA if kind == "lzma" else info.compress_type
            new.writestr(info.filename, old.read(info), how)
        if kind == "a folder":
            new.writestr("questions/", b"")
        elif kind == "another case":
            new.writestr("Record.JSON", b"{}")
        elif kind == "a device":
            info = zipfile.ZipInfo("questions/null")
            info.external_attr = 0o020666 << 16
            new.writestr(info, b"")
    headers = {"authorization": f"Bearer {site.secret}"}
    response = site.client.post("/api/v1/submissions", content=path.read_bytes(), headers=headers)
    if response.status_code == 201:  # what only the check can know
        site.service.check_next("check")
        assert site.store.get(response.json()["id"]).state == "refused"
    else:
        assert response.status_code == 422


# ---- what was open, and had no test of its own


def test_a_check_that_takes_too_long_says_so_and_the_next_one_is_checked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import leaderboard.service.service as module

    first = site.send(make_zip(tmp_path, method="slow"))
    second = site.send(make_zip(tmp_path, method="honest"))
    check = module.check_bundle

    def slow(bundle, **options):
        if bundle.record.work.method == "slow":
            with limited(Limit(seconds=0.2, num_bytes=1 << 30)):
                while True:
                    pass
        return check(bundle, **options)

    monkeypatch.setattr(module, "check_bundle", slow)
    while site.service.check_next("check") is not None:
        pass
    refused = site.store.get(first)
    assert refused.state == "refused"
    assert refused.faults[0].found == "the check needed more time than it may have"
    assert site.store.get(second).state == "needs_review"


def test_ten_thousand_files_that_are_not_there_are_a_hundred_faults(
    site: Site, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    first = manifest["files"][0]
    names = [f"questions/1/t/{k:06d}.parquet" for k in range(10_000)]
    manifest["files"] += [first | {"name": name} for name in names]
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            data = orjson.dumps(manifest) if name == MANIFEST else file.read_bytes()
            packed.writestr(name, data)
    id_ = site.send(path)
    site.service.check_next("check")
    submission = site.store.get(id_)
    assert submission.state == "refused"
    assert len(submission.faults) <= 101
    headers = {"authorization": f"Bearer {site.secret}"}
    assert len(site.client.get(f"/submissions/{id_}", headers=headers).content) < 100_000


def test_long_names_of_checks_and_bundles_over_two_gigabytes_fit(site: Site) -> None:
    site.store.receive(
        id="a" * 32,
        team="a team",
        token=site.token.id,
        benchmark="dclm",
        scale="tiny",
        track="filtering",
        method="m",
        bundle="bundles/a.zip",
        bundle_sha256="0" * 64,
        bundle_bytes=5 << 30,
    )
    assert site.store.get("a" * 32).bundle_bytes == 5 << 30
    assert site.store.claim(f"check {'0' * 8}") is not None


def test_what_nobody_needs_is_pruned_and_the_rest_stays(site: Site, tmp_path: Path) -> None:
    id_ = site.accept(make_zip(tmp_path))
    bundles = tmp_path / "files" / "bundles"
    orphan, broken = bundles / f"{'b' * 32}-0000.zip", site.service.scratch / "upload-x.zip"
    young = bundles / f"{'c' * 32}-0000.zip"
    for path in (orphan, broken, young):
        path.write_bytes(b"x")
    old = time.time() - 2 * UPLOAD_SECONDS
    for path in (orphan, broken):
        os.utime(path, (old, old))
    for path in bundles.iterdir():
        if path != young:
            os.utime(path, (old, old))
    pruned = prune(site.service)
    assert pruned.bundles == (f"bundles/{orphan.name}",)
    assert pruned.uploads == (broken.name,)
    assert pruned.evidence == ()
    assert site.client.get(f"/submissions/{id_}/tasks/heldout_ending").status_code == 200
    assert young.exists()


def test_a_pair_is_compared_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (site.accept(make_zip(tmp_path, method=f"m {k}", chance=k)) for k in (0, 1))
    calls = []
    compare = side_by_side.compare_values
    monkeypatch.setattr(
        side_by_side,
        "compare_values",
        lambda *values, **options: calls.append(1) or compare(*values, **options),
    )
    for junk in range(4):
        page = site.client.get(f"/compare?id={first}&id={second}&junk={junk}")
        assert page.status_code == 200
    tasks = len(calls)
    assert 0 < tasks <= 3
    site.client.get(f"/compare?id={second}&id={first}&reference={first}")
    assert len(calls) == tasks


def test_boards_that_are_none_push_out_no_board(site: Site, tmp_path: Path) -> None:
    site.accept(make_zip(tmp_path))
    assert site.client.get(BOARD).status_code == 200
    known = set(site.service.library._copies)
    for number in range(200):
        assert site.client.get(f"/boards/dclm/tiny/none{number}").status_code == 404
    assert set(site.service.library._copies) == known
