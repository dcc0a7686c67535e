"""Fetching from servers that compress, escape, pause, dribble or send too much."""

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
from pipelines.images.addresses import FetchError
from pipelines.images.fetch import FetchOptions, open_fetcher
from pipelines.retries import Patience
from tests.pipelines.images.servers import Inside, allowed, fetch


@pytest.fixture
def inside() -> Iterator[Inside]:
    server = Inside()
    yield server
    server.server.shutdown()
    server.server.server_close()


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
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("GZIP", gzip.compress(BODY[:10], mtime=0) + gzip.compress(BODY[10:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("zstd", zstandard.compress(BODY)),
        ("br", brotli.compress(BODY)),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY, mtime=0), mtime=0)),
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


def test_an_address_that_was_lost_in_a_crowd_is_asked_anew_beyond_its_retries() -> None:
    """A server sends one address and leaves another's first connection without an answer."""
    asked: list[str] = []

    def sends(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(5 * 65_536))
        to.end_headers()
        for _ in range(5):
            to.wfile.write(b"x" * 65_536)
            time.sleep(0.3)

    def lost_at_first(to: BaseHTTPRequestHandler) -> None:
        asked.append(to.path)
        if len(asked) == 1:
            time.sleep(8)
        with suppress(OSError):
            plain(b"body")(to)  # type: ignore[operator]

    async def both(address: str) -> list[bytes]:
        options = FetchOptions(timeout_seconds=1, retries=0, allow=(address,))

        async def body_of(fetcher: fetching.Fetcher, path: str) -> bytes:
            async with fetcher.body(f"http://{address}/{path}") as data:
                return data

        async with open_fetcher(options) as fetcher:
            return await asyncio.gather(body_of(fetcher, "sends"), body_of(fetcher, "lost"))

    with Answers(sends=sends, lost=lost_at_first) as server:
        bodies = asyncio.run(both(server.place))
    assert [len(body) for body in bodies] == [5 * 65_536, 4]
    assert len(asked) == 2


# ---- redirects, lengths and bodies that are not what they say


def redirect(target: str, status: int = 302) -> object:
    return plain(b"", status=status, Location=target)


def raw(data: bytes) -> object:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.close_connection = True
        to.wfile.write(data)

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (redirect("/x"), "too_many_redirects"),
        (redirect("/x", 308), "too_many_redirects"),
        (redirect("file:///etc/passwd"), "bad_url"),
        (redirect("ftp://127.0.0.1/x"), "bad_url"),
        (redirect("javascript:alert(1)"), "bad_url"),
        (redirect("http://[::1]/x"), "refused_address"),
        (redirect("http://[::ffff:127.0.0.1]/x"), "refused_address"),
        (redirect("http://169.254.169.254/latest"), "refused_address"),
        (redirect("http://127.0.0.1:22/"), "refused_address"),
        (redirect(""), "http_status"),
        (plain(b"part", status=206, Content_Range="bytes 0-3/900"), "http_206"),
        (plain(b"", status=304), "http_304"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nbody"), "broken_answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\nbody"), "broken_answer"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"), "broken_answer"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 4\r\n\r\nbody"),
            "broken_answer",
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nbody"),
            "broken_answer",
        ),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), "broken_answer"),
        (raw(b""), "broken_answer"),
        (raw(b"\xff\xd8\xff\xe0"), "broken_answer"),
    ],
)
def test_answers_that_are_no_body_are_counted_by_their_reason(answer: object, reason: str) -> None:
    with Answers(x=answer) as server, pytest.raises(FetchError) as error:
        server.fetch("/x", retries=0)
    assert error.value.reason == reason


@pytest.mark.parametrize("number", [300, 5_000])
def test_hundreds_of_cookies_are_taken_and_thousands_refused(inside: Inside, number: int) -> None:
    url = f"http://127.0.0.1:{inside.port}/headers/{number}"
    if number < fetching.MAX_HEADERS:
        assert fetch(url, allow=allowed(inside)) == b"body"
    else:
        with pytest.raises(FetchError, match="Too many headers"):
            fetch(url, allow=allowed(inside), retries=0)
