"""WARC bytes to documents: what comes out, what is rejected and why, and damaged files."""

import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from pydantic import ValidationError

from pipelines.formats.warc import REASONS, Extracted, ExtractOptions, documents, html_to_text

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


def test_document_carries_text_url_headers_warcinfo_and_offset() -> None:
    info = gzip.compress(record(b"software: a crawler\r\n", kind="warcinfo"))
    request = gzip.compress(record(b"GET / HTTP/1.1\r\n\r\n", kind="request"))
    page = gzip.compress(record(http(html("Hello there")), url="https://a.example/x"))
    assert read(info + request + page) == [
        Extracted(
            text="Hello there",
            reason=None,
            detail=None,
            url="https://a.example/x",
            headers={
                "WARC-Type": "response",
                "WARC-Target-URI": "https://a.example/x",
                "Content-Length": str(len(http(html("Hello there")))),
            },
            warcinfo="software: a crawler\r\n",
            offset=len(info) + len(request),
        )
    ]


def test_headers_keep_the_order_of_the_file() -> None:
    """Text that is written from them must be the same bytes in every process."""
    names = [f"X-{n}" for n in (3, 1, 4, 15, 9, 2, 6, 5)]
    head = "WARC/1.0\r\nWARC-Type: conversion\r\n" + "".join(f"{n}: v\r\n" for n in names)
    [pages] = read(gzip.compress(f"{head}Content-Length: 4\r\n\r\ntext\r\n\r\n".encode()))
    assert list(pages.headers) == ["WARC-Type", *names, "Content-Length"]


def test_warcinfo_is_the_last_one_before_the_page() -> None:
    parts = [
        record(http(html("no warcinfo yet"))),
        record(b"first", kind="warcinfo"),
        record(http(html("under the first"))),
        record(b"second", kind="warcinfo"),
        record(http(html("under the second"))),
    ]
    pages = read(b"".join(map(gzip.compress, parts)))
    assert [page.warcinfo for page in pages] == [None, "first", "second"]


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (http(html("fine")), None),
        (http(html("gone"), status="404 Not Found"), "bad_status"),
        (http(b"\x89PNG", content_type="image/png"), "not_html"),
        (http(html("no type given"), content_type=None), None),
        (http(html("other type"), content_type="Application/XHTML+xml; charset=utf-8"), None),
        (http(b"<html><body> </body></html>"), "empty"),
        (http(b""), "empty"),
        (b"not an answer of a web server", "not_http"),
        (b"HTTP/1.1 what\r\n\r\nbody", "not_http"),
        (
            http(b"\x1f\x8bnot gzip at all", extra="Content-Encoding: gzip\r\n"),
            "bad_content_encoding",
        ),
    ],
)
def test_page_is_kept_or_rejected_for_a_reason(block: bytes, reason: str | None) -> None:
    text, actual_reason = only(block)
    assert actual_reason == reason
    assert (text is None) == (reason is not None)
    assert reason is None or reason in REASONS


def test_reference_options_keep_errors_other_media_and_empty_pages_but_only_utf8() -> None:
    options = ExtractOptions.reference()
    assert only(http(html("gone"), status="404 Not Found"), options) == ("gone", None)
    assert only(http(html("text"), content_type="text/plain"), options) == ("text", None)
    assert only(http(b"<html></html>"), options) == ("", None)
    assert only(http("<p>é</p>".encode("latin-1")), options) == (None, "not_utf8")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<p>Größe, Straße, Übung</p>".encode(), "text/html"),
        ("<p>Größe, Straße, Übung</p>".encode("latin-1"), "text/html; charset=ISO-8859-1"),
        ("<p>Größe, Straße, Übung</p>".encode("latin-1"), 'text/html; charset="latin1"'),
        (
            "<meta charset=iso-8859-15><p>Größe, Straße, Übung</p>".encode("latin-1"),
            "text/html",
        ),
        # A wrong label on a page that is UTF-8 does no harm.
        ("<p>Größe, Straße, Übung</p>".encode(), "text/html; charset=windows-1252"),
        ("<p>Größe, Straße, Übung</p>".encode("latin-1"), "text/html; charset=nonsense"),
    ],
)
def test_detect_reads_western_encodings(body: bytes, content_type: str) -> None:
    assert only(http(body, content_type=content_type)) == ("Größe, Straße, Übung", None)


