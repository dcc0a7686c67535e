"""Read WARC and WET files: bytes in, one document or one rejection per page out.

Every `response` record (a page as the server sent it) and every `conversion` record (WET: text
extracted elsewhere) gives exactly one `Extracted`: with `text`, or with the `reason` why there is
none. So the counts add up: pages = documents + rejections.

The text of a page comes from resiliparse's plain-text extraction with `main_content=True`, the
extractor of DCLM-Pool (Li et al. 2024, DataComp-LM). Its settings there, strict UTF-8 and no
look at status or content type, are `ExtractOptions.reference()`; the defaults also keep pages in
other encodings and leave out error pages and other media.
"""

import re
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from resiliparse.extract.html2text import extract_plain_text

from pipelines.formats.inflate import Stream
from pipelines.formats.warc_page_bytes import (
    BodyError,
    BodyTooLarge,
    decoded_body,
    decoded_text,
    fallen_through,
)
from pipelines.formats.warc_records import Fault, Record, WarcBytes, records

MAX_INFO_BYTES = 1 << 20  # of a warcinfo record, kept even if max_body_bytes is smaller
HTML_TYPES = ("text/html", "application/xhtml+xml")

REASONS = (
    "broken_record",  # no record, or the file ends or is damaged here
    "too_large",  # the page is longer than max_body_bytes
    "not_http",  # a response record without an HTTP head
    "bad_status",  # an HTTP status outside keep_statuses
    "not_html",  # a content type outside content_types
    "bad_content_encoding",  # compression or chunks that cannot be undone
    "not_utf8",  # encoding="utf8_only" and the bytes are something else
    "undecodable",  # no encoding fits
    "not_parsable",  # the HTML parser gives up
    "empty",  # nothing but white space is left
)


class ExtractOptions(BaseModel):
    """How pages become text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extractor: Literal["resiliparse_main", "resiliparse_all", "trafilatura", "html"] = Field(
        default="resiliparse_main",
        description="main content only, all visible text, trafilatura (an optional package), or "
        "the HTML as it is, for the step extract_text",
    )
    encoding: Literal["replace", "detect", "utf8_only"] = Field(
        default="replace",
        description="each page's encoding with its broken bytes replaced; the same, but cp1252 for "
        "a page with a broken byte (the tiny pool is pinned to it); or UTF-8 and nothing else",
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
        """The settings of DCLM-Pool: strict UTF-8, any status, any type, raw bodies."""
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
    """A page gives no text: `reason` is one of REASONS, `detail` is for people."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def documents(stream: Stream, *, options: ExtractOptions) -> Iterator[Extracted]:
    """Yield one `Extracted` per page of a WARC or WET file, in file order.

    `stream` is a WARC file, plain, gzip or zstd. Bytes that are not a record are one
    `broken_record`, and the records after them follow; where the file is cut or a compressed
    member damaged, all records that end before that byte come out, and the rest is one
    `broken_record`. Raises ValueError when the file is not a WARC at all, and ImportError when
    `trafilatura` is asked for and not installed.
    """
    extractor = _extractor(options.extractor)
    source = WarcBytes(stream)
    warcinfo: str | None = None
    pending: Extracted | None = None  # a page waits until its member is known to be whole
    held_position = 0
    ended = False
    for record in records(source, max_block_bytes=max(options.max_body_bytes, MAX_INFO_BYTES)):
        if pending is not None and not (source.fault and held_position == source.member_start):
            yield pending
        pending = None
        if isinstance(record, Fault):
            if record.ends_file and source.fault:
                break  # the damage is in the stored bytes
            ended = record.ends_file
            yield _broken(source.stored_offset(record.position), record.detail, warcinfo)
            continue
        if record.type == "warcinfo":
            warcinfo = (record.block or b"").decode("utf-8", errors="replace")
        if record.type in ("response", "conversion"):
            offset = source.stored_offset(record.position)
            pending = _extracted(record, extractor, options, warcinfo=warcinfo, offset=offset)
            held_position = record.position
    if pending is not None and not (source.fault and held_position == source.member_start):
        yield pending
    if source.fault and not ended:
        yield _broken(source.member_offset, source.fault, warcinfo)


def _extracted(
    record: Record,
    extractor: Callable[[str], str],
    options: ExtractOptions,
    *,
    warcinfo: str | None,
    offset: int,
) -> Extracted:
    text, reason, detail = None, None, None
    try:
        if record.block is None or record.num_bytes > options.max_body_bytes:
            raise RejectedError("too_large", f"{record.num_bytes} bytes")
        if record.type == "conversion":
            text = _decode(record.block, charset=None, options=options)
        else:
            text = extractor(page(record.block, options=options))
        if not options.keep_empty and not text.strip():
            raise RejectedError("empty")
    except RejectedError as rejection:
        text, reason, detail = None, rejection.reason, rejection.detail
    url = record.get("warc-target-uri")
    return Extracted(
        text=text,
        reason=reason,
        detail=detail,
        # wget writes <URL>, as the standard's grammar had it by mistake
        url=url[1:-1] if url and url[0] == "<" and url[-1] == ">" else url,
        headers=record.headers,
        warcinfo=warcinfo,
        offset=offset,
    )


def _broken(offset: int, detail: str, warcinfo: str | None) -> Extracted:
    return Extracted(
        text=None,
        reason="broken_record",
        detail=detail,
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
    if options.decode_body:
        try:
            body = decoded_body(headers, body, limit=options.max_body_bytes)
        except BodyTooLarge as error:
            raise RejectedError("too_large", str(error)) from None
        except BodyError as error:
            raise RejectedError("bad_content_encoding", str(error)) from None
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
    if name == "html":
        return lambda html: html

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
    if options.encoding == "utf8_only":
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RejectedError("not_utf8", f"byte {error.start}") from error
    try:
        if options.encoding == "detect":
            return fallen_through(body, charset=charset)
        return decoded_text(body, charset=charset)
    except (LookupError, UnicodeError) as error:
        raise RejectedError("undecodable", str(error)) from error


LISTS = ("content-encoding", "transfer-encoding")


def _http(block: bytes) -> tuple[int, dict[str, str], bytes]:
    """Split an HTTP response into status, headers (lower-case names) and body.

    Of a header that occurs twice the first counts; lists of encodings are joined (RFC 9110, 5.3).
    """
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
            name, value = name.strip().lower(), value.strip()
            if name in LISTS and name in headers:
                value = f"{headers[name]}, {value}"
                headers[name] = value
            headers.setdefault(name, value)
    return int(status.group(1)), headers, block[end.end() :] if end else b""
