"""What is fetched and what is not: no connection leaves for an address inside."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.images import fetch as fetching
from pipelines.images.fetch import FetchError, FetchOptions, check_url, open_fetcher, refused

pytest.importorskip("aiohttp")


class Inside:
    """A server on loopback that counts who connects, whatever they ask for."""

    def __init__(self) -> None:
        self.connections = 0
        inside = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                inside.connections += 1
                super().setup()

            def do_GET(self) -> None:
                inside.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.target = "/"
        self.failures = 0
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        body = b"body"
        if to.path == "/redirect":
            to.send_response(302)
            to.send_header("Location", self.target)
        elif to.path == "/endless":
            to.send_response(302)
            to.send_header("Location", "/endless")
        elif to.path == "/flaky" and self.failures < 2:
            self.failures += 1
            to.send_response(503)
        elif to.path == "/gone":
            to.send_response(404)
        elif to.path == "/robots":
            to.send_response(200)
            to.send_header("X-Robots-Tag", "otherbot: noai, NoImageAI")
        elif to.path == "/large":
            to.send_response(200)
            to.send_header("Content-Length", str(10**9))
        elif to.path == "/endless-body":
            to.send_response(200)
            body = b"x" * 300_000
        else:
            to.send_response(200)
        to.end_headers()
        to.wfile.write(body)


@pytest.fixture
def inside() -> Iterator[Inside]:
    server = Inside()
    yield server
    server.server.shutdown()
    server.server.server_close()


def fetch(url: str, **options: object) -> bytes:
    async def run() -> bytes:
        given = FetchOptions(timeout_seconds=5, **options)  # type: ignore[arg-type]
        async with open_fetcher(given) as fetcher, fetcher.body(url) as data:
            return data

    return asyncio.run(run())


def allowed(server: Inside) -> tuple[str, ...]:
    return (f"127.0.0.1:{server.port}",)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "user:word@127.0.0.1",
        "①②⑦.0.0.1",
    ],
)
def test_no_way_of_writing_loopback_makes_a_connection(host: str, inside: Inside) -> None:
    with pytest.raises(FetchError) as error:
        fetch(f"http://{host}:{inside.port}/", retries=0)
    assert error.value.reason in ("refused_address", "no_such_host", "bad_url")
    assert inside.connections == 0


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.2.1"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "0.0.0.0", "198.18.0.1"),
        *("fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::", "::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1", "no address"),
        "2001:0:7f00:1::f5ff:fffe",
    ],
)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert refused(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111"])
def test_public_addresses_are_not(address: str) -> None:
    assert not refused(address)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a.example/", "gopher://a/", "http:///x", "http://[::1", ""]
)
def test_only_http_to_a_host_is_fetched(url: str) -> None:
    with pytest.raises(FetchError) as error:
        check_url(url)
    assert error.value.reason == "bad_url"


def test_a_redirect_inside_is_not_followed(inside: Inside) -> None:
    other = Inside()
    try:
        for target in (
            f"http://127.0.0.1:{other.port}/",
            f"http://localhost:{other.port}/",
            f"//2130706433:{other.port}/",
            "file:///etc/passwd",
        ):
            inside.target = target
            with pytest.raises(FetchError) as error:
                fetch(f"http://127.0.0.1:{inside.port}/redirect", allow=allowed(inside))
            assert error.value.reason in ("refused_address", "bad_url")
        assert other.connections == 0
        assert inside.connections == 4
    finally:
        other.server.shutdown()
        other.server.server_close()


def test_a_name_that_changes_its_address_is_connected_to_as_it_was_checked(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [["192.0.2.1"], ["127.0.0.1"], ["93.184.215.14", "127.0.0.1"]]
    asked = []

    def look_up(host: str, port: int, family: int) -> list[object]:
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answers[len(asked) - 1]
        ]

    monkeypatch.setattr(fetching, "look_up", look_up)
    for _ in answers:
        with pytest.raises(FetchError) as error:
            fetch(f"http://rebinding.example:{inside.port}/", retries=0)
        assert error.value.reason == "refused_address"
    assert asked == ["rebinding.example"] * 3
    assert inside.connections == 0


def test_a_body_comes_whole_from_a_server_that_is_allowed(inside: Inside) -> None:
    assert fetch(f"http://127.0.0.1:{inside.port}/", allow=allowed(inside)) == b"body"


def test_what_may_mend_is_tried_again_and_what_may_not_is_not(inside: Inside) -> None:
    place = f"http://127.0.0.1:{inside.port}"
    assert fetch(f"{place}/flaky", allow=allowed(inside)) == b"body"
    assert inside.failures == 2
    before = inside.connections
    with pytest.raises(FetchError) as error:
        fetch(f"{place}/gone", allow=allowed(inside))
    assert error.value.reason == "http_404"
    assert inside.connections == before + 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/endless", "too_many_redirects"),
        ("/robots", "not_allowed"),
        ("/large", "too_large"),
        ("/endless-body", "too_large"),
    ],
)
def test_answers_that_are_not_taken(path: str, reason: str, inside: Inside) -> None:
    url = f"http://127.0.0.1:{inside.port}{path}"
    with pytest.raises(FetchError) as error:
        fetch(url, allow=allowed(inside), max_bytes=100_000)
    assert error.value.reason == reason


def test_a_server_that_is_silent_is_left_after_the_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"

        async def run() -> None:
            options = FetchOptions(timeout_seconds=0.2, retries=1, allow=(place,))
            async with open_fetcher(options) as fetcher, fetcher.body(f"http://{place}/"):
                pass

        with pytest.raises(FetchError) as error:
            asyncio.run(run())
        assert error.value.reason == "timeout"


def test_bodies_that_are_held_wait_for_others_to_be_given_back() -> None:
    async def run() -> list[str]:
        budget = fetching.Budget(10)
        told: list[str] = []

        async def second() -> None:
            await budget.take(6)
            told.append("second")

        await budget.take(6)
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        told.append("first gives back")
        await budget.give(6)
        await waiting
        return told

    assert asyncio.run(run()) == ["first gives back", "second"]
