"""Answers that are kept: public pages and the board as JSON, compressed once, some on disk.

A key is a tuple of validated names, never text of an address that no route has parsed. While the
board changes, a page that was right before is served for at most `STALE_SECONDS` and only as long
as its successor is being made; whoever is logged in waits for the new one.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from leaderboard.service.service import Service
from leaderboard.web.makers import Busy, Make, Maker, Page, finished, tag_of
from leaderboard.web.shelf import Shelf

HTML = "text/html; charset=utf-8"
JSON = "application/json"
STALE_SECONDS = 10.0  # ranking ten thousand rows anew takes three to five
PATIENCE = 0.05  # seconds that a reader waits for the new page before the old one is served
MOST_ADDRESSES = 4096  # that a page was asked under: a cache, bounded against floods
MAX_REMEMBERED = 300  # bytes of an address that is remembered
PLAIN = frozenset((b"cookie", b"authorization", b"content-length", b"transfer-encoding"))
Key = tuple[object, ...]


@dataclass
class _Kept:
    page: Page
    revision: int
    old_since: float = math.inf


class Kept:
    """Finished answers by key, of the board's present revision.

    Used from the event loop alone. A page is made once, whoever waits for it, and one at a time of
    a key. Bounded in number and in bytes.
    """

    def __init__(
        self, most: int = 512, num_bytes: int = 128 << 20, *, stale_seconds: float = 0.0
    ) -> None:
        self.most = most
        self.num_bytes = num_bytes
        self.stale_seconds = stale_seconds
        self.size = 0
        self.revision = -1
        self.pages: OrderedDict[Key, _Kept] = OrderedDict()
        self.made: dict[Key, asyncio.Task[tuple[Page, int]]] = {}

    def now(self, revision: int, key: Key) -> Page | None:
        """The page of a key, if it is here and new."""
        kept = self.pages.get(key)
        if kept is None or kept.revision != revision:
            return None
        self.pages.move_to_end(key)
        return kept.page

    async def get(
        self,
        revision: int,
        key: Key,
        make: Callable[[], Awaitable[Page]],
        *,
        patient: bool = False,
    ) -> Page:
        """The page of a key, made now if it is not kept; `patient`: none that is old."""
        self._advance(revision)
        while True:
            new = self.now(revision, key)
            if new is not None:
                return new
            task = self.made.get(key)
            if task is None:
                task = asyncio.create_task(self._make(revision, key, make))
                task.add_done_callback(_seen)
                self.made[key] = task
            old = self.pages.get(key)
            if old is not None and not patient and self._bearable(old):
                await asyncio.wait({task}, timeout=PATIENCE)
                if not task.done():
                    return old.page
            page, of = await asyncio.shield(task)
            if of >= revision:
                return page

    def _bearable(self, kept: _Kept) -> bool:
        return time.monotonic() - kept.old_since < self.stale_seconds

    def _advance(self, revision: int) -> None:
        if revision == self.revision:
            return
        self.revision = revision
        if not self.stale_seconds:
            self.pages.clear()
            self.size = 0
        now = time.monotonic()
        for kept in self.pages.values():
            kept.old_since = min(kept.old_since, now)

    async def _make(
        self, revision: int, key: Key, make: Callable[[], Awaitable[Page]]
    ) -> tuple[Page, int]:
        try:
            page = await make()
        except KeyError:  # it is not there any more
            self._drop(key)
            raise
        finally:
            del self.made[key]
        if revision == self.revision or self.stale_seconds:
            self._drop(key)
            since = math.inf if revision == self.revision else time.monotonic()
            self.pages[key] = _Kept(page, revision, since)
            self.size += len(page.body) + len(page.packed)
            while len(self.pages) > self.most or self.size > self.num_bytes:
                self._drop(next(iter(self.pages)))
        return page, revision

    def _drop(self, key: Key) -> None:
        kept = self.pages.pop(key, None)
        if kept is not None:
            self.size -= len(kept.page.body) + len(kept.page.packed)


def _seen(task: asyncio.Task[tuple[Page, int]]) -> None:
    """Whoever waited saw the error; where nobody did, it is nobody's."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True)
class _Address:
    """What an address was answered with."""

    kept: Kept
    key: Key
    media_type: str
    name: str
    route: object


