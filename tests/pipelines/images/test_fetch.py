"""What is fetched and what is not: no connection leaves for an address inside."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import brotli
import pytest
import zstandard

from pipelines.images import addresses
from pipelines.images import fetch as fetching
from pipelines.images.addresses import FetchError, check_url, refused
from pipelines.images.fetch import FetchOptions, open_fetcher
from pipelines.storage.retries import Patience

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
            to.send_header("X-Robots-Tag", "noai, NoImageAI")
        elif to.path.startswith("/headers/"):
            to.send_response(200)
            for number in range(int(to.path.rpartition("/")[2])):
                to.send_header("Set-Cookie", f"a{number}=1")
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
        *("2001:0:7f00:1::f5ff:fffe", "fec0::1", "100::1", "100:0:0:1::1", "5f00::1", "3fff::1"),
        *("64:ff9b:1::1", "192.88.99.1", "168.63.129.16"),
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

    monkeypatch.setattr(addresses, "look_up", look_up)
    for _ in answers:
        with pytest.raises(FetchError) as error:
            fetch(f"http://rebinding.example:{inside.port}/", retries=0)
        assert error.value.reason == "refused_address"
    assert asked == ["rebinding.example"] * 3
    assert inside.connections == 0


def test_a_body_comes_whole_from_a_server_that_is_allowed(inside: Inside) -> None:
    assert fetch(f"http://127.0.0.1:{inside.port}/", allow=allowed(inside)) == b"body"


def test_what_may_mend_is_tried_again_and_what_may_not_is_not(inside: Inside) -> None:
    address = f"http://127.0.0.1:{inside.port}"
    assert fetch(f"{address}/flaky", allow=allowed(inside)) == b"body"
    assert inside.failures == 2
    before = inside.connections
    with pytest.raises(FetchError) as error:
        fetch(f"{address}/gone", allow=allowed(inside))
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
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        async def run() -> None:
            options = FetchOptions(timeout_seconds=0.2, retries=1, allow=(address,))
            async with open_fetcher(options) as fetcher, fetcher.body(f"http://{address}/"):
                pass

        with pytest.raises(FetchError) as error:
            asyncio.run(run())
        assert error.value.reason == "timeout"


def test_bodies_that_are_held_wait_for_others_to_be_given_back() -> None:
    async def run() -> list[str]:
        budget = fetching.Budget(10)
        answer: list[str] = []
        first = fetching.Hold()

        async def second() -> None:
            await budget.take(fetching.Hold(), 6)
            answer.append("second")

        await budget.take(first, 6)
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        answer.append("first gives back")
        await budget.give(first)
        await waiting
        return answer

    assert asyncio.run(run()) == ["first gives back", "second"]


def test_bodies_of_unknown_length_do_not_wait_for_each_other_without_end() -> None:
    """Both have a part and need more than is left: one goes beyond, the other after it."""

    async def run() -> list[str]:
        budget = fetching.Budget(10)
        order: list[str] = []

        async def body(name: str) -> None:
            hold = fetching.Hold()
            for _ in range(4):
                await budget.take(hold, 3)
                await asyncio.sleep(0)
            order.append(name)
            await budget.give(hold)

        async with asyncio.timeout(5):
            await asyncio.gather(*(body(name) for name in "abc"))
        assert budget._left == 10
        return sorted(order)

    assert asyncio.run(run()) == ["a", "b", "c"]


# ---- what servers do: compress, escape, pause, dribble


class Answers:
    """A server whose answers are functions of the handler, by path; keeps what it was asked."""

    def __init__(self, **answers: object) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.lines.append(self.path)
                served.times.append(time.monotonic())
                served.headers.append(dict(self.headers))
                name = self.path.lstrip("/").partition("?")[0].partition("/")[0]
                answers.get(name, plain(b"body"))(self)  # type: ignore[operator]

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetch(self, path: str, **options: object) -> bytes:
        return fetch(f"http://{self.place}{path}", allow=(self.place,), **options)


def plain(body: bytes, status: int = 200, **headers: str) -> object:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(body)

    return answer


BODY = b"an image " * 5000


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY[:10]) + gzip.compress(BODY[10:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("zstd", zstandard.compress(BODY)),
        ("br", brotli.compress(BODY)),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("gzip", BODY),  # says so, and is not
        ("deflate", b"\xff\xd8" + BODY),
        ("br", b"\xff\xd8" + BODY),
        ("binary", BODY),
        ("identity", BODY),
    ],
    ids=range(13),
)
def test_what_a_server_compresses_unasked_is_undone(encoding: str, sent: bytes) -> None:
    with Answers(x=plain(sent, Content_Encoding=encoding)) as site:
        expected = sent if sent.startswith(b"\xff\xd8") else BODY
        assert site.fetch("/x") == expected
        assert site.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, brotli.compress, raw_deflate])
def test_a_body_that_grows_beyond_the_limit_is_left(pack: Callable[[bytes], bytes]) -> None:
    name = {gzip.compress: "gzip", brotli.compress: "br"}.get(pack, "deflate")
    bomb = plain(pack(bytes(50_000_000)), Content_Encoding=name)
    with Answers(x=bomb) as site, pytest.raises(FetchError) as error:
        site.fetch("/x", max_bytes=1_000_000)
    assert error.value.reason == "too_large"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("?Signature=a%2Fb%2Bc%3D&name=x%27y%28z%29&d=%3A%2C%40", None),
        ("/a%27b%28c%29%2Fd%3Ae%21", None),
        ("/%7Ehome/%41", None),
        ("/a/../b/./c//d", None),
        ("/x?a=b+c&d=e%20f", None),
        ("/%e4%zz/100%", "/%e4%25zz/100%25"),
        ("/two words?q=a b", "/two%20words?q=a%20b"),
        ("/\u00e4?x=\u20ac", "/%C3%A4?x=%E2%82%AC"),
        ("/x#fragment", "/x"),
        ('/a"b<c>', "/a%22b%3Cc%3E"),
    ],
)
def test_an_address_is_asked_as_it_is_written(asked: str, sent: str | None) -> None:
    sent = sent or asked
    with Answers() as site:
        site.fetch(asked)
        assert site.lines == [sent if sent.startswith("/") else f"/{sent}"]


def test_the_address_of_a_redirect_is_asked_as_it_is_written() -> None:
    signed = "/y?Signature=a%2Fb%3D&n=%27"
    with Answers(x=plain(b"", 302, Location=signed)) as site:
        site.fetch("/x")
        assert site.lines == ["/x", signed]


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    tries: list[int] = []

    def busy(to: BaseHTTPRequestHandler) -> None:
        tries.append(1)
        again = plain(b"", 429, Retry_After="1") if len(tries) == 1 else plain(b"body")
        again(to)  # type: ignore[operator]

    with Answers(x=busy, y=plain(b"", 503, Retry_After="3600")) as site:
        assert site.fetch("/x") == b"body"
        assert site.times[1] - site.times[0] >= 1
        with pytest.raises(FetchError):
            site.fetch("/y")
        assert len(site.lines) == 3  # an hour is not waited for


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert fetching.retry_after("7") == 7
    assert fetching.retry_after("Thu, 01 Jan 2026 12:00:05 GMT", now) == 5
    assert fetching.retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert [fetching.retry_after(text) for text in (None, "", "soon", "\u00b2")] == [None] * 4


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("noai", False),
        ("none", False),
        ("noml", False),
        ("all", True),
        ("nofollow", True),
        ("otherbot: noai", True),
        ("otherbot: noai, noindex", True),
        ("curation-bench: noai", False),
        ("*: noindex", False),
        ("max-image-preview: none, nofollow", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", True),
    ],
)
def test_robots_words_count_when_they_are_for_us(header: str, allowed: bool) -> None:
    agent = FetchOptions().user_agent
    assert fetching.forbids_training([header], agent) is not allowed


def test_long_headers_and_status_203_are_taken() -> None:
    with Answers(x=plain(b"body", 203, X_Long="a" * 30_000)) as site:
        assert site.fetch("/x") == b"body"


def test_a_name_that_does_not_exist_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    codes = {"no.example": socket.EAI_NONAME, "later.example": socket.EAI_AGAIN}

    def look_up(host: str, port: int, family: int) -> list[object]:
        asked.append(host)
        raise socket.gaierror(codes[host], "no")

    monkeypatch.setattr(addresses, "look_up", look_up)
    monkeypatch.setattr(fetching, "STRANGERS", Patience(first_pause_seconds=0.01))
    for host in codes:
        with pytest.raises(FetchError) as error:
            fetch(f"http://{host}/")
        assert error.value.reason == "no_such_host"
    assert asked == ["no.example"] + ["later.example"] * 3


def slowly(pieces: int, size: int, pause: float) -> object:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(pieces * size))
        to.end_headers()
        with suppress(OSError):
            for _ in range(pieces):
                to.wfile.write(b"x" * size)
                to.wfile.flush()
                time.sleep(pause)

    return answer


def test_a_slow_body_is_waited_for_and_a_dribble_is_not() -> None:
    """256 kB/s for 1.5 seconds against a limit of .5; and a byte each tenth of a second."""
    with Answers(slow=slowly(15, 26_000, 0.1), dribble=slowly(100, 1, 0.1)) as site:
        options = FetchOptions(timeout_seconds=0.5, retries=0, allow=(site.place,))

        async def run(path: str) -> bytes:
            url = f"http://{site.place}{path}"
            async with open_fetcher(options) as fetcher, fetcher.body(url) as data:
                return data

        assert len(asyncio.run(run("/slow"))) == 15 * 26_000
        with pytest.raises(FetchError, match=r"\d bytes in \d seconds, then none") as error:
            asyncio.run(run("/dribble"))
        assert error.value.reason == "timeout"


def test_waiting_for_our_own_memory_is_not_the_server_s_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bodies of 1 MB, one at a time in memory, each held longer than the limit."""
    monkeypatch.setattr(fetching, "HELD_BYTES", 1_000_000)
    with Answers(x=plain(bytes(1_000_000))) as site:
        options = FetchOptions(
            timeout_seconds=0.5, retries=0, allow=(site.place,), max_bytes=1_000_000
        )

        async def run() -> int:
            async with open_fetcher(options) as fetcher:

                async def body_size() -> int:
                    async with fetcher.body(f"http://{site.place}/x") as data:
                        await asyncio.sleep(0.4)
                        return len(data)

                return sum(await asyncio.gather(*(body_size() for _ in range(5))))

        assert asyncio.run(run()) == 5_000_000


def test_fewer_addresses_are_fetched_while_most_break_off() -> None:
    gate = fetching.Gate(64)
    for _ in range(fetching.RECENT):
        gate.settle(slow=True)
    assert gate.limit == 32
    for _ in range(40 * fetching.RECENT):
        gate.settle(slow=True)
    assert gate.limit == fetching.MIN_CONNECTIONS
    for _ in range(100):
        gate.settle(slow=False)
    assert gate.limit == 64


@pytest.mark.parametrize("number", [300, 5_000])
def test_hundreds_of_cookies_are_taken_and_thousands_refused(inside: Inside, number: int) -> None:
    url = f"http://127.0.0.1:{inside.port}/headers/{number}"
    if number < fetching.MAX_HEADERS:
        assert fetch(url, allow=allowed(inside)) == b"body"
    else:
        with pytest.raises(FetchError, match="Too many headers"):
            fetch(url, allow=allowed(inside), retries=0)
