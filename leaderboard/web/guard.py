"""What runs before every route: limits, headers, request ids, the log and the metrics.

`BodyLimit` bounds a body in bytes and in time. `Observed` gives each request an id, answers what
cannot be an address of ours, bounds how many requests run at once, serves HEAD by GET, adds the
headers that keep a browser safe, writes one line of JSON to the log and counts for Prometheus.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from threading import Lock

import orjson
from fastapi import Response
from fastapi.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leaderboard.web.access import HEADERS, SMALL_BODY, problem

UPLOADS = ("/api/v1/submissions", "/submit")
PROGRAMS = ("/api/", "/healthz", "/readyz", "/livez", "/metrics", "/openapi.json")
CONTROL = re.compile(rb"%(?:0[0-9a-f]|1[0-9a-f]|7f)|[\x00-\x1f\x7f]", re.IGNORECASE)
MAX_ADDRESS = 8 << 10  # bytes of path and query
CHUNK_SECONDS = 30.0  # a body that gives nothing for so long is over
LEAST_RATE = 10 << 10  # bytes a second of an upload, after its first minute
MAX_REQUESTS = 512  # at once
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

access = logging.getLogger("leaderboard.access")


def for_program(path: str) -> bool:
    """Whether an answer is read by a program: errors are JSON there, and pages elsewhere."""
    return path.startswith(PROGRAMS)


def error_answer(path: str, status: int, text: str) -> Response:
    """An error as JSON for programs and as a page for browsers, with all headers."""
    if for_program(path):
        return problem(status, text)
    from leaderboard.web import views
    from leaderboard.web.links import Links

    page = views.form_page(
        "error.html",
        Links(),
        status=status,
        heading=HEADINGS.get(status, "This did not work"),
        message=text,
    )
    return HTMLResponse(page, status_code=status, headers=dict(HEADERS))


HEADINGS = {
    400: "This is not an address",
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    410: "Taken off",
    413: "Too long",
    422: "This cannot be read",
    429: "Too often",
    500: "An error of ours",
    503: "Not now",
    507: "No space left",
}


class Limited(Exception):
    """The body is longer, or slower, than it may be."""


class BodyLimit:
    """Counts a request's body while it is read, and stops reading at its limit or its time."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, seconds: float = CHUNK_SECONDS) -> None:
        self.app = app
        self.upload_bytes = upload_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.upload_bytes if scope["path"] in UPLOADS else SMALL_BODY
        length = dict(scope["headers"]).get(b"content-length", b"0")
        begin = time.monotonic()
        num_bytes = 0
        whole = False
        status, reason = 413, f"the body is longer than the {most:,} bytes it may have"
        started = False

        async def counted() -> Message:
            nonlocal num_bytes, whole, status, reason
            if whole:  # the body is here: what comes is the end of the connection, at any time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.seconds)
            except TimeoutError:
                status, reason = 408, f"nothing of the body came for {self.seconds:g} seconds"
                raise Limited from None
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                late = time.monotonic() - begin - 2 * self.seconds
                if num_bytes > most:
                    raise Limited
                if not whole and late > num_bytes / LEAST_RATE:
                    status, reason = 408, f"the body comes slower than {LEAST_RATE:,} bytes/s"
                    raise Limited
            return message

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if length.isdigit() and int(length) > most:
                raise Limited
            await self.app(scope, counted, noting)
        except Limited:
            if started:
                raise
            answer = error_answer(scope["path"], status, reason)
            answer.headers["connection"] = "close"
            await answer(scope, receive, send)


