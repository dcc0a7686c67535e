"""Answers that are kept: a cache of rendered public pages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from leaderboard.service.service import Service
from leaderboard.web import views
from leaderboard.web.access import tag_of, tagged

LINKS = views.Links()


HTML = "text/html; charset=utf-8"


class Kept:
    """Finished pages with their tags by address, until the board changes.

    Used from the event loop alone; a page is made once, in a thread, whoever waits for it.
    """

    def __init__(self, most: int = 512) -> None:
        self.most = most
        self.revision = -1
        self.pages: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self.made: dict[str, asyncio.Task[tuple[bytes, str]]] = {}

    async def get(self, revision: int, address: str, make: Callable[[], str]) -> tuple[bytes, str]:
        if revision != self.revision:
            self.pages.clear()
            self.made.clear()
            self.revision = revision
        if (found := self.pages.get(address)) is not None:
            self.pages.move_to_end(address)
            return found
        task = self.made.get(address)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(_tagged, make))
            self.made[address] = task
        try:
            found = await asyncio.shield(task)
        finally:
            if task.done() and self.made.get(address) is task:
                del self.made[address]
        if revision == self.revision:
            self.pages[address] = found
            while len(self.pages) > self.most:
                self.pages.popitem(last=False)
        return found


def _tagged(make: Callable[[], str]) -> tuple[bytes, str]:
    body = make().encode()
    return body, tag_of(body)


async def public(request: Request, service: Service, make: Callable[[], str]) -> Response:
    """A page that is the same for everybody, kept until the board changes."""
    kept: Kept = request.app.state.kept
    address = f"{request.url.path}?{request.url.query}"
    try:
        body, tag = await kept.get(service.library.revision(), address, make)
    except KeyError as error:
        raise HTTPException(404, str(error.args[0])) from None
    return tagged(request, body, HTML, tag=tag)


def private(text: str, status: int = 200) -> Response:
    """A page for whoever is logged in."""
    return HTMLResponse(text, status_code=status, headers={"cache-control": "no-store"})
