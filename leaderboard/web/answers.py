"""Answers that are kept: a cache of public pages and of the board as JSON, compressed once."""

from __future__ import annotations

import asyncio
import gzip
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from leaderboard.service.service import Service
from leaderboard.web.access import tag_of
from leaderboard.web.links import Links

LINKS = Links()
HTML = "text/html; charset=utf-8"
JSON = "application/json"
SMALL = 1400  # bytes that fit into one packet are not worth compressing
Key = tuple[object, ...]

# Pages are made in pure Python, so more threads make none sooner; they only keep the thread that
# answers requests waiting, 5 ms for each that runs.
_MAKERS = ThreadPoolExecutor(2, "page")


@dataclass(frozen=True)
class Page:
    """A finished answer."""

    body: bytes
    packed: bytes
    tag: str


class Kept:
    """Finished answers by a key of validated names, until the board changes.

    Used from the event loop alone; a page is made once, in a thread, whoever waits for it. Bounded
    in number and in bytes. A key never holds text of an address that no route has parsed.
    """

    def __init__(self, most: int = 512, num_bytes: int = 128 << 20) -> None:
        self.most = most
        self.num_bytes = num_bytes
        self.size = 0
        self.revision = -1
        self.pages: OrderedDict[Key, Page] = OrderedDict()
        self.made: dict[Key, asyncio.Task[Page]] = {}

    async def get(self, revision: int, key: Key, make: Callable[[], str | bytes]) -> Page:
        """The page of a key, made now if it is not kept."""
        if revision != self.revision:
            self.pages.clear()
            self.made.clear()
            self.size = 0
            self.revision = revision
        if (page := self.pages.get(key)) is not None:
            self.pages.move_to_end(key)
            return page
        task = self.made.get(key)
        if task is None:
            task = asyncio.create_task(_in_thread(make))
            self.made[key] = task
        try:
            page = await asyncio.shield(task)
        finally:
            if task.done() and self.made.get(key) is task:
                del self.made[key]
        if revision == self.revision and key not in self.pages:
            self.pages[key] = page
            self.size += len(page.body) + len(page.packed)
            while len(self.pages) > self.most or self.size > self.num_bytes:
                _, old = self.pages.popitem(last=False)
                self.size -= len(old.body) + len(old.packed)
        return page


async def _in_thread(make: Callable[[], str | bytes]) -> Page:
    return await asyncio.get_running_loop().run_in_executor(_MAKERS, _finished, make)


def _finished(make: Callable[[], str | bytes]) -> Page:
    made = make()
    body = made.encode() if isinstance(made, str) else made
    packed = gzip.compress(body, 5, mtime=0) if len(body) > SMALL else b""
    return Page(body, packed, tag_of(body))


async def public(
    request: Request,
    service: Service,
    key: Key,
    make: Callable[[], str | bytes],
    *,
    media_type: str = HTML,
    free: bool = False,
    name: str = "",
) -> Response:
    """An answer that is the same for everybody, kept until the board changes.

    `free`: the key holds words of the reader's own (a search), of which there are endlessly many;
    they have a small cache of their own, so that nobody can push the ordinary pages out.
    """
    kept: Kept = request.app.state.searched if free else request.app.state.kept
    try:
        page = await kept.get(service.library.revision(), key, make)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None
    headers = {"etag": page.tag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if name:
        headers["content-disposition"] = f'attachment; filename="{name}"'
    if page.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if page.packed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(page.packed, media_type=media_type, headers=headers)
    return Response(page.body, media_type=media_type, headers=headers)


def private(text: str, status: int = 200) -> Response:
    """A page for whoever is logged in."""
    return HTMLResponse(text, status_code=status, headers={"cache-control": "no-store"})
