"""Read WARC and WET files: bytes in, one document or one rejection per page out.

Every `response` record (a page as the server sent it) and every `conversion` record (WET: text
that somebody else extracted) gives exactly one `Extracted`: with `text`, or with the `reason` why
there is none. So the counts add up: pages = documents + rejections.

The text of a page comes from resiliparse's plain-text extraction with `main_content=True`, the
extractor behind DCLM-Pool (Li et al. 2024, DataComp-LM). Its settings there, strict UTF-8 and no
look at status or content type, are `ExtractOptions.reference()`; the defaults also keep pages in
other encodings and leave out error pages and other media.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

from fastwarc.stream_io import BrotliReader, ChunkedReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from pydantic import BaseModel, ConfigDict, Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from pipelines.formats.inflate import Inflated, Stream

HTML_TYPES = ("text/html", "application/xhtml+xml")

REASONS = (
    "broken_record",  # the file ends or is damaged here; nothing after it can be read
    "too_large",  # the page is longer than max_body_bytes
    "not_http",  # a response record without an HTTP head
    "bad_status",  # an HTTP status outside keep_statuses
    "not_html",  # a content type outside content_types
    "bad_content_encoding",  # gzip, brotli or chunks that cannot be undone
    "not_utf8",  # encoding="utf8_only" and the bytes are something else
    "undecodable",  # encoding="detect" and no encoding fits
    "not_parsable",  # the HTML parser gives up
    "empty",  # nothing but white space is left
)


class ExtractOptions(BaseModel):
    """How pages become text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: Literal["resiliparse_main", "resiliparse_all", "trafilatura"] = Field(
        default="resiliparse_main",
        description="main content only, all visible text, or trafilatura (an optional package)",
    )
    encoding: Literal["detect", "utf8_only"] = Field(
        default="detect",
        description="find out each page's encoding, or reject all that is not UTF-8",
    )
    keep_statuses: tuple[int, ...] | None = Field(
        default=(200,), description="HTTP statuses to keep; null keeps every status"
    )
    content_types: tuple[str, ...] | None = Field(
        default=HTML_TYPES,
        description="content types to keep (absent counts as HTML); null keeps all",
    )
    keep_empty: bool = Field(
        default=False, description="give documents without any text instead of `empty`"
    )
    decode_body: bool = Field(
        default=True,
        description="undo chunks and compression; the reference leaves both in the text",
    )
    max_body_bytes: int = Field(
        default=32 * 2**20,
        ge=1,
        description="longest page, in bytes after undoing its content encoding",
    )

    @classmethod
    def reference(cls) -> "ExtractOptions":
        """The choices made for DCLM-Pool: strict UTF-8, any status, any type, raw bodies."""
        return cls(
            encoding="utf8_only",
            keep_statuses=None,
            content_types=None,
            keep_empty=True,
            decode_body=False,
        )