@pytest.mark.parametrize("name", ["shift_jis", "euc-jp", "iso-2022-jp"])
def test_detect_reads_declared_japanese(name: str) -> None:
    text = "これは日本語の文章です。"
    body = f"<p>{text}</p>".encode(name)
    assert only(http(body, content_type=f"text/html; charset={name}")) == (text, None)


def test_head_with_bare_line_feeds_is_read() -> None:
    block = b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + html("bare")
    assert only(block) == ("bare", None)


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (gzip.compress(html("encoded"), mtime=0), "Content-Encoding: gzip\r\n"),
        (zlib.compress(html("encoded")), "Content-Encoding: deflate\r\n"),
        (zlib.compress(html("encoded"))[2:-4], "Content-Encoding: deflate\r\n"),
        (
            b"28\r\n" + html("encoded").ljust(40) + b"\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n",
        ),
        # Archives often keep the heads of a body that they have decoded.
        (html("encoded"), "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
    ],
)
def test_content_encoding_is_undone(body: bytes, extra: str) -> None:
    assert only(http(body, extra=extra)) == ("encoded", None)


def test_page_at_the_size_limit_is_kept_and_one_byte_more_is_not() -> None:
    block = http(html("size"))
    assert only(block, ExtractOptions(max_body_bytes=len(block))) == ("size", None)
    assert only(block, ExtractOptions(max_body_bytes=len(block) - 1)) == (None, "too_large")


def test_compressed_body_that_expands_beyond_the_limit_is_too_large() -> None:
    bomb = http(gzip.compress(b" " * 5_000_000), extra="Content-Encoding: gzip\r\n")
    assert len(bomb) < 10_000
    assert only(bomb, ExtractOptions(max_body_bytes=1_000_000)) == (None, "too_large")


def test_wet_conversion_records_give_their_text_as_it_is() -> None:
    [pages] = read(gzip.compress(record("schon Text: ä\n".encode(), kind="conversion")))
    assert (pages.text, pages.reason) == ("schon Text: ä\n", None)


def test_all_visible_text_is_more_than_main_content() -> None:
    page = "<body><nav><a href=/>Home</a></nav><main><p>The article.</p></main></body>"
    everything = html_to_text(page, options=ExtractOptions(extractor="resiliparse_all"))
    assert html_to_text(page, options=OPTIONS) == "The article."
    assert "Home" in everything
    assert "The article." in everything


def test_missing_trafilatura_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(ImportError, match="needs the package trafilatura"):
        read(gzip.compress(record(http(html("x")))), ExtractOptions(extractor="trafilatura"))


def test_reference_leaves_chunk_sizes_in_the_text() -> None:
    body = b"28\r\n" + html("encoded").ljust(40) + b"\r\n0\r\n\r\n"
    text, _ = only(http(body, extra="Transfer-Encoding: chunked\r\n"), ExtractOptions.reference())
    assert text is not None
    assert text.split() == ["28", "encoded", "0"]


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError):
        ExtractOptions.model_validate({"extractor": "justext"})


RECORDS = [
    record(b"software: test\r\n", kind="warcinfo"),
    record(http(html("one"))),
    record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
    record(http(html("two"))),
    record(http(html("three"), status="500 Oops")),
    record(http(html("four"))),
]
PAGES = {1: "one", 3: "two", 4: "bad_status", 5: "four"}


