"""Download untrusted URLs concurrently; private addresses are refused.

An address may name a host inside the operator's network, redirect there, or have a name whose
answer changes between two look-ups. So: only http and https; redirects are followed by hand, each
checked like the first; a name is looked up once and the connection goes to the very addresses that
were checked; whatever is not globally routable is refused before a connection is made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

from pipelines.images.addresses import FetchError, Lookup, check_url
from pipelines.images.content_encoding import TooLarge, undo
from pipelines.records import Frozen
from pipelines.retries import STRANGERS, passes

MAX_REDIRECTS = 5  # longer chains are loops, or somebody's trap
CHUNK_BYTES = 64 << 10  # of a body at a time: the limit on its size is checked after each
HELD_BYTES = 1 << 30  # of bodies in memory, over all connections of a process
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GOOD = frozenset({200, 203})  # 203: a proxy changed the answer; its sha256 shows whether it matters
MAX_RETRY_AFTER_SECONDS = 30.0  # a server that asks for a longer pause is not asked again
MAX_HEADER_BYTES = 65_536  # of one line, as http.client takes it
MAX_HEADERS = 1_000  # sites that set a cookie a campaign send hundreds; more is no answer
MIN_BYTES_PER_SECOND = 64 << 10
"""A body that comes this fast is waited for: each second's worth moves the limit by a second, to
no more than `timeout_seconds` from now."""
MOST_TIMES = 6  # the limit at most, for an address of a server that sends us others meanwhile
MOST_CROWDED = 3
"""How often an address is asked anew, beyond its retries, that got no answer while its server sent
us others: a server whose queue is full drops connections, which the system then tries at 1, 3, 7
and 15 seconds."""
RECENT = 32  # addresses whose outcome decides how many are fetched at once
MIN_CONNECTIONS = 8  # the gate never closes further than this
NO_TRAINING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
"""Words of X-Robots-Tag that forbid a copy for training; `none` is noindex and nofollow."""
VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives of X-Robots-Tag that have a value after a colon; all else before one names a robot."""


class FetchOptions(Frozen):
    """How addresses are fetched. img2dataset's settings of the reference where it has them.

    `timeout_seconds` is the server's: until it answers, and while less than MIN_BYTES_PER_SECOND
    come. What this process waits for, its own memory, is not counted, and the first byte is waited
    for longer while the server sends other addresses.
    """

    timeout_seconds: float = 10.0
    retries: int = 2
    connections: int = 512
    max_bytes: int = 64 << 20
    respect_robots_tag: bool = True
    user_agent: str = "Mozilla/5.0 (compatible; curation-bench)"
    allow: tuple[str, ...] = ()  # HOST:PORT that may be private: for servers of tests


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a header Retry-After asks for, by number or date; None without one."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def forbids_training(values: list[str], user_agent: str) -> bool:
    """Whether headers X-Robots-Tag forbid a copy to us: what names another robot is not for us."""
    for value in values:
        for_us = True
        for piece in value.lower().split(","):
            name, colon, rest = piece.partition(":")
            word = piece.strip()
            if colon:
                if name.strip() in VALUED:
                    continue
                robot = name.strip()
                for_us = robot == "*" or robot in user_agent.lower()
                word = rest.strip()
            if for_us and word in NO_TRAINING:
                return True
    return False


class Hold:
    """What one body has of the budget."""

    def __init__(self) -> None:
        self.num_bytes = 0


class Budget:
    """How many bytes of bodies may be held at a time, over all tasks of a process.

    A body that says its length takes it whole before it is read. One that does not takes piece by
    piece; so that such bodies never wait for each other without end, one of them at a time may take
    more than there is.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._freed = asyncio.Condition()
        self._beyond: Hold | None = None  # the one that has more than there was

    async def take(self, hold: Hold, size: int) -> None:
        """Wait until there is room for `size` bytes more."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._left >= size or self._may(hold))
            if self._left < size:
                self._beyond = hold
            self._left -= size
            hold.num_bytes += size

    def _may(self, hold: Hold) -> bool:
        return hold.num_bytes > 0 and self._beyond in (None, hold)

    async def give(self, hold: Hold) -> None:
        """Give back all that was taken."""
        async with self._freed:
            self._left += hold.num_bytes
            hold.num_bytes = 0
            if self._beyond is hold:
                self._beyond = None
            self._freed.notify_all()


