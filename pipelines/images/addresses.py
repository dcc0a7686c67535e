"""Which URLs may be fetched: public addresses only, checked again once the name is resolved."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from yarl import URL

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
LOOKUP_THREADS = 64  # names looked up at a time: the system's resolver blocks a thread for each
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_COMPATIBLE = ipaddress.ip_network("::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The only IPv6 range allocated for public use; site-local and similar ranges are outside."""
_NOT_PUBLIC = (
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4, withdrawn (RFC 7526)
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's own server, reached from inside only
    ipaddress.ip_network("3fff::/20"),  # documentation (RFC 9637)
)
_HOST = re.compile(r"^(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
_LEGAL = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?[]@!$&'()*+,;="
)


class FetchError(Exception):
    """A URL that could not be fetched.

    `reason` is the word that it is counted by, `again` whether a retry may help, `after` the
    seconds that the server asks to wait before one, `crowded` whether the server was busy with
    other addresses of ours.
    """

    crowded = False

    def __init__(
        self, reason: str, detail: str = "", *, again: bool = False, after: float | None = None
    ) -> None:
        super().__init__(detail or reason)
        self.reason, self.again, self.after = reason, again, after


def refused(address: str) -> bool:
    """Whether an IP address, or the IPv4 address embedded in it, is not on the public internet."""
    try:
        ip: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _inside(ip)
        if inner is not None:
            return refused(str(inner))
        if ip not in _GLOBAL_UNICAST:
            return True
    if any(ip.version == range.version and ip in range for range in _NOT_PUBLIC):
        return True
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address embedded in an IPv6 address (mapped, 6to4, Teredo, NAT64), or None."""
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
    """The parsed URL. FetchError for a malformed one, another scheme, no host or a private IP.

    A numeric host is checked here, a name when it is looked up.
    """
    try:
        parsed = as_written(url)
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


def as_written(url: str) -> URL:
    """A URL whose path and query are sent to the server as they were written.

    Only characters not allowed in a request line are escaped: blanks, control characters, letters
    beyond ASCII, a percent sign without two hex digits. Existing escapes are not changed, because
    signed URLs are signatures over these bytes. ValueError for a malformed URL.
    """
    url = url.strip()
    parsed = URL(url)  # the host: names beyond ASCII, ports, brackets
    match = _HOST.match(url)
    if match is None or parsed.raw_host is None:
        return parsed
    target = escaped(match[3])
    if not target.startswith("/"):
        target = f"/{target}"
    return URL(f"{parsed.scheme}://{parsed.raw_authority}{target}", encoded=True)


def escaped(target: str) -> str:
    """Path and query with only the characters escaped that a request line does not allow."""
    data = target.encode("utf-8", "surrogateescape")
    parts = []
    for position, byte in enumerate(data):
        keep = byte in _LEGAL
        if byte == 0x25:  # a percent sign
            keep = re.match(rb"[0-9A-Fa-f]{2}", data[position + 1 : position + 3]) is not None
        parts.append(chr(byte) if keep else f"%{byte:02X}")
    return "".join(parts)


class Lookup:
    """A resolver for aiohttp. FetchError if a name has an address that is not public."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._allow = allow
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_UNSPEC
    ) -> list[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._threads, look_up, host, port, family)
        except (OSError, UnicodeError) as error:
            again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
            raise FetchError("no_such_host", f"{host}: {error}", again=again) from None
        checked = []
        for kind, _, proto, _, socket_address in addresses:
            address = str(socket_address[0])
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
    """Addresses from the system's resolver; a separate function so that tests can replace it."""
    return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