@pytest.mark.parametrize("compressed", [True, False])
def test_file_cut_anywhere_gives_what_ends_before_and_one_broken_record(compressed: bool) -> None:
    parts = [gzip.compress(part) for part in RECORDS] if compressed else RECORDS
    ends = [sum(map(len, parts[: i + 1])) for i in range(len(parts))]
    # In a plain file the two line ends after a record carry nothing: it is whole without them.
    slack = 0 if compressed else 4
    data = b"".join(parts)
    for size in range(len(data) + 1):
        whole = [i for i, end in enumerate(ends) if end - slack <= size]
        expected = [PAGES[i] for i in whole if i in PAGES]
        begun = size > (ends[len(whole) - 1] if whole else 0)
        if begun:
            expected.append("broken_record")
        pages = read(data[:size])
        assert [page.reason or page.text for page in pages] == expected, f"cut at {size}"
        if begun and compressed:
            assert pages[-1].offset == (ends[len(whole) - 1] if whole else 0), f"cut at {size}"


def test_one_gzip_member_around_many_records_is_read_and_may_be_cut() -> None:
    data = gzip.compress(b"".join(RECORDS), compresslevel=0)
    assert [page.reason or page.text for page in read(data)] == list(PAGES.values())
    pages = read(data[:-120])
    assert [page.reason or page.text for page in pages] == [
        "one",
        "two",
        "bad_status",
        "broken_record",
    ]


def test_damaged_member_ends_the_file_with_one_broken_record() -> None:
    parts = [gzip.compress(part) for part in RECORDS]
    start = len(parts[0]) + len(parts[1]) + len(parts[2])
    data = bytearray(b"".join(parts))
    data[start + 12] ^= 0xFF
    data[start + 30] ^= 0xFF
    pages = read(bytes(data))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record"]
    assert pages[-1].offset == start


def test_record_that_claims_more_than_it_has_is_broken() -> None:
    pages = read(record(http(html("short")), length=100_000))
    assert [page.reason for page in pages] == ["broken_record"]
    assert pages[0].detail is not None
    assert "of 100000 bytes" in pages[0].detail


def test_empty_file_has_no_pages() -> None:
    assert read(b"") == []


def test_something_else_is_no_warc_file() -> None:
    with pytest.raises(ValueError, match="not a WARC file: it begins with b'<html'"):
        read(b"<html><body>page</body></html>")


# Real files


def warc_files(data: Path) -> list[Path]:
    files = sorted((data / "warc").glob("*.warc.gz"))
    if not files:
        pytest.skip(f"no WARC files below {data}")
    return files


def num_responses(path: Path) -> int:
    with path.open("rb") as stream:
        records = ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=False)
        return sum(1 for _ in records)


def test_every_response_of_real_files_is_counted_once(data: Path) -> None:
    for path in warc_files(data):
        with path.open("rb") as stream:
            actual = Counter(
                page.reason or "document" for page in documents(stream, options=OPTIONS)
            )
        assert actual.total() == num_responses(path), path.name
        assert actual["document"] + actual["broken_record"] == actual.total(), (path.name, actual)


@pytest.mark.parity
def test_text_equals_the_recorded_text_of_this_resiliparse(fixtures: Path) -> None:
    files = sorted(fixtures.glob("*/extraction.jsonl.gz"))
    if not files:
        pytest.skip(f"no extraction.jsonl.gz below {fixtures}")
    key = f"text_resiliparse_{version('resiliparse')}"
    compared = 0
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                if key in row:
                    assert html_to_text(row["html"], options=OPTIONS) == row[key], row["src"]
                    compared += 1
    if not compared:
        pytest.skip(f"no recorded text of resiliparse {version('resiliparse')}")


@pytest.mark.parity
def test_pages_of_a_warc_equal_the_recorded_text(fixtures: Path, data: Path) -> None:
    """`src` is warc:FILE#N, the N-th response of a file."""
    files = sorted(fixtures.glob("*/extraction.jsonl.gz"))
    key = f"text_resiliparse_{version('resiliparse')}"
    compared = 0
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        for row in rows:
            match = re.fullmatch(r"warc:(.+)#(\d+)", row["src"])
            if match is None or key not in row:
                continue
            warc = data / "warc" / match.group(1)
            if not warc.exists():
                continue
            with warc.open("rb") as stream:
                texts = {
                    page.text for page in documents(stream, options=ExtractOptions.reference())
                }
            assert row[key] in texts, row["src"]
            compared += 1
    if not compared:
        pytest.skip("no recorded text of a WARC that is here")