class Gate:
    """How many addresses are fetched at once: fewer while most of them break off in the middle.

    Many bodies at once share the line of this machine; when most of the last RECENT time out with
    bytes coming, half as many are fetched, and one more for each that succeeds.
    """

    def __init__(self, most: int) -> None:
        self._most, self._limit, self._open = most, float(most), 0
        self._changed = asyncio.Condition()
        self._slow: list[bool] = []

    @property
    def limit(self) -> int:
        return int(self._limit)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._open < self.limit)
            self._open += 1
        try:
            yield
        finally:
            async with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def settle(self, *, slow: bool) -> None:
        """Take note of an outcome. `slow`: the limit was reached while bytes came."""
        if not slow:
            self._limit = min(self._most, self._limit + 1)
        self._slow.append(slow)
        if len(self._slow) >= RECENT:
            if sum(self._slow) > RECENT // 2:
                self._limit = max(min(MIN_CONNECTIONS, self._most), self._limit / 2)
            self._slow.clear()


class Limit:
    """The time that a server has for one address; it can be stopped, and prolonged."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._timeout, self._seconds = timeout, seconds
        self._last = asyncio.get_running_loop().time() + MOST_TIMES * seconds
        self.received = 0
        self.crowded = False  # the server has sent others while this one waited

    def got(self, size: int) -> None:
        """Bytes came: their time at the least rate is added."""
        self.received += size
        when = self._timeout.when()
        if when is not None:
            most = asyncio.get_running_loop().time() + self._seconds
            longer = min(when + size / MIN_BYTES_PER_SECOND, most)
            self._timeout.reschedule(max(when, longer))

    def busy(self) -> None:
        """The server sent bytes of another address: this one waits behind our own others."""
        when = self._timeout.when()
        if when is not None and not self.received:
            self.crowded = True
            later = asyncio.get_running_loop().time() + self._seconds
            self._timeout.reschedule(max(when, min(later, self._last)))

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """What happens inside is not the server's time."""
        when, start = self._timeout.when(), time.monotonic()
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            if when is not None:
                self._timeout.reschedule(when + time.monotonic() - start)


class Hosts:
    """The addresses asked of each server now; one that sends any of them is not silent."""

    def __init__(self) -> None:
        self._asked: dict[str, set[Limit]] = {}
        self._said: dict[str, float] = {}

    @contextmanager
    def asking(self, url: str, limit: Limit) -> Iterator[str]:
        host = url.partition("://")[2].partition("/")[0]
        self._asked.setdefault(host, set()).add(limit)
        try:
            yield host
        finally:
            self._asked[host].discard(limit)
            if not self._asked[host]:
                del self._asked[host]
                self._said.pop(host, None)

    def sent(self, host: str) -> None:
        """Bytes came from a server; said to those who wait for it once a second."""
        now = time.monotonic()
        if now - self._said.get(host, 0.0) >= 1:
            self._said[host] = now
            for limit in self._asked.get(host, ()):
                limit.busy()