class Extracted(BaseModel):
    """One page of a WARC file: `text`, or the `reason` why it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = Field(description="extracted text; null for a rejection")
    reason: str | None = Field(description="one of REASONS; null for a document")
    detail: str | None = Field(default=None, description="what was found, for a person to read")
    url: str | None = Field(description="WARC-Target-URI")
    headers: dict[str, str] = Field(description="the record's WARC headers")
    warcinfo: str | None = Field(description="body of the last warcinfo record before this one")
    offset: int = Field(
        ge=0, description="byte in the file where the record (its gzip member) begins"
    )


class RejectedError(Exception):
    """Why a page gives no text: a word of REASONS, and what was found."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def documents(stream: Stream, *, options: ExtractOptions) -> Iterator[Extracted]:
    """Yield one `Extracted` per page of a WARC or WET file, in file order.

    `stream` is a WARC file, plain or gzip. Where the file is cut or damaged, all records that end
    before that byte come out, and the rest is one `broken_record`. Raises ValueError when the file
    is no WARC at all, and ImportError when `trafilatura` is asked for and not installed.
    """
    extractor = _extractor(options.extractor)
    source = _Bytes(stream)
    warcinfo: str | None = None
    held: Extracted | None = None  # a page waits until its gzip member is known to be whole
    held_position: int | None = None
    fault: str | None = None
    fault_position: int | None = None

    records = iter(_records(source))
    while True:
        try:
            record = next(records, None)
        except OSError as error:  # what fastwarc raises at a malformed record
            fault = str(error)
            break
        if record is None:
            break
        if held is not None:
            yield held
            held = None
        held_position = record.stream_pos
        length = record.headers.get("Content-Length")
        if length is None or not length.isdigit():
            fault, fault_position = "the record's headers are incomplete", record.stream_pos
            break
        wanted = record.record_type in (WarcRecordType.response, WarcRecordType.conversion)
        is_page = wanted and int(length) <= options.max_body_bytes
        block, num_bytes = _read(
            record, keep=is_page or record.record_type == WarcRecordType.warcinfo
        )
        if num_bytes < int(length):
            fault = f"the record ends after {num_bytes} of {length} bytes"
            fault_position = record.stream_pos
            break
        if record.record_type == WarcRecordType.warcinfo:
            warcinfo = block.decode("utf-8", errors="replace")
        if not wanted:
            continue
        headers = dict(record.headers.items())  # to_dict has an order of its own in every process
        text, reason, detail = None, None, None
        try:
            if not is_page:
                raise RejectedError("too_large", f"{length} bytes")
            if record.record_type == WarcRecordType.conversion:
                text = _decode(block, charset=None, options=options)
            else:
                text = extractor(page(block, options=options))
            if not options.keep_empty and not text.strip():
                raise RejectedError("empty")
        except RejectedError as rejection:
            text, reason, detail = None, rejection.reason, rejection.detail
        held = Extracted(
            text=text,
            reason=reason,
            detail=detail,
            url=headers.get("WARC-Target-URI"),
            headers=headers,
            warcinfo=warcinfo,
            offset=source.stored_offset(record.stream_pos),
        )

    fault = source.fault or fault
    if held is not None and not (source.fault and held_position == source.member_start):
        yield held
    if fault is not None:
        if source.fault:
            offset = source.member_offset
        else:
            last = fault_position if fault_position is not None else held_position or 0
            offset = source.stored_offset(last)
        yield Extracted(
            text=None,
            reason="broken_record",
            detail=fault,
            url=None,
            headers={},
            warcinfo=warcinfo,
            offset=offset,
        )


def page(block: bytes, *, options: ExtractOptions) -> str:
    """Turn the block of a response record (HTTP head and body) into a page's HTML.

    Raises RejectedError.
    """
    status, headers, body = _http(block)
    if options.keep_statuses is not None and status not in options.keep_statuses:
        raise RejectedError("bad_status", str(status))
    content_type, _, parameters = headers.get("content-type", "").partition(";")
    content_type = content_type.strip().lower()
    if options.content_types is not None and content_type not in ("", *options.content_types):
        raise RejectedError("not_html", content_type)
    if options.decode_body and ("transfer-encoding" in headers or "content-encoding" in headers):
        body = _decoded_body(headers, body, limit=options.max_body_bytes)
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE)
    return _decode(body, charset=charset.group(1) if charset else None, options=options)


def html_to_text(html: str, *, options: ExtractOptions) -> str:
    """Extract the text of one page's HTML as `options.extractor` says. Raises RejectedError."""
    extractor = _extractor(options.extractor)
    return extractor(html)


def _extractor(name: str) -> Callable[[str], str]:
    if name == "trafilatura":
        try:
            from trafilatura import extract
        except ImportError as error:
            raise ImportError(
                "extractor 'trafilatura' needs the package trafilatura, which is not installed; "
                "install it, or use 'resiliparse_main'"
            ) from error
        return lambda html: extract(html) or ""

    def text(html: str) -> str:
        try:
            return str(extract_plain_text(html, main_content=name == "resiliparse_main"))
        except Exception as error:
            # resiliparse's HTMLParserException has no public home to import it from.
            if type(error).__name__ != "HTMLParserException":
                raise
            raise RejectedError("not_parsable", str(error)) from error

    return text


def _decode(body: bytes, *, charset: str | None, options: ExtractOptions) -> str:
    """Bytes to text: UTF-8 if they are UTF-8, else as HTTP, the page or its bytes say."""
    # ISO-2022 text is pure ASCII bytes with escapes, so it would pass for UTF-8.
    escapes = options.encoding == "detect" and b"\x1b" in body
    if not escapes:
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError as error:
            if options.encoding == "utf8_only":
                raise RejectedError("not_utf8", f"byte {error.start}") from error
    found = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    found = found or detect_encoding(body, from_html_meta=True) or "utf-8"
    try:
        return bytes_to_str(body, found)
    except (LookupError, UnicodeError) as error:
        raise RejectedError("undecodable", str(error)) from error


