"""Decode the bytes of a web page: undo HTTP's encodings of the body, then decode its characters.

Neither step guesses: a body that is still compressed is refused, and a page with a few broken bytes
(crawlers cut pages at a fixed length) keeps its encoding, with U+FFFD for each broken byte, instead
of being read in another encoding that accepts every byte.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from fastwarc.stream_io import BrotliReader
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
MAX_LAYERS = 4  # real servers use at most two; more is likely a bomb
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]+)[ \t]*(;[^\r\n]*)?\r?\n")
ODD_SIZE = re.compile(rb"[ \t]*[-+]?(0[xX])?[0-9a-fA-F]+h?[ \t]*(;[^\r\n]*)?\r?\n")
BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
ASCII = bytes(range(128))
MIN_UTF8_SHARE = 10  # valid multi-byte characters per broken byte to assume an undeclared UTF-8
HEAD_BYTES = 2048  # of a page, where it declares its encoding (WHATWG: the first 1,024)
CHARSET = re.compile(rb"charset\s*=", re.IGNORECASE)
XML_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
NO_MARKUP = re.compile(rb"<!--.*?(?:-->|\Z)|<script\b.*?(?:</script|\Z)", re.IGNORECASE | re.DOTALL)
LATE_HEAD_BYTES = 1 << 16  # a head with styles and scripts; browsers read all of it
CHARSET_NAME = re.compile(rb"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
MAX_BROKEN_SHARE = 4  # at more than one broken byte in this many above ASCII, no encoding fits


class BodyError(ValueError):
    """A body whose encodings cannot be undone."""


class BodyTooLarge(ValueError):
    """A body that expands beyond the limit."""


def decoded_body(headers: dict[str, str], body: bytes, *, limit: int) -> bytes:
    """The body without transfer and content encodings, undone in reverse order (RFC 9110, 8.4).

    Many archives store the decoded body with its original headers, so a body that does not look
    encoded is used as it is. A truncated body gives its beginning. BodyError for one that is
    damaged, still compressed at the end, or in an unknown encoding; BodyTooLarge over `limit`
    bytes.
    """
    transfer = _names(headers.get("transfer-encoding", ""))
    content = _names(headers.get("content-encoding", ""))
    if len(transfer) + len(content) > MAX_LAYERS:
        raise BodyError(f"{len(transfer) + len(content)} encodings, at most {MAX_LAYERS}")
    for name in [*reversed(transfer), *reversed(content)]:
        body = _without(name, body, limit)
    if body.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
        said = ", ".join([*content, *transfer]) or "none"
        raise BodyError(f"the body is compressed, but not by the encodings of its headers ({said})")
    if len(body) > limit:
        raise BodyTooLarge(f"over {limit} bytes")
    return body


def _names(header: str) -> list[str]:
    return [name for word in header.split(",") if (name := word.partition(";")[0].strip().lower())]


def _without(name: str, body: bytes, limit: int) -> bytes:
    if name == "chunked":
        if CHUNK_SIZE.match(body):
            return _dechunked(body)
        if ODD_SIZE.match(body):
            raise BodyError(
                f"the chunked body begins with {body[:20]!r}, which is not a chunk size"
            )
        return body
    if name in ("gzip", "x-gzip"):
        return _inflate(body, wbits=31, limit=limit) if body.startswith(GZIP_MAGIC) else body
    if name == "zstd":
        return _zstd(body, limit) if body.startswith(ZSTD_MAGIC) else body
    if name in ("deflate", "br", "compress", "x-compress") and _is_markup(body):
        return body
    if name == "deflate":
        # Both readings of "deflate" are in use: with the zlib header and without.
        with_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflate(body, wbits=15 if with_header else -15, limit=limit)
    if name == "br":
        return _brotli(body, limit)
    # Names that are not encodings ("none", "utf-8") occur too; the body is then plain text.
    if name == "identity" or _is_text(body):
        return body
    raise BodyError(f"unknown encoding {name!r}")


def _is_markup(body: bytes) -> bool:
    return body.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<")


def _is_text(body: bytes) -> bool:
    """Whether the first kilobyte has no control characters except white space."""
    head = body[:1024]
    return _is_markup(body) or not any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head)


def _dechunked(body: bytes) -> bytes:
    """The body without chunk sizes, extensions and trailer; a truncated one as far as it goes."""
    parts: list[bytes] = []
    position = 0
    while match := CHUNK_SIZE.match(body, position):
        size = int(match.group(1), 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[match.end() : match.end() + size])
        position = min(match.end() + size, len(body))
        position += 2 if body[position : position + 2] == b"\r\n" else body[position:][:1] == b"\n"
    if position < len(body) and b"\n" in body[position : position + 64]:
        raise BodyError(f"no chunk size at byte {position}")
    return b"".join(parts)


def _inflate(body: bytes, *, wbits: int, limit: int) -> bytes:
    try:
        data = zlib.decompressobj(wbits).decompress(body, limit + 1)
    except zlib.error as error:
        raise BodyError(str(error)) from error
    return _limited(data, limit)


def _zstd(body: bytes, limit: int) -> bytes:
    try:
        return _limited(zstd.ZstdDecompressor().decompress(body, limit + 1), limit)
    except zstd.ZstdError as error:
        raise BodyError(str(error)) from error


def _brotli(body: bytes, limit: int) -> bytes:
    reader: Any = BrotliReader(io.BytesIO(body))
    parts, size = [], 0
    try:
        while size <= limit and (part := reader.read(min(65536, limit + 1 - size))):
            parts.append(part)
            size += len(part)
    except OSError as error:
        raise BodyError(str(error)) from error
    return _limited(b"".join(parts), limit)


def _limited(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise BodyTooLarge(f"over {limit} bytes")
    return data


def decoded_text(body: bytes, *, charset: str | None) -> str:
    """The characters of a page: UTF-8 if valid, else as HTTP, the page or the bytes indicate.

    A byte order mark decides and is removed. Broken bytes become U+FFFD. UnicodeError when more
    than a quarter of the bytes above ASCII fit no encoding.
    """
    for mark, name in BOMS:
        if body.startswith(mark):
            body = body[len(mark) :]
            return body.decode(name, "replace") if "32" in name else _replaced(body, name)[0]
    if (escapes := _of_escapes(body, charset)) is not None:
        return body.decode(escapes, errors="replace")
    if b"\x00" in body and (wide := _wide(body, charset)) is not None:
        return _replaced(body, wide)[0]
    # ISO-2022 text is pure ASCII bytes with escapes, so it would pass for UTF-8.
    if b"\x1b" not in body:
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            whole, broken = _utf8_places(body)
            words = (_html5(charset), _late_word(body), detect_encoding(body, from_html_meta=True))
            says_utf8 = "utf-8" in words
            if whole and whole >= broken * (1 if says_utf8 else MIN_UTF8_SHARE):
                return body.decode("utf-8", errors="replace")
            if not whole and not _names_encoding(body, charset) and _is_mostly_ascii(body):
                return _replaced(body, "windows-1252")[0]
    best: tuple[int, str] | None = None
    for name in _candidates(body, charset):
        text, broken = _replaced(body, name)
        if not broken:
            return text
        if best is None or broken < best[0]:
            best = broken, text
    if best is None:
        raise UnicodeError("no encoding is declared or detected")
    above = _above_ascii(body)
    if best[0] > 3 and best[0] * MAX_BROKEN_SHARE > above:
        raise UnicodeError(f"{best[0]} of {above} bytes above ASCII fit no encoding")
    return best[1]


def fallen_through(body: bytes, *, charset: str | None) -> str:
    """The characters as earlier versions decoded them: cp1252 if one byte does not fit.

    Used only for the tiny pool, whose documents are pinned by checksums.
    """
    if b"\x1b" not in body:
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            pass
    named = _html5(charset) or detect_encoding(body, from_html_meta=True) or "utf-8"
    return str(bytes_to_str(body, named))


def _candidates(body: bytes, charset: str | None) -> Iterator[str]:
    """Encodings in order of trust: HTTP header, the page's own declaration, its bytes."""
    seen = set()
    for name in (
        _html5(charset),
        _late_word(body),
        detect_encoding(body, from_html_meta=True),
        detect_encoding(body),
        "utf-8",
    ):
        if name and name not in seen:
            seen.add(name)
            yield name


