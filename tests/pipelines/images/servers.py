"""Servers on loopback for the tests of fetching."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipelines.images.fetch import FetchOptions, open_fetcher


class Inside:
    """A server on loopback that counts who connects, whatever they ask for."""

    def __init__(self) -> None:
        self.connections = 0
        inside = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                inside.connections += 1
                super().setup()

            def do_GET(self) -> None:
                inside.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.target = "/"
        self.failures = 0
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        body = b"body"
        if to.path == "/redirect":
            to.send_response(302)
            to.send_header("Location", self.target)
        elif to.path == "/endless":
            to.send_response(302)
            to.send_header("Location", "/endless")
        elif to.path == "/flaky" and self.failures < 2:
            self.failures += 1
            to.send_response(503)
        elif to.path == "/gone":
            to.send_response(404)
        elif to.path == "/robots":
            to.send_response(200)
            to.send_header("X-Robots-Tag", "noai, NoImageAI")
        elif to.path.startswith("/headers/"):
            to.send_response(200)
            for number in range(int(to.path.rpartition("/")[2])):
                to.send_header("Set-Cookie", f"a{number}=1")
        elif to.path == "/large":
            to.send_response(200)
            to.send_header("Content-Length", str(10**9))
        elif to.path == "/endless-body":
            to.send_response(200)
            body = b"x" * 300_000
        else:
            to.send_response(200)
        to.end_headers()
        to.wfile.write(body)


def fetch(url: str, **options: object) -> bytes:
    async def run() -> bytes:
        given = FetchOptions(timeout_seconds=5, **options)  # type: ignore[arg-type]
        async with open_fetcher(given) as fetcher, fetcher.body(url) as data:
            return data

    return asyncio.run(run())


def allowed(server: Inside) -> tuple[str, ...]:
    return (f"127.0.0.1:{server.port}",)