def _http(block: bytes) -> tuple[int, dict[str, str], bytes]:
    """Split an HTTP response into status, headers (lower-case names, the first wins) and body."""
    if not block.startswith(b"HTTP/"):
        raise RejectedError("not_http")
    # Some crawlers store heads with bare line feeds.
    end = re.search(rb"\r?\n\r?\n", block)
    head = block[: end.start()] if end else block
    lines = head.decode("latin-1").splitlines()
    status = re.match(r"HTTP/[\d.]+\s+(\d{3})", lines[0])
    if status is None:
        raise RejectedError("not_http", lines[0][:80])
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return int(status.group(1)), headers, block[end.end() :] if end else b""


def _decoded_body(headers: dict[str, str], body: bytes, *, limit: int) -> bytes:
    """Undo chunked transfer, then gzip, deflate or brotli.

    Many archives store the plain body under its old headers; bytes that do not look encoded are
    taken as they are.
    """
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    if chunked and re.match(rb"[0-9a-fA-F]+[ \t]*(;[^\r\n]*)?\r?\n", body):
        body = _read_limited(ChunkedReader(io.BytesIO(body)), limit=limit)
    encoding = headers.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        body = _inflate(body, wbits=31, limit=limit)
    elif encoding == "deflate" and not body.lstrip().startswith(b"<"):
        # Both readings of "deflate" are in use: with the zlib header and without.
        with_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        body = _inflate(body, wbits=15 if with_header else -15, limit=limit)
    elif encoding == "br" and not body.lstrip().startswith(b"<"):
        body = _read_limited(BrotliReader(io.BytesIO(body)), limit=limit)
    if len(body) > limit:
        raise RejectedError("too_large", f"over {limit} bytes")
    return body


def _inflate(body: bytes, *, wbits: int, limit: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(body, limit + 1)
    except zlib.error as error:
        raise RejectedError("bad_content_encoding", str(error)) from error


def _read_limited(reader: Any, *, limit: int) -> bytes:
    parts, size = [], 0
    try:
        while size <= limit and (part := reader.read(min(65536, limit + 1 - size))):
            parts.append(part)
            size += len(part)
    except OSError as error:
        raise RejectedError("bad_content_encoding", str(error)) from error
    return b"".join(parts)


def _read(record: WarcRecord, *, keep: bool) -> tuple[bytes, int]:
    """Read a record's block to its end: the bytes, if they are to be kept, and their number."""
    parts, size = [], 0
    while part := record.reader.read(1 << 20):
        size += len(part)
        if keep:
            parts.append(part)
    return b"".join(parts), size


def _records(source: "_Bytes") -> Iterator[WarcRecord]:
    if source.is_empty:
        return iter(())
    return iter(
        ArchiveIterator(
            source, record_types=WarcRecordType.any_type, parse_http=False, stream_detect=False
        )
    )


class _Bytes(io.RawIOBase):
    """The plain bytes of a gzip or plain WARC file, read once from front to back.

    fastwarc reads a cut gzip file as if it just ended there, so members are inflated here: `fault`
    says what was wrong, `member_start` and `member_offset` where the last member begins, in plain
    and in stored bytes.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        head = stream.read(5)
        self.is_empty = not head
        self._stream = _Behind(head, stream)
        self._gzip = Inflated(self._stream, kind="gzip") if head[:1] == b"\x1f" else None
        self._position = 0
        if self._gzip is None and not b"WARC/".startswith(head):
            raise ValueError(
                f"not a WARC file: it begins with {head!r}, not with 'WARC/' or a gzip header; "
                "give a .warc, .warc.gz or .wet.gz file"
            )

    @property
    def fault(self) -> str | None:
        return None if self._gzip is None else self._gzip.fault

    @property
    def member_start(self) -> int:
        return 0 if self._gzip is None else self._gzip.members[-1][0]

    @property
    def member_offset(self) -> int:
        return 0 if self._gzip is None else self._gzip.members[-1][1]

    def stored_offset(self, position: int) -> int:
        """Where in the file the record at plain byte `position` begins."""
        return position if self._gzip is None else self._gzip.stored_offset(position)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        source: Any = self._stream if self._gzip is None else self._gzip
        data = source.read(65536 if size is None or size < 0 else size)
        self._position += len(data)
        return bytes(data)


class _Behind:
    """A stream again with the bytes that were read from its front."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int, /) -> bytes:
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head
        return self._stream.read(size)
