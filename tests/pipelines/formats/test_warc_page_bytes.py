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


RUSSIAN = "Привет, как дела у тебя сегодня? " * 5


@pytest.mark.parametrize(
    "head",
    [
        '<?xml version="1.0" encoding="windows-1251"?><html><body>',
        "<html><head><style>" + "a{}" * 1_000 + "</style><meta charset=windows-1251><body>",
        "<html><!--" + "x" * 3_000 + '--><meta content="text/html; charset=windows-1251"><body>',
    ],
)
def test_an_encoding_that_is_named_as_xml_or_late_in_the_head_is_taken(head: str) -> None:
    """Nothing tells one alphabet of single bytes from another but the page's own word."""
    page = head + RUSSIAN
    assert decoded_text(page.encode("windows-1251"), charset=None) == page


@pytest.mark.parametrize(
    "late",
    [
        "<!-- <meta charset=windows-1251> -->",
        "<script>'<meta charset=windows-1251>'</script>",
        "<body><meta charset=windows-1251>",
    ],
)
def test_what_is_in_a_comment_a_script_or_the_body_names_nothing(late: str) -> None:
    page = "<html><style>" + "a{}" * 1_000 + "</style>" + late + "<p>Un café très agréable, déjà."
    assert decoded_text(page.encode("windows-1252"), charset=None) == page


def test_the_first_kilobyte_and_http_come_before_what_is_late() -> None:
    page = '<?xml version="1.0" encoding="koi8-r"?><meta charset=windows-1251><p>' + RUSSIAN
    assert decoded_text(page.encode("windows-1251"), charset=None) == page
    page = '<?xml version="1.0" encoding="koi8-r"?><p>' + RUSSIAN
    assert decoded_text(page.encode("windows-1251"), charset="windows-1251") == page