class Metrics:
    """Requests by route and status, and their seconds, of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.buckets: Counter[tuple[str, float]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.active = 0

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Add one request."""
        with self._lock:
            self.requests[method, route, status] += 1
            self.seconds[route] += seconds  # type: ignore[assignment]
            for bound in BUCKETS:
                if seconds <= bound:
                    self.buckets[route, bound] += 1

    def lines(self) -> Iterator[str]:
        """In the text format of Prometheus."""
        with self._lock:
            requests, buckets = dict(self.requests), dict(self.buckets)
            seconds = dict(self.seconds)
        yield "# TYPE leaderboard_requests_total counter"
        for (method, route, status), number in sorted(requests.items()):
            labels = f'method="{method}",route="{_label(route)}",status="{status}"'
            yield f"leaderboard_requests_total{{{labels}}} {number}"
        yield "# TYPE leaderboard_request_seconds histogram"
        for route in sorted(seconds):
            total = sum(number for (_, of, _), number in requests.items() if of == route)
            name = f'route="{_label(route)}"'
            for bound in BUCKETS:
                number = buckets.get((route, bound), 0)
                yield f'leaderboard_request_seconds_bucket{{{name},le="{bound:g}"}} {number}'
            yield f'leaderboard_request_seconds_bucket{{{name},le="+Inf"}} {total}'
            yield f"leaderboard_request_seconds_sum{{{name}}} {seconds[route]:.6f}"
            yield f"leaderboard_request_seconds_count{{{name}}} {total}"
        yield "# TYPE leaderboard_requests_active gauge"
        yield f"leaderboard_requests_active {self.active}"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _at_once(scope: Scope) -> Response | None:
    """A kept page, without a way through routes and middleware."""
    state = scope["app"].state
    ready: Response | None = state.answers.at_once(scope, state.service)
    return ready


class Observed:
    """The outermost layer of our own."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        hosts: tuple[str, ...] = (),
        most: int = MAX_REQUESTS,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.hosts = frozenset(hosts)
        self.most = most
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = scope["method"]
        id_ = secrets.token_hex(8)
        begin = time.perf_counter()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name for name, _ in message["headers"]}
                more = [pair for pair in self.headers if pair[0] not in there]
                message["headers"] = [*message["headers"], *more, (b"x-request-id", id_.encode())]
            elif asked == "HEAD" and message["type"] == "http.response.body":
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                if self._headed(scope):
                    return
            await send(message)

        if asked == "HEAD":
            scope["method"] = "GET"
        self.metrics.active += 1
        try:
            ready = self._refused(scope) or _at_once(scope)
            if ready is not None:
                await ready(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        finally:
            self.metrics.active -= 1
            seconds = time.perf_counter() - begin
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.count(asked, route, status, seconds)
            self._log(scope, asked, id_, status, seconds)

    @staticmethod
    def _headed(scope: Scope) -> bool:
        """Whether the empty body of a HEAD was sent already."""
        before: bool = scope.get("leaderboard.headed", False)
        scope["leaderboard.headed"] = True
        return before

    def _refused(self, scope: Scope) -> Response | None:
        path, raw = scope["path"], scope.get("raw_path") or b""
        if self.metrics.active > self.most and not path.startswith("/livez"):
            answer = error_answer(path, 503, "too many requests run at once; try again in a second")
            answer.headers["retry-after"] = "1"
            return answer
        query = scope.get("query_string", b"")
        if len(raw) + len(query) > MAX_ADDRESS:
            return error_answer("/api/", 414, f"an address has at most {MAX_ADDRESS:,} bytes")
        if CONTROL.search(raw) or CONTROL.search(query) or any(ord(c) < 32 for c in path):
            return error_answer(path, 400, "the address has control characters")
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # A proxy in front may have believed the other one (RFC 9112, 6.3).
            answer = error_answer(path, 400, "a request has a length or chunks, not both")
            answer.headers["connection"] = "close"
            return answer
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].lower()
        if self.hosts and host not in self.hosts and not path.startswith(PROGRAMS[1:5]):
            return error_answer(path, 400, "this host is served elsewhere")
        return None

    @staticmethod
    def _log(scope: Scope, method: str, id_: str, status: int, seconds: float) -> None:
        client = scope.get("client")
        line = {
            "request": id_,
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "address": client[0] if client else "",
        }
        access.info("%s", orjson.dumps(line).decode())
