"""WARC bytes to documents: what comes out, what is rejected and why, and damaged files."""

from __future__ import annotations

import gzip
import json
import re
import sys
import zlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from pydantic import ValidationError

from pipelines.formats.warc import REASONS, Extracted, ExtractOptions, documents, html_to_text
from tests.pipelines.formats.made_up_warc import OPTIONS, html, http, only, read, record


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
