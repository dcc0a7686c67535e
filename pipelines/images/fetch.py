"""Bytes of addresses that strangers wrote down: many at a time, and only from the public net.

An address may name a host inside the operator's network, redirect there, or have a name whose
answer changes between two look-ups. So: only http and https; redirects are followed by hand, each
checked like the first; a name is looked up once and the connection goes to the very addresses that
were checked; whatever is not globally routable is refused before a connection is made.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from yarl import URL

from pipelines.records import Frozen

MAX_REDIRECTS = 5
CHUNK_BYTES = 64 << 10
LOOKUP_THREADS = 64
HELD_BYTES = 1 << 30
FIRST_WAIT_SECONDS = 0.25
REDIRECTS = frozenset({301, 302, 303, 307, 308})
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_TRAINING = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_COMPATIBLE = ipaddress.ip_network("::/96")


class FetchOptions(Frozen):
    """How addresses are fetched. img2dataset's settings of the reference where it has them."""

    timeout_seconds: float = 10.0
    retries: int = 2
    connections: int = 512
    max_bytes: int = 64 << 20
    respect_robots_tag: bool = True
    user_agent: str = "Mozilla/5.0 (compatible; curation-bench)"
    allow: tuple[str, ...] = ()  # HOST:PORT that may be private: for servers of tests


class FetchError(Exception):
    """An address that gave nothing: `reason` is a word to count by, `again` whether it may mend."""

    def __init__(self, reason: str, told: str = "", *, again: bool = False) -> None:
        super().__init__(told or reason)
        self.reason, self.again = reason, again


def refused(address: str) -> bool:
    """Whether an IP address, or one that is wrapped in it, is not on the public internet."""
    try:
        found: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(found, ipaddress.IPv6Address):
        inner = _inside(found)
        if inner is not None:
            return refused(str(inner))
    return not found.is_global or found.is_multicast or found.is_reserved


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address carries, by any of the ways there are."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _SIX_TO_FOUR:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def check_url(url: str, allow: tuple[str, ...] = ()) -> URL:
    """The address as the client will read it. FetchError for another scheme or no host.

    A host that is written as numbers is checked here, a name when it is looked up.
    """
    try:
        parsed = URL(url)
        host, port = parsed.host, parsed.port
    except ValueError as error:
        raise FetchError("bad_url", f"{url!r}: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise FetchError("bad_url", f"{url!r}: only http and https are fetched")
    if not host:
        raise FetchError("bad_url", f"{url!r} names no host")
    if f"{host}:{port}" in allow:
        return parsed
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return parsed  # a name
    if refused(host):
        raise FetchError("refused_address", f"{host} is not on the public internet")
    return parsed


class Lookup:
    """A resolver for aiohttp that answers with addresses it has checked, or not at all."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._allow = allow
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_UNSPEC
    ) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, look_up, host, port, family)
        except (OSError, UnicodeError) as error:
            raise FetchError("no_such_host", f"{host}: {error}", again=True) from None
        checked = []
        for kind, _, proto, _, place in found:
            address = str(place[0])
            if f"{host}:{port}" not in self._allow and refused(address):
                raise FetchError("refused_address", f"{host} is {address}: not public")
            checked.append(
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": kind,
                    "proto": proto,
                    "flags": socket.AI_NUMERICHOST,
                }
            )
        return checked

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def look_up(host: str, port: int, family: int) -> list[Any]:
    """What the system's resolver answers; apart, so that a test can answer for it."""
    return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)


class Budget:
    """How many bytes of bodies may be held at a time, over all tasks of a process."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._freed = asyncio.Condition()

    async def take(self, size: int) -> None:
        async with self._freed:
            await self._freed.wait_for(lambda: self._left >= size)
            self._left -= size

    async def give(self, size: int) -> None:
        async with self._freed:
            self._left += size
            self._freed.notify_all()


@dataclass
class Fetcher:
    """An open session; `fetch` may be called by many tasks at once."""

    session: Any
    options: FetchOptions
    budget: Budget

    @asynccontextmanager
    async def body(self, url: str) -> AsyncIterator[bytes]:
        """The body of an address, counted against what may be held until the block ends.

        FetchError says why there is none, after the retries.
        """
        data = await self._fetch(url)
        try:
            yield data
        finally:
            await self.budget.give(len(data))

    async def _fetch(self, url: str) -> bytes:
        tries = 0
        while True:
            try:
                return await self._once(url)
            except FetchError as error:
                tries += 1
                if not error.again or tries > self.options.retries:
                    raise
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2 ** (tries - 1))

    async def _once(self, url: str) -> bytes:
        import aiohttp

        try:
            async with asyncio.timeout(self.options.timeout_seconds):
                return await self._follow(url)
        except TimeoutError:
            told = f"no answer in {self.options.timeout_seconds:g} seconds"
            raise FetchError("timeout", told, again=True) from None
        except aiohttp.InvalidURL as error:
            raise FetchError("bad_url", str(error)) from None
        except aiohttp.ClientConnectorError as error:
            raise FetchError("no_connection", str(error), again=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            raise FetchError("broken_answer", told, again=True) from None

    async def _follow(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            checked = check_url(url, self.options.allow)
            async with self.session.get(checked, allow_redirects=False) as answer:
                if answer.status in REDIRECTS:
                    target = answer.headers.get("Location")
                    if not target:
                        raise FetchError("http_status", f"{answer.status} without a Location")
                    url = urljoin(url, target)
                    continue
                if answer.status != 200:
                    raise FetchError(f"http_{answer.status}", again=answer.status in AGAIN)
                self._check_headers(answer)
                return await self._read(answer)
        raise FetchError("too_many_redirects")

    def _check_headers(self, answer: Any) -> None:
        size = answer.headers.get("Content-Length", "")
        if size.isdigit() and int(size) > self.options.max_bytes:
            raise FetchError("too_large", f"{size} bytes")
        if self.options.respect_robots_tag:
            told = ",".join(answer.headers.getall("X-Robots-Tag", [])).lower()
            words = {word.strip() for word in told.replace(":", ",").split(",")}
            if words & NO_TRAINING:
                raise FetchError("not_allowed", f"X-Robots-Tag: {told}")

    async def _read(self, answer: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in answer.content.iter_chunked(CHUNK_BYTES):
                if size + len(part) > self.options.max_bytes:
                    raise FetchError("too_large", f"more than {self.options.max_bytes} bytes")
                await self.budget.take(len(part))
                size += len(part)
                parts.append(part)
        except BaseException:
            await self.budget.give(size)
            raise
        return b"".join(parts)


@asynccontextmanager
async def open_fetcher(options: FetchOptions) -> AsyncIterator[Fetcher]:
    """A session with a pool of connections, closed in the end."""
    import aiohttp

    lookup = Lookup(options.allow)
    connector = aiohttp.TCPConnector(
        limit=options.connections,
        limit_per_host=0,
        resolver=lookup,  # type: ignore[arg-type]
        ttl_dns_cache=300,
        ssl=False,  # pictures are checked by their hash; half the old certificates have expired
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": options.user_agent},
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    try:
        yield Fetcher(session, options, Budget(max(HELD_BYTES, options.max_bytes)))
    finally:
        await session.close()
        await lookup.close()