@dataclass
class Fetcher:
    """An open session; `fetch` may be called by many tasks at once."""

    session: Any
    options: FetchOptions
    budget: Budget
    gate: Gate
    hosts: Hosts = field(default_factory=Hosts)

    @asynccontextmanager
    async def body(self, url: str) -> AsyncIterator[bytes]:
        """The body of an address, counted against what may be held until the block ends.

        FetchError says why there is none, after the retries.
        """
        async with self.gate.enter():
            data, hold = await self._fetch(url)
            try:
                yield data
            finally:
                await self.budget.give(hold)

    async def _fetch(self, url: str) -> tuple[bytes, Hold]:
        tries, crowded = 0, 0
        while True:
            try:
                return await self._once(url)
            except FetchError as error:
                if error.crowded and crowded < MOST_CROWDED:
                    crowded += 1  # no try of its own: a new connection is taken at once
                    continue
                tries += 1
                if not error.again or tries > self.options.retries:
                    raise
                wait = STRANGERS.pause(tries)
                if error.after is not None:
                    if error.after > MAX_RETRY_AFTER_SECONDS:
                        raise
                    wait = max(wait, error.after)
                await asyncio.sleep(wait)

    async def _once(self, url: str) -> tuple[bytes, Hold]:
        import aiohttp

        start, limit = time.monotonic(), None
        try:
            async with asyncio.timeout(self.options.timeout_seconds) as timeout:
                limit = Limit(timeout, self.options.timeout_seconds)
                with self.hosts.asking(url, limit) as host:
                    answer = await self._follow(url, limit, host)
            self.gate.settle(slow=False)
            return answer
        except TimeoutError:
            received = limit.received if limit is not None else 0
            crowded = limit is not None and limit.crowded and not received
            self.gate.settle(slow=received > 0 or crowded)
            detail = f"no answer in {self.options.timeout_seconds:g} seconds"
            if received:
                detail = f"{received} bytes in {time.monotonic() - start:.0f} seconds, then none"
            error = FetchError("timeout", detail, again=True)
            error.crowded = crowded
            raise error from None
        except aiohttp.InvalidURL as error:
            raise FetchError("bad_url", str(error)) from None
        except aiohttp.ClientConnectorError as error:
            raise FetchError("no_connection", str(error), again=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = f"{type(error).__name__}: {error}"
            raise FetchError("broken_answer", detail, again=True) from None

    async def _follow(self, url: str, limit: Limit, host: str) -> tuple[bytes, Hold]:
        for _ in range(MAX_REDIRECTS + 1):
            checked = check_url(url, self.options.allow)
            async with self.session.get(checked, allow_redirects=False) as answer:
                if answer.status in REDIRECTS:
                    target = answer.headers.get("Location")
                    if not target:
                        raise FetchError("http_status", f"{answer.status} without a Location")
                    url = urljoin(url, target)
                    continue
                if answer.status not in GOOD:
                    after = retry_after(answer.headers.get("Retry-After"))
                    again = passes(answer.status)
                    raise FetchError(f"http_{answer.status}", again=again, after=after)
                self._check_headers(answer)
                return await self._read(answer, limit, host)
        raise FetchError("too_many_redirects")

    def _check_headers(self, answer: Any) -> None:
        size = answer.headers.get("Content-Length", "")
        if size.isascii() and size.isdigit() and int(size) > self.options.max_bytes:
            raise FetchError("too_large", f"{size} bytes")
        if self.options.respect_robots_tag:
            values = answer.headers.getall("X-Robots-Tag", [])
            if forbids_training(values, self.options.user_agent):
                raise FetchError("not_allowed", f"X-Robots-Tag: {', '.join(values)}")

    async def _read(self, answer: Any, limit: Limit, host: str) -> tuple[bytes, Hold]:
        """The body with its encodings undone, and what it has of the budget."""
        parts: list[bytes] = []
        size, hold = 0, Hold()

        async def take(more: int) -> None:
            async with limit.stopped():
                await self.budget.take(hold, more)

        try:
            length = answer.headers.get("Content-Length", "")
            if length.isascii() and length.isdigit():
                await take(int(length))
            async for part in answer.content.iter_chunked(CHUNK_BYTES):
                size += len(part)
                limit.got(len(part))
                self.hosts.sent(host)
                if size > self.options.max_bytes:
                    raise FetchError("too_large", f"more than {self.options.max_bytes} bytes")
                if size > hold.num_bytes:
                    await take(size - hold.num_bytes)
                parts.append(part)
            encoding = ",".join(answer.headers.getall("Content-Encoding", []))
            data = self._undone(b"".join(parts), encoding)
            if len(data) > hold.num_bytes:
                await take(len(data) - hold.num_bytes)
        except BaseException:
            await self.budget.give(hold)
            raise
        return data, hold

    def _undone(self, data: bytes, encoding: str) -> bytes:
        try:
            return undo(data, encoding, max_bytes=self.options.max_bytes)
        except TooLarge:
            most = self.options.max_bytes
            raise FetchError("too_large", f"more than {most} bytes, decompressed") from None
        except ValueError as error:
            raise FetchError("broken_answer", f"{encoding}: {error}", again=True) from None


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
        ssl=False,  # images are checked by their hash; half the old certificates have expired
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": options.user_agent, "Accept-Encoding": "identity"},
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    try:
        budget = Budget(max(HELD_BYTES, options.max_bytes))
        yield Fetcher(session, options, budget, Gate(options.connections))
    finally:
        await session.close()
        await lookup.close()
