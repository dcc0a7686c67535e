"""What is fetched and what is not: no connection leaves for an address inside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from pipelines.images import addresses
from pipelines.images import fetch as fetching
from pipelines.images.addresses import FetchError, check_url, refused
from pipelines.images.fetch import FetchOptions, Hosts, Limit, open_fetcher
from tests.pipelines.images.servers import Inside, allowed, fetch

pytest.importorskip("aiohttp")


@pytest.fixture
def inside() -> Iterator[Inside]:
    server = Inside()
    yield server
    server.server.shutdown()
    server.server.server_close()


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


def test_a_server_that_sends_another_address_is_not_silent() -> None:
    """The wait for a first byte is prolonged, to six times the limit; that of others is not."""

    async def limits() -> list[float]:
        hosts = Hosts()
        seen: list[float] = []
        async with asyncio.timeout(60) as own, asyncio.timeout(60) as other:
            mine, theirs = Limit(own, 100.0), Limit(other, 100.0)
            begin = asyncio.get_running_loop().time()
            with hosts.asking("http://a:1/x?y", mine), hosts.asking("http://b:1/x", theirs):
                hosts.sent("a:1")
                seen += [(own.when() or 0) - begin, (other.when() or 0) - begin]
            mine._last = begin + 70.0  # a server that has had nearly all its time
            own.reschedule(begin + 60)
            with hosts.asking("http://a:1/x", mine):
                hosts.sent("a:1")
                seen.append((own.when() or 0) - begin)
                mine.received = 1  # a body that comes has its own time
                own.reschedule(begin + 50)
                mine.busy()
                seen.append((own.when() or 0) - begin)
        return seen

    prolonged, untouched, last, body = asyncio.run(limits())
    assert 95 < prolonged < 160
    assert 55 < untouched < 61
    assert last == pytest.approx(70.0)
    assert body == pytest.approx(50.0)
