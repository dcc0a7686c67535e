"""WARC files as crawlers write them: odd encodings, lengths, headers, and bytes between."""

from __future__ import annotations

import gzip

import pytest
import zstandard

from pipelines.formats.warc import ExtractOptions
from tests.pipelines.formats.made_up_warc import html, http, only, read, record

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


PAGE = http(html("the first line\r\n the second line" + " of a page" * 20))


def stored(records: list[bytes], kind: str) -> bytes:
    if kind == "a member each":
        return b"".join(map(gzip.compress, records))
    return gzip.compress(b"".join(records)) if kind == "one member" else b"".join(records)


@pytest.mark.parametrize("kind", ["plain", "one member", "a member each"])
@pytest.mark.parametrize("wrong", [*range(-64, 5), 7, 30, 64])
def test_a_length_that_is_wrong_by_a_few_bytes_is_corrected_by_the_next_record(
    wrong: int, kind: str
) -> None:
    if wrong > 4 and kind == "a member each":
        pytest.skip("a length beyond its member: a test of its own")
    parts = [record(PAGE, length=len(PAGE) + wrong), record(http(html("two")))]
    [whole] = read(record(PAGE))
    pages = read(stored(parts, kind))
    assert [page.text for page in pages] == [whole.text, "two"]


@pytest.mark.parametrize("kind", ["plain", "one member", "a member each"])
@pytest.mark.parametrize("left", [0, 1, 39, 70, len(PAGE) - 65])
def test_a_length_that_is_too_short_costs_its_page_and_no_other(left: int, kind: str) -> None:
    parts = [record(http(html("one"))), record(PAGE, length=left), record(http(html("two")))]
    pages = read(stored(parts, kind))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]
    assert pages[1].detail is not None
    more = len(PAGE) + len(b"\r\n\r\n") - left
    assert f"length is {left} bytes, but {more} more come before the next" in pages[1].detail
    assert (
        pages[1].offset
        == {
            "plain": len(parts[0]),
            "one member": 0,
            "a member each": len(gzip.compress(parts[0])),
        }[kind]
    )


def test_a_page_that_is_cut_at_any_byte_by_its_length_is_never_taken_in_silence() -> None:
    [whole] = read(record(PAGE))
    for length in range(len(PAGE)):
        pages = read(record(PAGE, length=length) + record(http(html("two"))))
        assert pages[-1].text == "two", length
        assert pages[0].text == whole.text or any(page.reason for page in pages), length
        assert all(page.text in (whole.text, "two", None) for page in pages), length


def test_a_length_that_is_too_short_in_the_last_record_is_seen() -> None:
    for ending in (b"", b"\r\n", b"\r\n\r\n"):
        data = record(PAGE, length=30).removesuffix(b"\r\n\r\n") + ending
        [page] = read(data)
        assert page.reason == "broken_record"


def test_a_length_that_reaches_into_the_next_record_costs_its_own_page() -> None:
    parts = [record(PAGE, length=len(PAGE) + 120), record(http(html("two" * 100)))]
    pages = read(b"".join(parts))
    assert [page.reason or page.text for page in pages] == ["broken_record", "two" * 100]
    assert "116 of them are of the next record" in str(pages[0].detail)


def test_a_too_short_length_of_a_record_beyond_the_size_limit_is_bounded_and_seen() -> None:
    options = ExtractOptions(max_body_bytes=1 << 20)
    block = http(html("long " * 500_000))
    for length in (len(block) - 5000, len(block) - 5, len(block)):
        pages = read(record(block, length=length) + record(http(html("two"))), options)
        expected = "broken_record" if length < len(block) - 64 else "too_large"
        assert [page.reason or page.text for page in pages] == [expected, "two"]


def test_members_without_line_ends_after_their_records_are_read() -> None:
    parts = [record(http(html(text))).removesuffix(b"\r\n\r\n") for text in ("one", "two")]
    short = record(PAGE, length=9).removesuffix(b"\r\n\r\n")
    pages = read(stored([parts[0], short, parts[1]], "a member each"))
    assert [page.reason or page.text for page in pages] == ["one", "broken_record", "two"]


def test_bare_line_feeds_end_headers_of_records_too() -> None:
    data = record(http(html("bare"))).replace(b"\r\n", b"\n", 4)
    assert [page.text for page in read(data)] == ["bare"]


def test_zeros_behind_the_last_member_are_padding() -> None:
    data = gzip.compress(record(http(html("one")))) + bytes(100_000)
    assert [page.reason or page.text for page in read(data)] == ["one"]


def test_zstd_file_of_a_frame_per_record_is_read() -> None:
    data = b"".join(zstandard.compress(record(http(html(text)))) for text in ("one", "two"))
    assert [page.text for page in read(data)] == ["one", "two"]
