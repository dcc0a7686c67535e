"""Decode HTTP bodies that a server compressed without being asked to, within a size limit.

Images are requested with `Accept-Encoding: identity`. Some servers compress anyway, and some
declare an encoding for a body that is not compressed: a body without the first bytes of the
declared encoding is returned unchanged.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pipelines.formats.inflate import zstd

MAX_LAYERS = 4  # honest servers send one or two
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PIECE = 1 << 16  # decoded bytes at a time, so that a decompression bomb is detected early
FEED = 1 << 12  # encoded bytes at a time
MAX_MEMBERS = 10_000  # of one body; servers send one


class TooLarge(ValueError):
    """A body that is larger than the limit once decoded."""


def undo(data: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """The body without its encodings, the last one applied first (RFC 9110, 8.4).

    `encoding` is the header's value, several names separated by commas; unknown names are ignored.
    TooLarge for a body beyond `max_bytes`; ValueError for a damaged body, too many encodings, or
    one without an installed decoder.
    """
    layers = [word.strip().lower() for word in encoding.split(",")]
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"{len(layers)} encodings, at most {MAX_LAYERS} are undone")
    for layer in reversed(layers):
        if layer in ("gzip", "x-gzip"):
            data = _inflated(data, 31, max_bytes) if data.startswith(GZIP_MAGIC) else data
        elif layer == "deflate":
            data = _deflated(data, max_bytes)
        elif layer == "zstd":
            data = _zstd(data, max_bytes) if data.startswith(ZSTD_MAGIC) else data
        elif layer == "br":
            data = _brotli(data, max_bytes)
    return data


def _inflated(data: bytes, bits: int, max_bytes: int) -> bytes:
    """A zlib stream, or several gzip members one after the other."""
    new = partial(zlib.decompressobj, bits)
    return _undone(data, max_bytes, new=new, fault=zlib.error, magic=GZIP_MAGIC)


def _undone(
    data: bytes,
    max_bytes: int,
    *,
    new: Callable[[], Any],
    fault: type[Exception],
    magic: bytes,
) -> bytes:
    """One or more streams, each by a `new` decompressor; further ones begin with `magic`.

    Fed in small pieces, because decompressors copy the rest of the input at the end of a stream.
    """
    parts, size, position = [], 0, 0
    for _ in _members():
        if position == len(data):
            break
        stream = new()
        while not stream.eof:
            takes_input = getattr(stream, "needs_input", True)  # zlib's always does
            piece = data[position : position + FEED] if takes_input else b""
            if takes_input and not piece:
                raise ValueError("the stream breaks off")
            try:
                part = stream.decompress(piece, max_bytes - size + 1)
            except fault as error:
                raise ValueError(str(error)) from None
            size += len(part)
            if size > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes")
            parts.append(part)
            position += len(piece)
        position -= len(stream.unused_data)
        if not data.startswith(magic, position):
            break
    return b"".join(parts)


def _deflated(data: bytes, max_bytes: int) -> bytes:
    """Deflate with a zlib header (the standard) or without one (as many servers send it)."""
    if len(data) > 1 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0:
        return _inflated(data, 15, max_bytes)
    try:
        return _inflated(data, -15, max_bytes)
    except TooLarge:
        raise
    except ValueError:
        return data  # declared as deflate, but not compressed


def _zstd(data: bytes, max_bytes: int) -> bytes:
    """One or more zstd frames."""
    new, fault = zstd.ZstdDecompressor, zstd.ZstdError
    return _undone(data, max_bytes, new=new, fault=fault, magic=ZSTD_MAGIC)


def _members() -> Iterator[int]:
    """Numbers up to MAX_MEMBERS, then ValueError: empty members cost time and add no bytes."""
    yield from range(MAX_MEMBERS)
    raise ValueError(f"more than {MAX_MEMBERS} members")


def _brotli(data: bytes, max_bytes: int) -> bytes:
    try:
        brotli: Any = importlib.import_module("brotli")
    except ImportError:
        raise ValueError("brotli is not installed") from None
    stream = brotli.Decompressor()
    parts, size = [], 0
    try:
        given = data
        while not stream.is_finished():
            parts.append(stream.process(given, output_buffer_limit=PIECE))
            given = b""
            size += len(parts[-1])
            if size > max_bytes:
                raise TooLarge(f"more than {max_bytes} bytes")
            if stream.can_accept_more_data() and not parts[-1]:
                break
    except brotli.error:
        if not size:
            return data  # declared as brotli, but not compressed
        raise ValueError("the stream is damaged") from None
    if not stream.is_finished():
        raise ValueError("the stream breaks off")
    return b"".join(parts)
