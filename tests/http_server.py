"""A web server of a folder on loopback, with ranges and ETags; it can be made to misbehave."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class WebServer:
    """Serves `folder`. `faults` are taken one a GET: a status, or "cut" to break off half-way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str, str | None]] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = served.respond_to_post(self.path, sent)
                status, data, headers = (404, b"", {}) if answer is None else answer
                self._send(status, data, body=True, headers=headers)

            def _answer(self, *, body: bool) -> None:
                served.requests.append((self.command, self.path, self.headers.get("Range")))
                path = served.respond(self.path)
                if isinstance(path, tuple):
                    status, data, headers = path
                    self._send(status, data, body=body, headers=headers)
                    return
                if path is None or not path.is_file():
                    self._send(404, b"", body=body)
                    return
                fault = served.faults.pop(0) if body and served.faults else None
                if isinstance(fault, int):
                    self._send(fault, b"", body=body)
                    return
                data = path.read_bytes()
                etag = f'"{hashlib.md5(data).hexdigest()}"'
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                status = 200
                if asked:
                    data, status = data[int(asked[1]) : int(asked[2]) + 1], 206
                size = path.stat().st_size
                headers = {"ETag": etag, "X-Repo-Commit": "0" * 40}
                if asked:
                    headers["Content-Range"] = f"bytes {asked[1]}-{asked[2]}/{size}"
                self._send(status, data, body=body, headers=headers, cut=fault == "cut")

            def _send(
                self,
                status: int,
                data: bytes,
                *,
                body: bool,
                headers: dict[str, str] | None = None,
                cut: bool = False,
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def respond_to_post(self, path: str, sent: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        """None: nothing is taken here."""
        return None

    def respond(self, path: str) -> tuple[int, bytes, dict[str, str]] | Path | None:
        """The file behind a path, or status, body and headers."""
        return self.folder / unquote(path).lstrip("/")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