class Answers:
    """The kept answers of one application, who makes them, and which address has which."""

    def __init__(
        self, maker: Maker, *, shelf: Shelf | None = None, stale_seconds: float = 0.0
    ) -> None:
        self.maker = maker
        self.shelf = shelf
        self.kept = Kept(stale_seconds=stale_seconds)
        self.searched = Kept(64, 32 << 20)
        self._addresses: OrderedDict[tuple[bytes, bytes], _Address] = OrderedDict()

    async def made(self, make: Make, *, later: bool = False, who: str = "") -> Page:
        """A page that is not kept."""
        try:
            return await asyncio.wrap_future(self.maker.ask(make, later=later, who=who))
        except Busy as error:
            raise HTTPException(503, str(error), {"retry-after": "5"}) from None

    async def get(
        self,
        service: Service,
        key: Key,
        make: Make,
        *,
        free: bool,
        patient: bool,
        who: str = "",
    ) -> Page:
        """A public page, from memory, from disk, or made."""
        kept = self.searched if free else self.kept

        async def new() -> Page:
            if free or self.shelf is None:
                return await self.made(make, later=free, who=who)
            stamp, page = await asyncio.to_thread(self._from_shelf, service, key)
            if page is None:
                page = await self.made(make, who=who)
                if page.packed:
                    await asyncio.to_thread(self.shelf.put, stamp, key, page.packed)
            return page

        return await kept.get(service.library.revision(), key, new, patient=patient)

    def _from_shelf(self, service: Service, key: Key) -> tuple[str, Page | None]:
        assert self.shelf is not None
        stamp = service.store.stamp()
        packed = self.shelf.get(stamp, key)
        if packed is None:
            return stamp, None
        body = gzip.decompress(packed)
        return stamp, Page(body, packed, tag_of(body))

    def remember(self, scope: Scope, address: _Address) -> None:
        """That an address, byte for byte, was answered by a route with what this key has."""
        raw = scope.get("raw_path") or b"", scope.get("query_string", b"")
        if len(raw[0]) + len(raw[1]) <= MAX_REMEMBERED and _is_plain(scope):
            self._addresses[raw] = address
            while len(self._addresses) > MOST_ADDRESSES:
                self._addresses.popitem(last=False)

    def at_once(self, scope: Scope, service: Service) -> Response | None:
        """The answer to an address that a route has answered before, if that is kept and new.

        For requests without a body, a cookie and a token, which are answered alike.
        """
        address = self._addresses.get(
            (scope.get("raw_path") or b"", scope.get("query_string", b""))
        )
        if address is None or scope["method"] != "GET" or not _is_plain(scope):
            return None
        page = address.kept.now(service.library.revision(), address.key)
        if page is None:
            return None
        scope["route"] = address.route
        headers = dict(scope["headers"])
        return answer_of(
            page,
            headers.get(b"accept-encoding", b"").decode("latin-1"),
            headers.get(b"if-none-match", b"").decode("latin-1"),
            media_type=address.media_type,
            name=address.name,
        )


def _is_plain(scope: Scope) -> bool:
    return not any(name in PLAIN for name, _ in scope["headers"])


async def public(
    request: Request,
    service: Service,
    key: Key,
    make: Make,
    *,
    media_type: str = HTML,
    free: bool = False,
    name: str = "",
) -> Response:
    """An answer that is the same for everybody, kept until the board changes.

    `make` is a function of the service that can be pickled. `free`: the key holds words of the
    reader's own (a search), of which there are endlessly many; they have a small cache of their
    own, so that nobody can push the ordinary pages out.
    """
    answers: Answers = request.app.state.answers
    patient = not _is_plain(request.scope)
    who = request.client.host if request.client is not None else ""
    try:
        page = await answers.get(service, key, make, free=free, patient=patient, who=who)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None
    kept = answers.searched if free else answers.kept
    route = request.scope.get("route")
    answers.remember(request.scope, _Address(kept, key, media_type, name, route))
    accepted = request.headers.get("accept-encoding", "")
    known = request.headers.get("if-none-match", "")
    return answer_of(page, accepted, known, media_type=media_type, name=name)


def answer_of(page: Page, accepted: str, known: str, *, media_type: str, name: str) -> Response:
    """A page as an answer, compressed where that is accepted; 304 where its tag is known."""
    headers = {"etag": page.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if name:
        headers["content-disposition"] = f'attachment; filename="{name}"'
    if page.tag in known:
        return Response(status_code=304, headers=headers)
    if page.packed and _takes_gzip(accepted):
        headers["content-encoding"] = "gzip"
        return Response(page.packed, media_type=media_type, headers=headers)
    return Response(page.body, media_type=media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding names gzip and does not forbid it."""
    for entry in accepted.split(","):
        name, _, quality = entry.partition(";")
        if name.strip().lower() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def private(made: str | Page, status: int = 200) -> Response:
    """A page for whoever is logged in."""
    body = made.body if isinstance(made, Page) else made
    return HTMLResponse(body, status_code=status, headers={"cache-control": "no-store"})


__all__ = ["HTML", "JSON", "Answers", "Kept", "Page", "finished", "private", "public"]