# Damage and habits of other crawlers

FRENCH = "Le café français était très agréable. "


def page_with(text: bytes, *, meta: str = "", content_type: str = "text/html") -> bytes:
    head = f'<meta charset="{meta}">' if meta else ""
    return http(f"<html>{head}<body><p>".encode() + text, content_type=content_type)


@pytest.mark.parametrize(
    ("meta", "content_type"),
    [
        ("", "text/html"),
        ("utf-8", "text/html"),
        ("", "text/html; charset=utf-8"),
        ("", "text/html; charset=iso-8859-1"),
        ("utf-8", "text/html; charset=iso-8859-1"),
    ],
)
def test_utf8_page_cut_inside_a_character_stays_utf8(meta: str, content_type: str) -> None:
    whole = (FRENCH * 3).encode()
    block = page_with(whole + "é".encode()[:1], meta=meta, content_type=content_type)
    assert only(block) == (f"{(FRENCH * 3)}\ufffd", None)


def test_one_stray_byte_in_a_declared_utf8_page_is_replaced() -> None:
    block = page_with(b"Stra\xc3\x9fe \xff end", content_type="text/html; charset=utf-8")
    assert only(block) == ("Straße \ufffd end", None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gbk", "这是一个中文网页，今天天气很好。"),
        ("big5", "這是一個中文網頁，今天天氣很好。"),
        ("euc-kr", "이것은 한국어 웹페이지입니다"),
        ("euc-jp", "これは日本語のページです。"),
        ("shift_jis", "これは日本語のページです。"),
    ],
)
def test_page_cut_inside_a_character_keeps_its_declared_encoding(name: str, text: str) -> None:
    block = page_with((text * 3).encode(name)[:-1], content_type=f"text/html; charset={name}")
    assert only(block) == ((text * 3)[:-1] + "\ufffd", None)


def test_latin_page_that_ends_with_a_letter_above_ascii_is_not_taken_for_utf8() -> None:
    block = page_with("un café".encode("latin-1"), content_type="text/html; charset=iso-8859-1")
    assert only(block) == ("un café", None)


def test_byte_order_mark_is_left_out_and_the_title_stays_in_the_head() -> None:
    body = "\ufeff<html><head><title>t</title></head><body><p>text</p></body></html>".encode()
    assert only(http(body)) == ("text", None)


def test_declared_utf16_without_a_mark_is_read() -> None:
    body = "<html><body><p>plain ascii</p></body></html>".encode("utf-16-le")
    assert only(http(body, content_type="text/html; charset=utf-16le")) == ("plain ascii", None)


def test_bytes_of_no_encoding_are_undecodable() -> None:
    body = b"<p>" + bytes([0x81, 0x8D, 0x8F, 0x90, 0x9D]) * 40
    text, reason = only(http(body, content_type="text/html; charset=windows-1252"))
    assert (text, reason) == (None, "undecodable")


def squeezed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # the names of tests hold the bytes, so no clock in them


PLAIN = html("encoded")


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (zstandard.compress(PLAIN), "Content-Encoding: zstd\r\n"),
        (squeezed(squeezed(PLAIN)), "Content-Encoding: gzip, gzip\r\n"),
        (zstandard.compress(squeezed(PLAIN)), "Content-Encoding: gzip, zstd\r\n"),
        (squeezed(PLAIN), "Transfer-Encoding: gzip\r\n"),
        (
            b"%x;foo=bar\r\n%s\r\n0\r\n\r\n" % (len(squeezed(PLAIN)), squeezed(PLAIN)),
            "Transfer-Encoding: gzip, chunked\r\n",
        ),
        (
            b"%x;name=value\r\n%s\r\n0\r\n\r\n" % (len(PLAIN), PLAIN),
            "Transfer-Encoding: chunked\r\n",
        ),
        (b"%x\r\n%s" % (len(PLAIN) + 99, PLAIN), "Transfer-Encoding: chunked\r\n"),  # cut
        (PLAIN, "Content-Encoding: utf-8\r\n"),
        (
            zstandard.compress(squeezed(PLAIN)),
            "Content-Encoding: gzip\r\nContent-Encoding: zstd\r\n",  # one list in two headers
        ),
        (b"f" * 16 + b"\r\n" + PLAIN, "Transfer-Encoding: chunked\r\n"),  # a size beyond memory
        (PLAIN, "Content-Encoding: zstd\r\n"),  # stored plain under its old headers
    ],
)
def test_stacked_and_new_encodings_are_undone(body: bytes, extra: str) -> None:
    assert only(http(body, extra=extra)) == ("encoded", None)


