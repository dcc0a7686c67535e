"""WARC records made in tests, and how tests read them."""

from __future__ import annotations

import gzip
import io

from pipelines.formats.warc import Extracted, ExtractOptions, documents

OPTIONS = ExtractOptions()


def record(
    block: bytes, *, kind: str = "response", url: str = "https://example.org/", length: int = -1
) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
    head += f"Content-Length: {len(block) if length < 0 else length}\r\n\r\n"
    return head.encode() + block + b"\r\n\r\n"


def http(
    body: bytes, *, status: str = "200 OK", content_type: str | None = "text/html", extra: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\n{extra}"
    if content_type is not None:
        head += f"Content-Type: {content_type}\r\n"
    return head.encode() + b"\r\n" + body


def html(text: str) -> bytes:
    return f"<html><body><p>{text}</p></body></html>".encode()


def read(data: bytes, options: ExtractOptions = OPTIONS) -> list[Extracted]:
    return list(documents(io.BytesIO(data), options=options))


def only(block: bytes, options: ExtractOptions = OPTIONS) -> tuple[str | None, str | None]:
    """Text and reason of the single page of a file."""
    [pages] = read(gzip.compress(record(block)), options)
    return pages.text, pages.reason
