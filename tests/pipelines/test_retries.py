from __future__ import annotations

import pytest

from pipelines import retries
from pipelines.retries import Patience, hub_may_pass, passes, patiently


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries.time, "sleep", clock.sleep)
    monkeypatch.setattr(retries.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: 1.0)
    return clock


class Server:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.left, self.asked = failures, 0
        self.error = error or ConnectionError("reset")

    def __call__(self) -> str:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "answer"


def ask(server: Server, patience: Patience) -> str:
    return patiently(
        server,
        what="x",
        may_pass=lambda error: isinstance(error, ConnectionError),
        patience=lambda: patience,
    )


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    patience = Patience(tries=6, first_pause_seconds=1.0, longest_pause_seconds=5.0)
    assert ask(Server(5), patience) == "answer"
    assert clock.slept == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_error_itself_is_raised_after_the_last_try(clock: Clock) -> None:
    server = Server(9)
    with pytest.raises(ConnectionError, match="reset"):
        ask(server, Patience(tries=3))
    assert server.asked == 3
    assert len(clock.slept) == 2


def test_patience_in_seconds_ends_with_a_last_try(clock: Clock) -> None:
    server = Server(999)
    with pytest.raises(ConnectionError):
        ask(server, Patience(seconds=10.0, first_pause_seconds=4.0))
    assert clock.slept == [4.0, 6.0]
    assert server.asked == 3


def test_what_does_not_pass_is_raised_at_once(clock: Clock) -> None:
    server = Server(1, ValueError("wrong key"))
    with pytest.raises(ValueError, match="wrong key"):
        ask(server, Patience(tries=5))
    assert clock.slept == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520])
def test_statuses_that_pass(status: int) -> None:
    assert passes(status)


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 410, 501, 505])
def test_statuses_that_stay(status: int) -> None:
    assert not passes(status)


@pytest.mark.parametrize("module", ["httpx", "httpx2._exceptions"])
def test_a_lost_connection_of_the_hubs_client_may_pass(module: str) -> None:
    error = type("ConnectError", (Exception,), {"__module__": module})("unreachable")
    assert hub_may_pass(error)
    assert not hub_may_pass(ValueError("no"))