@pytest.mark.parametrize(
    ("body", "extra"),
    [
        (squeezed(PLAIN), ""),  # the server does not say so
        (squeezed(squeezed(PLAIN)), "Content-Encoding: gzip\r\n"),
        (bytes(range(32)) * 20, "Content-Encoding: sdch\r\n"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 30, "Content-Encoding: zstd\r\n"),
        (squeezed(PLAIN), "Content-Encoding: gzip, gzip, gzip, gzip, gzip\r\n"),
        (b"0x%x\r\n%s\r\n0\r\n\r\n" % (len(PLAIN), PLAIN), "Transfer-Encoding: chunked\r\n"),
        (b"-5\r\n" + PLAIN, "Transfer-Encoding: chunked\r\n"),
    ],
)
def test_body_that_stays_encoded_is_refused(body: bytes, extra: str) -> None:
    assert only(http(body, extra=extra)) == (None, "bad_content_encoding")


def test_header_names_have_no_case_and_wgets_brackets_are_no_part_of_the_url() -> None:
    block = http(html("lower"))
    head = "WARC/1.0\r\nwarc-type: response\r\nwarc-target-uri: <http://a.org/>\r\n"
    head += f"content-length: {len(block)}\r\n\r\n"
    [pages] = read(gzip.compress(head.encode() + block + b"\r\n\r\n"))
    assert (pages.url, pages.text) == ("http://a.org/", "lower")


def test_junk_between_records_costs_itself_and_is_placed() -> None:
    first, last = gzip.compress(record(http(html("one")))), gzip.compress(record(http(html("two"))))
    pages = read(first + gzip.compress(b"junk junk\r\n") + last)
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]
    assert pages[1].offset == len(first)


def test_length_beyond_its_member_costs_one_record() -> None:
    parts = [record(http(html("one"))), record(http(html("bad")), length=10**9)]
    parts.append(record(http(html("two"))))
    pages = read(b"".join(map(gzip.compress, parts)))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]
    assert pages[1].offset == len(gzip.compress(parts[0]))


def test_record_without_a_length_costs_itself() -> None:
    bad = b"WARC/1.0\r\nWARC-Type: response\r\n\r\n" + http(html("lost")) + b"\r\n\r\n"
    pages = read(record(http(html("one"))) + bad + record(http(html("two"))))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]


def test_a_length_that_no_file_has_costs_its_record_in_a_plain_file_too() -> None:
    bad = record(http(html("bad")), length=10**29)
    pages = read(record(http(html("one"))) + bad + record(http(html("two"))))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]


@pytest.mark.parametrize("less", [1, 2, 4])
def test_length_a_little_too_short_is_forgiven(less: int) -> None:
    block = http(html("one"))
    pages = read(record(block, length=len(block) - less) + record(http(html("two"))))
    assert [page.reason or page.text for page in pages] == ["one", "two"]


def test_bare_line_feeds_end_headers_of_records_too() -> None:
    data = record(http(html("bare"))).replace(b"\r\n", b"\n", 4)
    assert [page.text for page in read(data)] == ["bare"]


def test_zeros_behind_the_last_member_are_padding() -> None:
    data = gzip.compress(record(http(html("one")))) + bytes(100_000)
    assert [page.reason or page.text for page in read(data)] == ["one"]


def test_zstd_file_of_a_frame_per_record_is_read() -> None:
    data = b"".join(zstandard.compress(record(http(html(text)))) for text in ("one", "two"))
    assert [page.text for page in read(data)] == ["one", "two"]