def _names_encoding(body: bytes, charset: str | None) -> bool:
    named = CHARSET.search(body[:HEAD_BYTES]) is not None or _late_word(body) is not None
    return named or _html5(charset) is not None


def _late_word(body: bytes) -> str | None:
    """The encoding that a page declares in XML or after its first two kilobytes.

    Browsers use both (HTML standard, 13.2.3.2, and 13.2.3.5 for a late `meta`), the latter only
    in the head, outside comments and scripts.
    """
    if CHARSET.search(body[:HEAD_BYTES]) is not None:
        return None
    match = XML_ENCODING.match(body)
    if match is None:
        head = NO_MARKUP.sub(b"", body[:LATE_HEAD_BYTES])
        end = head.lower().find(b"<body")
        match = META_CHARSET.search(head if end < 0 else head[:end])
    return None if match is None else _html5(match[1].decode("ascii", "replace"))


def _is_mostly_ascii(body: bytes) -> bool:
    """Whether bytes above ASCII are few, as the curly quotes and accents of Western text are.

    Without a valid UTF-8 character or a declaration, such a page is Windows-1252, which browsers
    assume (WHATWG Encoding). Text of other scripts is mostly bytes above ASCII.
    """
    return _above_ascii(body) * 10 < len(body)


def _html5(charset: str | None) -> str | None:
    return map_encoding_to_html5(charset, fallback_utf8=False) if charset else None


def _wide(body: bytes, charset: str | None) -> str | None:
    """UTF-16 without a byte order mark: declared, and many of every other byte are zero."""
    named = (charset or "").lower().replace("_", "-")
    if not named.startswith(("utf-16", "utf16", "unicode", "ucs-2")):
        return None
    head = body[:512]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 < len(head) // 2:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _of_escapes(body: bytes, charset: str | None) -> str | None:
    """An encoding that browsers no longer decode (they show U+FFFD) but Python does."""
    if b"\x1b$)C" in body[: 4 * HEAD_BYTES]:
        return "iso2022_kr"
    said = (charset or "").lower()
    if not said and (match := CHARSET_NAME.search(body[:HEAD_BYTES])):
        said = match.group(1).decode().lower()
    return "hz" if said in ("hz", "hz-gb-2312") and b"~{" in body else None


def _utf8_places(body: bytes) -> tuple[int, int]:
    """Counts of valid multi-byte characters and of broken places; one cut by the end is neither."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(body)
    # U+FFFD may be in the page itself, as three bytes; it counts as valid, not as broken.
    broken = text.count("\ufffd") - body.count(b"\xef\xbf\xbd")
    num_ascii = len(body) - _above_ascii(body)  # each is one character
    return len(text) - num_ascii - broken, broken


def _above_ascii(body: bytes) -> int:
    return len(body.translate(None, ASCII))


def _replaced(body: bytes, name: str) -> tuple[str, int]:
    """The text in an encoding, and how many broken places became U+FFFD in it.

    A character cut by the end of the page is replaced but not counted.
    """
    text = str(bytes_to_str(body, name, errors="replace", fallback_encodings=()))
    broken = text.count("\ufffd")
    return text, broken - text.endswith("\ufffd")
