"""A wrong address of a cluster is one error within a bounded time, whatever listens there."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from pipelines.execution import ray_address
from pipelines.execution.executors import WorkerLost
from pipelines.execution.ray_address import GREETING, check_cluster

HTTP_2 = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # a frame without settings, as a server may answer


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """The address of a server that answers the greeting so, or not at all."""
    end = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            if answer is None:
                end.wait()
                return
            assert connection.recv(len(GREETING)) == GREETING
            connection.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            end.set()
            socket.create_connection(server.getsockname()).close()  # or it may wait for a first
            thread.join()


def refused(address: str, problem: str) -> None:
    expected = rf"no Ray cluster at '{re.escape(address)}' \({problem}.*--cluster local"
    with pytest.raises(WorkerLost, match=expected):
        check_cluster(address)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the other process run this code instead of joining a cluster."""
    return lambda code: monkeypatch.setattr(ray_address, "DRIVER", code)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_server_that_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 0.05)
    with listener(None) as address:
        refused(scheme + address, r"no answer in 0\.05 s")


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(ray_address, "_greet", lambda *_: end.wait())
    refused("head.example:6379", r"no answer in 0\.05 s")
    end.set()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_of_another_kind_is_not_ray(answer: bytes) -> None:
    with listener(answer) as address:
        refused(address, "what listens there is not Ray")


def test_where_nothing_listens_the_reason_is_given() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    refused(address, r".*refused")


def test_a_server_that_lets_no_driver_join_is_given_up(
    monkeypatch: pytest.MonkeyPatch, driver: Callable[[str], None]
) -> None:
    """As a service of another kind does, or the port of Ray's client without `ray://`."""
    monkeypatch.setattr(ray_address, "CONNECT_SECONDS", 0.2)
    driver("import time; time.sleep(600)")
    with listener(HTTP_2) as address:
        refused(address, r"something answers there, but let no driver join in 0\.2 s")


def test_what_the_driver_says_is_the_reason(driver: Callable[[str], None]) -> None:
    driver("import sys; raise RuntimeError(f'Version mismatch\\n  at {sys.argv[1]}')")
    refused("auto", "RuntimeError: Version mismatch at auto")


def test_a_cluster_that_a_driver_can_join_is_accepted(driver: Callable[[str], None]) -> None:
    driver("pass")
    with listener(HTTP_2) as address:
        check_cluster(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("head:6379", ("head", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("ray://head", ("head", 10001)),
        ("ray://head:1/name", ("head", 1)),
        ("auto", ("", 0)),
        ("http://head:8265", ("", 0)),
        ("head", ("", 0)),
    ],
)
def test_host_and_port_are_read_where_ray_reads_them(
    address: str, expected: tuple[str, int]
) -> None:
    assert ray_address._host_and_port(address) == expected
