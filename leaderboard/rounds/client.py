"""Send a bundle to a service, and wait until it says what it thinks of it."""

from __future__ import annotations

import http.client
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from pipelines.errors import RuleError
from pipelines.retries import BOARD, patiently

TOKEN = "LEADERBOARD_TOKEN"
OVER = ("needs_review", "accepted", "refused", "withdrawn")


GATEWAY = (502, 504)  # a proxy did not reach the service


class _NotReached(OSError):
    """The service was not reached, or stopped halfway."""


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError | http.client.HTTPException)


class ServiceError(RuleError):
    """The service refused, or could not be reached; the message is what it said."""


def send(bundle: Path, address: str, *, wait_seconds: float = 600.0, pause: float = 1.0) -> Any:
    """Send a bundle with the token in LEADERBOARD_TOKEN; returns its status once it is checked.

    Sending twice is one submission, so after a broken connection it is sent again automatically.
    ServiceError says what the service said.
    """
    token = os.environ.get(TOKEN)
    if not token:
        raise ServiceError(f"put the token that the maintainers gave you into {TOKEN}")
    with open(bundle, "rb") as file:
        status = _ask(address, "POST", "/api/v1/submissions", token, file, bundle.stat().st_size)
    until = time.monotonic() + wait_seconds
    while status["state"] not in OVER and time.monotonic() < until:
        time.sleep(pause)
        status = _ask(address, "GET", f"/api/v1/submissions/{status['id']}", token)
    return status


def _ask(
    address: str, method: str, path: str, token: str, body: Any = None, length: int = 0
) -> Any:
    parts = urlsplit(address)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise ServiceError(f"{address!r} is not an address of a service; write https://HOST")
    headers = {"Authorization": f"Bearer {token}"}
    if body is not None:
        headers |= {"Content-Type": "application/zip", "Content-Length": str(length)}

    def request() -> tuple[int, Any]:
        if body is not None:
            body.seek(0)
        connection = kinds[parts.scheme](str(parts.hostname), parts.port, timeout=120)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status in GATEWAY:
                raise _NotReached(f"{answer.status} {answer.reason}")
            return answer.status, orjson.loads(content)
        finally:
            connection.close()

    try:
        status, content = patiently(
            request, what=address, may_pass=_may_pass, patience=lambda: BOARD
        )
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
        raise ServiceError(f"{address} did not answer as the service does: {error}") from None
    if status >= 400:
        raise ServiceError(f"{address} refused it ({status}): {content.get('error')}")
    return content
