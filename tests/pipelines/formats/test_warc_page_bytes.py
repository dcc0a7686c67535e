"""Which encoding a page is read as, where its bytes and its words disagree."""

from __future__ import annotations

import pytest

from pipelines.formats.warc_page_bytes import decoded_text

PAGE = (
    b"Hello there, this is a page of plain text. Let\x92s say that it has one quotation mark. " * 3
)


@pytest.mark.parametrize("charset", [None, "default", "none"])
def test_few_bytes_above_ascii_with_nothing_named_are_windows_1252(charset: str | None) -> None:
    assert "Let\u2019s say" in decoded_text(PAGE, charset=charset)


def test_a_named_encoding_is_kept_though_a_byte_does_not_fit() -> None:
    assert "Let\ufffds say" in decoded_text(PAGE, charset="utf-8")
    named = b'<meta charset="utf-8">' + PAGE
    assert "Let\ufffds say" in decoded_text(named, charset=None)


def test_one_whole_utf8_character_shows_utf8() -> None:
    assert "caf\u00e9 Let\ufffds" in decoded_text("café ".encode() + PAGE[43:], charset=None)


@pytest.mark.parametrize(
    ("codec", "charset"),
    [
        ("hz", "hz-gb-2312"),
        ("iso2022_kr", "iso-2022-kr"),
        ("iso2022_kr", None),
        ("utf-32", "utf-32"),
    ],
)
def test_encodings_that_browsers_gave_up_are_read(codec: str, charset: str | None) -> None:
    text = "<p>한국어 페이지.</p>" if codec == "iso2022_kr" else "<p>这是中文网页。</p>"
    assert decoded_text(text.encode(codec), charset=charset) == text
    assert decoded_text(b"<meta charset=hz>" + "中文".encode("hz"), charset=None).endswith("中文")
