"""What is kept, how old it may be, and which addresses are answered at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from leaderboard.service.service import Service
from leaderboard.web.answers import Answers, Kept, Page, _Address
from leaderboard.web.makers import Make, finished
from leaderboard.web.shelf import Shelf


class Slow:
    """Makes a page when its event is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Event()

    async def __call__(self) -> Page:
        self.calls += 1
        number = self.calls
        await self.go.wait()
        return finished(f"page {number}")


def test_one_page_is_made_however_many_wait_for_it() -> None:
    async def run() -> None:
        kept, make = Kept(), Slow()
        waiting = [asyncio.create_task(kept.get(1, ("a",), make)) for _ in range(5)]
        await asyncio.sleep(0)
        make.go.set()
        pages = await asyncio.gather(*waiting)
        assert make.calls == 1
        assert {page.body for page in pages} == {b"page 1"}

    asyncio.run(run())


def test_an_old_page_is_served_while_the_new_one_is_made_and_no_longer() -> None:
    async def run() -> None:
        kept, make = Kept(stale_seconds=100), Slow()
        make.go.set()
        assert (await kept.get(1, ("a",), make)).body == b"page 1"
        make.go.clear()
        assert (await kept.get(2, ("a",), make)).body == b"page 1"  # the new one is on its way
        make.go.set()
        await asyncio.sleep(0.01)
        assert (await kept.get(2, ("a",), make)).body == b"page 2"
        assert make.calls == 2

    asyncio.run(run())


def test_a_page_that_is_too_old_is_waited_for() -> None:
    async def run() -> None:
        kept, make = Kept(stale_seconds=100), Slow()
        make.go.set()
        await kept.get(1, ("a",), make)
        kept._advance(2)
        kept.pages["a",].old_since -= 101
        assert (await kept.get(2, ("a",), make)).body == b"page 2"

    asyncio.run(run())


def test_whoever_is_logged_in_waits_for_the_new_page() -> None:
    async def run() -> None:
        kept, make = Kept(stale_seconds=100), Slow()
        make.go.set()
        await kept.get(1, ("a",), make)
        assert (await kept.get(2, ("a",), make, patient=True)).body == b"page 2"

    asyncio.run(run())


def test_a_page_that_is_gone_is_not_served_from_memory() -> None:
    async def taken_off() -> Page:
        raise KeyError("it was taken off")

    async def run() -> list[str]:
        kept, make = Kept(stale_seconds=100), Slow()
        make.go.set()
        await kept.get(1, ("a",), make)
        texts = []
        for _ in range(2):
            try:
                await kept.get(2, ("a",), taken_off)
            except KeyError as error:
                texts.append(str(error.args[0]))
        return texts

    assert asyncio.run(run()) == ["it was taken off"] * 2


def test_kept_pages_have_a_bound_in_number_and_in_bytes() -> None:
    async def run() -> None:
        kept = Kept(3, 1000)
        for number in range(10):

            async def make() -> Page:
                return Page(b"x" * 400, b"", "")

            await kept.get(1, (number,), make)
            assert kept.size == 400 * len(kept.pages) <= 1000
        assert list(kept.pages) == [(8,), (9,)]

        async def large() -> Page:
            return Page(b"x" * 2000, b"", "")

        assert len((await kept.get(1, ("large",), large)).body) == 2000
        assert kept.size == 0

    asyncio.run(run())


class Once:
    """A maker that counts."""

    def __init__(self) -> None:
        self.made: list[Make] = []

    def ask(self, make: Make, *, later: bool = False, who: str = "") -> Future[Page]:
        self.made.append(make)
        page: Future[Page] = Future()
        page.set_result(finished(make(cast(Service, None))))
        return page

    def close(self) -> None:
        pass


def _service(stamp: str) -> Any:
    return SimpleNamespace(
        store=SimpleNamespace(stamp=lambda: stamp), library=SimpleNamespace(revision=lambda: 7)
    )


def test_a_page_on_the_shelf_is_made_by_nobody(tmp_path: Path) -> None:
    text = "long " * 1000
    makers = [Once(), Once(), Once()]
    for maker, stamp in zip(makers, ("a", "a", "b"), strict=True):
        answers = Answers(maker, shelf=Shelf(tmp_path))
        get = answers.get(_service(stamp), ("k",), lambda _: text, free=False, patient=False)
        page = asyncio.run(get)
        assert page == finished(text)
    assert [len(maker.made) for maker in makers] == [1, 0, 1]


def _scope(path: bytes, *headers: tuple[bytes, bytes], method: str = "GET") -> dict[str, Any]:
    return {"method": method, "raw_path": path, "query_string": b"", "headers": list(headers)}


def test_an_address_is_answered_at_once_only_byte_for_byte_and_without_a_name() -> None:
    async def run() -> None:
        answers, service = Answers(Once()), _service("a")
        await answers.get(service, ("k",), lambda _: "page", free=False, patient=False)
        address = _Address(answers.kept, ("k",), "text/html", "", None)
        answers.remember(_scope(b"/boards/a"), address)
        answers.remember(_scope(b"/with/cookie", (b"cookie", b"a=b")), address)
        answers.remember(_scope(b"/" + b"a" * 400), address)
        ready = answers.at_once(_scope(b"/boards/a"), service)
        assert ready is not None
        assert ready.body == b"page"
        for scope in (
            _scope(b"/boards/%61"),
            _scope(b"/boards/a", (b"cookie", b"a=b")),
            _scope(b"/boards/a", (b"authorization", b"Bearer x")),
            _scope(b"/boards/a", (b"content-length", b"9")),
            _scope(b"/boards/a", method="POST"),
            _scope(b"/with/cookie"),
            _scope(b"/" + b"a" * 400),
        ):
            assert answers.at_once(scope, service) is None
        service.library.revision = lambda: 8
        assert answers.at_once(_scope(b"/boards/a"), service) is None

    asyncio.run(run())
