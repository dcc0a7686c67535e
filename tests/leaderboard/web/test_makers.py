"""The process that makes pages: what it answers, and what happens when it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from leaderboard.board.boards import View
from leaderboard.database.store import Store
from leaderboard.published.literature import put_references
from leaderboard.service.service import Service
from leaderboard.web import makers
from leaderboard.web.links import LINKS
from leaderboard.web.makers import Busy, Forked, Page, ProcessMaker, finished
from leaderboard.web.texts import board_text
from pipelines.storage.local import LocalStore

WAIT = 300.0  # seconds; a process on a busy machine reads its libraries for a while


def pid_of(service: Service) -> str:
    """A page that says which process made it."""
    return str(os.getpid())


def ends(service: Service) -> str:
    """A page that kills whoever makes it."""
    os._exit(3)


def never(make: object, *, later: bool = False, who: str = "") -> Future[Page]:
    """A page that nobody makes."""
    return Future()


def odd(service: Service) -> str:
    raise ValueError("an odd row")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("makers")
    store = Store(f"sqlite:///{folder}/board.db")
    put_references(store)
    yield Service(store, LocalStore(folder / "files"))
    store.close()


@pytest.fixture(scope="module")
def maker(service: Service) -> Iterator[ProcessMaker]:
    made = ProcessMaker(service.store.url, service.files.uri)
    yield made
    made.close()


def test_a_page_is_the_same_whoever_makes_it(service: Service, maker: ProcessMaker) -> None:
    board = service.library.boards()[0]
    key = (board.benchmark, board.scale, board.track)
    make = partial(board_text, board=key, view=View(), link=LINKS)
    assert maker.ask(make).result(WAIT) == finished(make(service))
    absent = partial(board_text, board=("dclm", "no", "such"), view=View(), link=LINKS)
    with pytest.raises(KeyError, match="there is no board dclm no such"):
        maker.ask(absent).result(WAIT)


def test_a_process_that_ends_is_replaced(maker: ProcessMaker) -> None:
    first = maker.ask(pid_of).result(WAIT).body
    assert int(first) != os.getpid()
    with pytest.raises(Busy, match="ended"):
        maker.ask(ends).result(WAIT)
    assert maker.ask(pid_of).result(WAIT).body != first


def test_it_is_ready_once_its_process_has_prepared_the_boards(maker: ProcessMaker) -> None:
    until = time.monotonic() + WAIT
    while not maker.ready():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_is_ready_after_a_while_whatever_its_process_does(
    maker: ProcessMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "_ready", False)
    monkeypatch.setattr(maker, "ask", never)
    monkeypatch.setattr(makers, "READY_PATIENCE", 0.01)
    assert not maker.ready()
    assert not maker.ready()  # one question at a time
    monkeypatch.setattr(maker, "_begun", time.monotonic() - makers.READY_SECONDS - 1)
    assert maker.ready()
    monkeypatch.setattr(maker, "_asked", None)


def test_an_error_comes_back_and_the_process_stays(maker: ProcessMaker) -> None:
    before = maker.ask(pid_of).result(WAIT)
    with pytest.raises(RuntimeError, match="an odd row"):
        maker.ask(odd).result(WAIT)
    assert maker.ask(pid_of).result(WAIT) == before


def test_too_many_pages_are_refused_and_searches_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaderboard.web.makers.MOST_WAITING", 2)
    made: list[str] = []

    def note(self: ProcessMaker, make: object) -> object:
        made.append(str(make))
        return finished("page")

    go = threading.Event()  # nothing is made before all three were asked for
    monkeypatch.setattr("leaderboard.web.makers.Spawned", lambda *_: go.wait(60))
    monkeypatch.setattr("leaderboard.web.makers.START_SECONDS", 0.0)
    monkeypatch.setattr(ProcessMaker, "_made", note)
    monkeypatch.setattr(ProcessMaker, "_end", lambda self: None)
    busy = ProcessMaker(f"sqlite:///{tmp_path / 'board.db'}", str(tmp_path))
    search = busy.ask("a search", later=True)  # type: ignore[arg-type]
    page = busy.ask("a page")  # type: ignore[arg-type]
    with pytest.raises(Busy, match="too many pages"):
        busy.ask("one more")  # type: ignore[arg-type]
    go.set()
    search.result(WAIT)
    page.result(WAIT)
    busy.close()
    assert made == ["a page", "a search"]


def test_one_asker_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaderboard.web.makers.MOST_EACH", 3)
    made: list[str] = []

    def note(self: ProcessMaker, make: object) -> object:
        made.append(str(make))
        return finished("page")

    go = threading.Event()  # nothing is made before all were asked for
    monkeypatch.setattr("leaderboard.web.makers.Spawned", lambda *_: go.wait(60))
    monkeypatch.setattr("leaderboard.web.makers.START_SECONDS", 0.0)
    monkeypatch.setattr(ProcessMaker, "_made", note)
    monkeypatch.setattr(ProcessMaker, "_end", lambda self: None)
    busy = ProcessMaker(f"sqlite:///{tmp_path / 'board.db'}", str(tmp_path))
    asked = [busy.ask(f"greedy {k}", who="a") for k in range(3)]  # type: ignore[arg-type]
    with pytest.raises(Busy, match="you wait for too many"):
        busy.ask("greedy 3", who="a")  # type: ignore[arg-type]
    asked += [busy.ask(f"stranger {k}", who="b") for k in range(2)]  # type: ignore[arg-type]
    go.set()
    for page in asked:
        page.result(WAIT)
    assert made == ["greedy 0", "stranger 0", "greedy 1", "stranger 1", "greedy 2"]
    asked = [busy.ask("again", who="a")]  # type: ignore[arg-type]
    asked[0].result(WAIT)
    busy.close()


def test_no_copy_is_made_of_a_process_with_threads() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    with pytest.raises(RuntimeError, match="threads already"):
        Forked(lambda *_: None)
    go.set()
    thread.join()


def test_the_database_s_address_is_in_no_argument(service: Service, maker: ProcessMaker) -> None:
    number = int(maker.ask(pid_of).result(WAIT).body)
    arguments = Path(f"/proc/{number}/cmdline").read_text()
    assert "leaderboard.web.maker" in arguments
    assert service.store.url not in arguments
