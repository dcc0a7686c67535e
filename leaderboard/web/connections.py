"""Connections that may not wait for ever: time for a request's head, and a number for each address.

uvicorn bounds keep-alive, not how long a client may take to send the head of a request; two hundred
half-open connections can use up every file descriptor. This protocol closes a connection whose
request line and headers are not there in time, and refuses more than so many at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's first line and headers
MOST = 1024  # connections of this process
MOST_EACH = 64  # of one address that is neither this machine nor a trusted proxy

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(addresses: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks in CIDR form. ValueError names one that is neither."""
    return tuple(ipaddress.ip_network(address.strip(), strict=False) for address in addresses)


def bounded(
    *,
    head_seconds: float = HEAD_SECONDS,
    most: int = MOST,
    most_each: int = MOST_EACH,
    trusted: tuple[Network, ...] = (),
) -> type[H11Protocol]:
    """The protocol class of a server with these limits."""
    near = (*networks(["127.0.0.0/8", "::1"]), *trusted)
    here: Counter[str] = Counter()

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _address = ""

        def connection_made(self, transport: Any) -> None:
            peer = transport.get_extra_info("peername")
            self._address = peer[0] if peer else ""
            here[self._address] += 1
            super().connection_made(transport)
            many = here[self._address] > most_each and not self._is_near()
            if here.total() > most or many:
                transport.abort()
                return
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()  # a request is there and runs
            elif self._timer is None:
                self._wait_for_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle is None or self.cycle.response_complete:
                self._stop_waiting()  # keep-alive has a time of its own

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            here[self._address] -= 1
            if here[self._address] <= 0:
                del here[self._address]
            super().connection_lost(exc)

        def _is_near(self) -> bool:
            try:
                address = ipaddress.ip_address(self._address)
            except ValueError:
                return True  # a socket in the file system
            return any(address in network for network in near)

        def _wait_for_head(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(head_seconds, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Bounded
